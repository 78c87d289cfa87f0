"""`nde tune`: trials, the best of them, and several processes on one sweep."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from visits import small_flags

from nde.cli import main
from nde.training import loop
from nde.training.config_file import merge, read_config_file
from nde.training.interrupt import Stopped

pytest.importorskip("optuna")

SPACE = ["--space", "optim.lr=1e-3..1e-1,log", "--space", "model.hidden=2,4"]


def read(out: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((out / "sweep.json").read_text())
    return tree


def argv(visits: Path, out: Path, trials: int) -> list[str]:
    words = ["tune", str(visits), "--out", str(out), "--trials", str(trials)]
    return [*words, *SPACE, *small_flags(), "-q"]


def test_trials_are_runs_of_their_settings(visits: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    assert main(argv(visits, out, 4)) == 0
    found = read(out)
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2, 3]
    for trial in found["trials"]:
        run = out / f"trial-{trial['number']}"
        config = merge(read_config_file(run / "config.resolved.yaml"), [])
        assert config.optim.lr == trial["settings"]["optim.lr"]
        assert config.model.hidden == trial["settings"]["model.hidden"]
        assert 1e-3 <= config.optim.lr <= 1e-1
        metrics = json.loads((run / "metrics.json").read_text())
        assert trial["value"] == metrics["validation"]["log_loss"]
    values = [trial["value"] for trial in found["trials"]]
    assert found["best"]["value"] == min(values) < max(values)
    assert Path(found["best"]["run"]).is_dir()
    # One process repeats itself; more trials go on from those there are.
    again = tmp_path / "again"
    assert main(argv(visits, again, 2)) == 0
    assert len(read(again)["trials"]) == 2
    assert main(argv(visits, again, 4)) == 0
    assert read(again)["trials"] == found["trials"]


def test_the_direction_is_that_of_the_metric(visits: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    words = [*argv(visits, out, 3), "--set", "train.monitor=accuracy"]
    # A database serves as well as the file.
    assert main([*words, "--storage", f"sqlite:///{tmp_path}/trials.db"]) == 0
    assert not (out / "study.journal").exists()
    found = read(out)
    values = [trial["value"] for trial in found["trials"]]
    assert found["best"]["value"] == max(values)


def test_two_processes_share_a_sweep(visits: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    words = [sys.executable, "-m", "nde", *argv(visits, out, 6)]
    both = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in both:
        _, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
    assert main(argv(visits, out, 1)) == 0
    trials = read(out)["trials"]
    # Both may have begun the last one at the same time.
    assert len(trials) in (6, 7)
    assert {trial["state"] for trial in trials} == {"complete"}
    rates = {trial["settings"]["optim.lr"] for trial in trials}
    assert len(rates) == len(trials)
    for number in range(len(trials)):
        assert (out / f"trial-{number}" / "metrics.json").exists()


def test_failures_do_not_end_a_sweep(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    words = argv(visits, out, 3)
    step = loop.training_step
    calls = 0

    def stopped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stopped(15)
        return step(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", stopped)
        assert main(words) == 143
    words += ["--set", "optim.clip=null"]
    assert main(words) == 2
    assert main(argv(visits, out, 3)) == 0
    states = [trial["state"] for trial in read(out)["trials"]]
    assert states == ["fail", "complete", "complete"]
    hopeless = tmp_path / "hopeless"
    words = ["tune", str(visits), "--out", str(hopeless), "--trials", "2", "-q"]
    words += ["--space", "optim.lr=1e30,1e31", *small_flags()]
    words += ["--set", "optim.clip=null", "--set", "train.epochs=20"]
    assert main([*words, "--set", "model.name=neural-ode"]) == 3
    assert read(hopeless)["best"] is None


def test_refusals(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    for flags, word in (
        ([], "nothing to search"),
        (["--space", "optim.lrr=1..2"], "did you mean 'optim.lr'"),
        (["--space", "optim.lr=-1..2"], "optim.lr"),
        (["--space", "model.name=lsde,lnsd"], "did you mean 'lnsde'"),
        ([*SPACE, "--trials", "0"], "--trials"),
        ([*SPACE, "--set", "train.seeds=[1, 2]"], "train.seeds"),
    ):
        assert main(["tune", str(visits), "--out", str(out), *flags]) == 2
        assert word in capsys.readouterr().err
    assert not out.exists()
