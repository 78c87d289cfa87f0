"""Processes that are stopped or killed, and go on to the result they would have had."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from visits import small_flags, write_visits

from nde.cli import main
from nde.training import loop
from nde.training.checkpoint import load_checkpoint, save_checkpoint
from nde.training.run_folder import locked

FLAGS = [
    *small_flags(),
    *("--set", "train.epochs=6", "--model", "neural-ode", "--set", "solver.step=null"),
    *("--regularizer", "error=auto:share=0.2", "--set", "log.save_every=3"),
    *("--set", "train.patience=6", "--set", "optim.schedule=plateau"),
]


@pytest.fixture(scope="module")
def intact(visits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("intact") / "run"
    assert main(["train", str(visits), "--out", str(out), "-q", *FLAGS]) == 0
    return out


# Sends the process a signal before the n-th call of a function.
DRIVER = """
import os, sys
from nde.cli import main
from nde.training import loop
from nde.training import loop

def watched(function):
    calls = 0
    def call(*args, **options):
        nonlocal calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), int(sys.argv[1]))
        return function(*args, **options)
    return call

place = {"training_step": loop, "replace": os}[sys.argv[2]]
setattr(place, sys.argv[2], watched(getattr(place, sys.argv[2])))
sys.exit(main(sys.argv[4:]))
"""


def stopped(
    number: signal.Signals, function: str, call: int, argv: list[str], out: Path
) -> int:
    """Train in a process that a signal hits in the n-th call; its exit code."""
    words = [str(int(number)), function, str(call), "train", *argv]
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, *words], capture_output=True, timeout=60
    )
    assert not (out / "metrics.json").exists(), process.stdout
    return process.returncode


def assert_same(out: Path, intact: Path) -> None:
    for name in ("metrics.json", "metrics.jsonl", "predictions.csv", "steps.csv"):
        assert (out / name).read_bytes() == (intact / name).read_bytes(), name
    for name in ("best.pt", "last.pt"):
        ours, theirs = (
            load_checkpoint(run / "checkpoints" / name) for run in (out, intact)
        )
        assert ours.model.keys() == theirs.model.keys()
        for key, weight in ours.model.items():
            assert torch.equal(weight, theirs.model[key]), (name, key)
        assert ours.weights == theirs.weights and ours.best == theirs.best


def test_a_killed_run(visits: Path, tmp_path: Path, intact: Path) -> None:
    out = tmp_path / "run"
    argv = [str(visits), "--out", str(out), *FLAGS]
    kill = signal.SIGKILL
    assert stopped(kill, "training_step", 12, argv, out) == -kill
    assert load_checkpoint(out / "checkpoints" / "last.pt").iteration == 9
    # While a checkpoint is being written: config, schema, splits, env come before it.
    assert stopped(kill, "replace", 9, ["--resume", str(out)], out) == -kill
    assert list(out.rglob(".*.tmp"))
    assert stopped(kill, "training_step", 5, ["--resume", str(out)], out) == -kill
    assert main(["train", "--resume", str(out), "-q"]) == 0
    assert not list(out.rglob(".*.tmp"))
    assert_same(out, intact)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)],
)
def test_a_stopped_run(
    visits: Path, tmp_path: Path, intact: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    argv = [str(visits), "--out", str(out), *FLAGS]
    assert stopped(number, "training_step", 18, argv, out) == code
    # The step that the signal hit was finished, and no other begun.
    assert load_checkpoint(out / "checkpoints" / "last.pt").iteration == 18
    # The command that began the run is also the one that goes on with it.
    assert main(["train", *argv, "--resume", "auto", "-q"]) == 0
    assert_same(out, intact)


@pytest.fixture
def short(tmp_path: Path) -> tuple[Path, Path]:
    """A table and a run of two epochs on it."""
    data = write_visits(tmp_path / "visits.csv")
    out = tmp_path / "run"
    argv = ["train", str(data), "--out", str(out), "-q", *small_flags()]
    assert main(argv) == 0
    return data, out


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal."""
    capsys.readouterr()
    assert main(["train", *argv]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_other_options_are_refused_by_name(
    short: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = short
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    resume = ["--resume", str(out)]
    file = tmp_path / "c.yaml"
    file.write_text("optim: {lr: 0.5}\n")
    for flags, words in (
        (["--hidden", "5", "--seed", "1"], ["model.hidden from 4 to 5", "train.seed"]),
        (["--config", str(file)], ["optim.lr from 0.003 to 0.5"]),
        (["--regularizer", "error=1"], ["regularizers.error from None to 1.0"]),
        (["--epochs", "1"], ["has passed 2 epochs", "got 1"]),
        (["--out", str(out)], ["leave --out away"]),
        (["--overwrite"], ["--overwrite"]),
    ):
        line = refused([*resume, *flags], capsys)
        for word in words:
            assert word in line
    assert "--out" in refused([str(data), "--resume", "auto"], capsys)
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_other_data_is_refused_and_moved_data_is_not(
    short: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = short
    metrics = (out / "metrics.json").read_bytes()
    moved = tmp_path / "elsewhere" / "visits.csv"
    moved.parent.mkdir()
    data.rename(moved)
    assert "visits.csv" in refused(["--resume", str(out)], capsys)
    assert main(["train", str(moved), "--resume", str(out), "-q"]) == 0
    assert (out / "metrics.json").read_bytes() == metrics
    lines = moved.read_text().splitlines()
    lines[1] = lines[1].replace(",c0", "1,c0")
    moved.write_text("\n".join(lines) + "\n")
    assert "differs" in refused([str(moved), "--resume", str(out)], capsys)


def test_what_cannot_be_resumed(
    short: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = short
    last = out / "checkpoints" / "last.pt"
    raw = last.read_bytes()
    nothing = tmp_path / "nothing"
    line = refused(["--resume", str(nothing)], capsys)
    assert str(nothing) in line and "nothing to resume" in line
    assert not nothing.exists()
    bare = tmp_path / "bare.pt"
    bare.write_bytes(raw)
    assert "folder of a run" in refused(["--resume", str(bare)], capsys)
    old = load_checkpoint(last)
    for content, word in (
        (raw[: len(raw) // 2], "truncated or corrupt"),
        (b"", "empty"),
        (b"hello", "not a checkpoint"),
    ):
        last.write_bytes(content)
        line = refused(["--resume", str(out)], capsys)
        assert str(last) in line and word in line
        assert f"--resume {last.with_name('best.pt')}" in line
    torch.save({"state_dict": {}}, last)
    assert "another program" in refused(["--resume", str(out)], capsys)
    object.__setattr__(old, "course", {})
    save_checkpoint(last, old)
    assert "could not resume" in refused(["--resume", str(out)], capsys)
    # The other checkpoint of the run is as good a place to go on from.
    best = str(out / "checkpoints" / "best.pt")
    metrics = (out / "metrics.json").read_bytes()
    assert main(["train", "--resume", best, "-q"]) == 0
    assert last.read_bytes() != raw[: len(raw) // 2]
    assert (out / "metrics.json").read_bytes() == metrics


def test_more_epochs(
    short: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = short
    capsys.readouterr()
    assert main(["train", "--resume", str(out), "--epochs", "3", "--dry-run"]) == 0
    assert "epochs: 3" in capsys.readouterr().out
    assert main(["train", "--resume", str(out), "--epochs", "3"]) == 0
    told = capsys.readouterr().out
    assert "resumed after epoch 2, step 8" in told and "epoch   3/3" in told
    assert json.loads((out / "metrics.json").read_text())["epochs"] == 3
    # The configuration beside the results is the one they come from.
    assert "epochs: 3" in (out / "config.resolved.yaml").read_text()


class Killed(BaseException):
    """Stands for the end of the process."""


def test_auto_begins_anew_where_nothing_was_kept(
    visits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    out = tmp_path / "run"
    argv = [str(visits), "--out", str(out), "-q", *small_flags()]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", killed)
        with pytest.raises(Killed):
            main(["train", *argv, "--resume", "auto"])
    assert (out / "config.resolved.yaml").exists()
    assert "--overwrite" in refused(argv, capsys)
    assert main(["train", *argv, "--resume", "auto"]) == 0
    # Results without a checkpoint are not thrown away.
    (out / "checkpoints" / "last.pt").unlink()
    assert "--overwrite" in refused([*argv, "--resume", "auto"], capsys)


def test_two_trainings_do_not_share_a_folder(
    short: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = short
    before = (out / "metrics.json").read_bytes()
    with locked(out):
        for argv in (
            ["--resume", str(out)],
            [str(data), "--out", str(out), "--overwrite", *small_flags()],
        ):
            assert "another process" in refused(argv, capsys)
    assert (out / "metrics.json").read_bytes() == before
    assert main(["train", "--resume", str(out), "-q"]) == 0
