"""What goes wrong on the command line: one line, the right exit code, no leftovers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from visits import small_flags

from nde.cli import main
from nde.training.checkpoint import load_checkpoint
from nde.training.restore import restore


def refused(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal."""
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "lnsd"], ["'lnsd'", "did you mean 'lnsde'"]),
        (["--set", "optim.lrr=1"], ["'optim.lrr'", "did you mean 'optim.lr'"]),
        (["--regularizer", "local-eror=1"], ["did you mean 'local-error'"]),
        (["--regularizer", "local-error"], ["NAME=weight"]),
        (["--solver", "heunn"], ["solver method 'heunn'", "did you mean 'heun'"]),
        (["--solver", "tsit5"], ["tsit5", "lnsde"]),
        (["--regularizer", "stiffness=1"], ["stiffness"]),
        (["--form", "papr"], ["did you mean 'paper'"]),
        (["--label", "lable"], ["column 'lable'", "did you mean 'label'"]),
        (["--channels", "x1,x3"], ["column 'x3'", "did you mean"]),
        (["--drop-rate", "1.5"], ["data.drop_rate", "1.5"]),
        (["--lr", "-1"], ["optim.lr", "-1"]),
        (["--epochs", "many"], ["--epochs", "integer"]),
        (["--epoch", "3"], ["--epoch", "--epochs"]),
        (["--device", "cudda"], ["device 'cudda'", "auto, cpu"]),
        (["--config", "none.yaml"], ["none.yaml", "no such"]),
        (["more", "words"], ["words"]),
    ],
)
def test_bad_options(
    visits: Path,
    tmp_path: Path,
    flags: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    line = refused(["train", str(visits), "--out", str(out), *flags], capsys)
    for word in words:
        assert word in line
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there(
    visits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["train", str(visits), "--device", "cuda"], capsys)
    assert "not available" in line and "cpu" in line


def test_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'japanese-vowels'" in refused(
        ["train", "japanese-vowel"], capsys
    )
    path = tmp_path / "a.csv"
    path.write_text("id,t,x\na,0,1\n")
    assert "no labels" in refused(["train", str(path)], capsys)
    path.write_text("id,t,x,label\na,0,1,u\nb,0,word,v\n")
    assert "line 3, column x" in refused(["train", str(path)], capsys)
    path.write_text("id,t,x,y,label\na,0,1,,u\nb,0,1,,v\n")
    assert "part is empty" in refused(["train", str(path)], capsys)
    assert "no data" in refused(["train"], capsys)


def test_a_channel_without_values(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *rows = visits.read_text().splitlines()
    path = tmp_path / "a.csv"
    path.write_text("\n".join([f"{header},x3", *(f"{row}," for row in rows)]))
    assert "channel 'x3' is missing" in refused(["train", str(path)], capsys)


def test_commands_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert "trian" in refused(["trian"], capsys)
    assert "run" in refused(["evaluate"], capsys).lower()
    assert main([]) == 2
    assert "Usage" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith("nde 0.1.0\n")


def test_a_folder_with_a_run_is_kept(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = ["train", str(visits), "--out", str(out), "--smoke", "-q", *small_flags()]
    assert main(argv) == 0
    before = (out / "metrics.json").read_bytes()
    capsys.readouterr()
    assert "--overwrite" in refused(argv, capsys)
    assert (out / "metrics.json").read_bytes() == before
    assert main([*argv, "--overwrite"]) == 0
    line = refused(["train", str(visits), "--out", str(visits)], capsys)
    assert "is a file" in line


def test_bad_runs(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no checkpoint" in refused(["evaluate", str(tmp_path)], capsys)
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"nonsense")
    assert "bad.pt" in refused(["predict", str(bad), str(visits)], capsys)
    out = tmp_path / "run"
    argv = ["train", str(visits), "--out", str(out), "--smoke", "-q", *small_flags()]
    assert main(argv) == 0
    other = tmp_path / "other.csv"
    other.write_text("id,time,x1,label\na,0,1,c0\n")
    capsys.readouterr()
    assert "column 'x2'" in refused(["predict", str(out), str(other)], capsys)
    other.write_text("id,time,x1,x2,label\na,0,1,2,c9\na,1,1,2,c9\n")
    line = refused(["evaluate", str(out), str(other)], capsys)
    assert "class 'c9'" in line


def test_divergence_is_exit_code_3(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = ["train", str(visits), "--out", str(out), *small_flags()]
    argv += ["--model", "neural-ode", "--lr", "1e30", "--set", "train.epochs=50"]
    assert main([*argv, "--set", "optim.clip=null"]) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: diverged")
    assert not (out / "metrics.json").exists()


def test_an_unforeseen_failure_is_exit_code_1(
    visits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from nde.training import run

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "run/predictions.csv")

    monkeypatch.setattr(run, "write_predictions", full)
    argv = ["train", str(visits), "--out", str(tmp_path / "run"), *small_flags()]
    assert main([*argv, "-q"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left" in line and "predictions.csv" in line
    assert "Traceback" in (tmp_path / "run" / "log.txt").read_text()


def start(visits: Path, out: Path) -> subprocess.Popen[str]:
    """A training in a process of its own, past its first epoch."""
    argv = [sys.executable, "-m", "nde", "train", str(visits), "--out", str(out)]
    argv += [*small_flags(), "--epochs", "100000", "--set", "train.patience=null"]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (out / "checkpoints" / "last.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_stopped_run_saves_its_state(
    visits: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    process = start(visits, out)
    os.kill(process.pid, number)
    asked = time.monotonic()
    told, complaints = process.communicate(timeout=30)
    assert process.returncode == code, complaints
    assert time.monotonic() - asked < 10
    assert str(out / "checkpoints" / "last.pt") in told
    assert complaints.splitlines()[-1] == f"error: stopped by {number.name}"
    last = load_checkpoint(out / "checkpoints" / "last.pt")
    assert last.iteration > 0
    assert not (out / "metrics.json").exists()
    assert restore(out, device="cpu").schema.classes == ("c0", "c1")


def test_a_closed_pipe_does_not_stop_the_run(visits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = [sys.executable, "-m", "nde", "train", str(visits), *small_flags()]
    process = subprocess.Popen(
        [*argv, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    complaints = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert complaints == ""
    assert (out / "metrics.json").exists()
