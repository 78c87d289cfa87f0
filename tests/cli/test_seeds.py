"""Several seeds: a run for each, their mean, and going on where one stopped."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from visits import small_flags

from nde.cli import main
from nde.training import loop
from nde.training.checkpoint import Checkpoint
from nde.training.run_folder import create_run
from nde.training.seeds import aggregate

FILES = ("metrics.json", "metrics.jsonl", "predictions.csv")


@pytest.fixture(scope="module")
def several(visits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with the seeds 3 and 1."""
    out = tmp_path_factory.mktemp("several") / "run"
    argv = ["train", str(visits), "--out", str(out), "--seeds", "3,1", "-q"]
    assert main([*argv, *small_flags()]) == 0
    return out


def read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


def test_each_is_the_run_of_its_seed(
    several: Path, visits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    argv = ["train", str(visits), "--out", str(out), "--seed", "1", "-q"]
    assert main([*argv, *small_flags()]) == 0
    for name in (*FILES, "config.resolved.yaml"):
        assert (out / name).read_bytes() == (several / "seed-1" / name).read_bytes()


def test_mean_and_deviation(several: Path) -> None:
    tree = read(several / "metrics.json")
    assert tree["seeds"] == [3, 1] and tree["model"] == "lnsde"
    runs = [read(several / f"seed-{seed}" / "metrics.json") for seed in (3, 1)]
    assert tree["runs"] == {"3": runs[0], "1": runs[1]}
    for part in ("train", "validation", "test", "solver"):
        assert tree["mean"][part].keys() == runs[0][part].keys()
        for name in runs[0][part]:
            values = [run[part][name] for run in runs]
            assert tree["mean"][part][name] == pytest.approx(np.mean(values))
            assert tree["std"][part][name] == pytest.approx(np.std(values, ddof=1))
    # Otherwise the comparison says nothing.
    assert tree["std"]["test"]["log_loss"] > 0


def test_what_is_not_a_number_stays_so() -> None:
    part = {"auroc": 0.5}
    run = {key: 1 for key in ("epochs", "best_epoch", "skipped_batches", "n_params")}
    run |= {"task": "classify", "data": "d", "model": "m"}  # type: ignore[dict-item]
    first = run | {key: part for key in ("train", "validation", "test", "solver")}
    second = first | {"test": {"auroc": math.nan}}
    alone = aggregate({0: first})
    assert alone["mean"]["test"]["auroc"] == 0.5
    assert math.isnan(alone["std"]["test"]["auroc"])
    both = aggregate({0: first, 1: second})
    assert math.isnan(both["mean"]["test"]["auroc"])
    assert math.isnan(both["std"]["test"]["auroc"])
    assert both["std"]["train"]["auroc"] == 0.0


def test_the_resolved_configuration_reproduces_all(
    several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    file = several / "config.resolved.yaml"
    assert main(["train", "--config", str(file), "--out", str(out)]) == 0
    again = out / "metrics.json"
    assert again.read_bytes() == (several / "metrics.json").read_bytes()
    mean = read(again)["mean"]["test"]["accuracy"]
    told = capsys.readouterr().out
    assert f"test accuracy {mean:.4f} ±" in told and "(2 seeds)" in told
    assert told.splitlines()[-1] == str(again)
    assert "seed 1, 2 of 2" in (out / "log.txt").read_text()


class Killed(BaseException):
    """Stands for the end of the process."""


def test_going_on(
    several: Path, visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    argv = ["train", str(visits), "--out", str(out), "--seeds", "3,1", "-q"]
    argv += [*small_flags(), "--resume", "auto"]
    save = loop.save_checkpoint
    # The first epoch of the first seed, then that of the second before it is kept.
    for allowed in (1, 3):
        left = allowed

        def limited(path: Path, checkpoint: Checkpoint) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            save(path, checkpoint)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "save_checkpoint", limited)
            with pytest.raises(Killed):
                main(argv)
        assert not (out / "metrics.json").exists()
    assert (out / "seed-1" / "metrics.jsonl").exists()
    assert main(["train", "--resume", str(out), "-q"]) == 0
    for name in ("metrics.json", "config.resolved.yaml"):
        assert (out / name).read_bytes() == (several / name).read_bytes()
    # One more seed joins the others, whose runs stay.
    began = (out / "seed-3" / "checkpoints" / "last.pt").stat().st_mtime_ns
    assert main(["train", "--resume", str(out), "--seeds", "3,1,7", "-q"]) == 0
    assert read(out / "metrics.json")["seeds"] == [3, 1, 7]
    assert (out / "seed-3" / "checkpoints" / "last.pt").stat().st_mtime_ns == began


def test_refusals(
    several: Path,
    visits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    for argv, words in (
        ([str(visits), "--seeds", "1,1"], ["train.seeds", "different seeds"]),
        ([str(visits), "--seeds", "1,x"], ["train.seeds", "'x'"]),
        ([str(visits), "--seeds", ""], ["train.seeds"]),
        ([str(visits), "--seeds", "1,2", "--seed", "1"], ["pass one"]),
        (["--resume", str(several), "--lr", "1"], ["optim.lr from 0.003 to 1.0"]),
        (["--resume", str(several), "--seed", "5"], ["train.seed from 0 to 5"]),
        (["--resume", str(several / "seed-1"), "--seeds", "1,2"], ["train.seeds"]),
        ([str(visits), "--out", str(several), "--seeds", "3,1"], ["--overwrite"]),
    ):
        assert main(["train", *argv]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        for word in words:
            assert word in line
    assert main(["evaluate", str(several)]) == 2
    assert f"such as {several / 'seed-1'}" in capsys.readouterr().err
    # Overwriting leaves no seed of the old runs, and what is no run's alone.
    out = tmp_path / "run"
    create_run(out / "seed-9")
    mine = out / "seed-list.txt"
    mine.touch()
    argv = ["train", str(visits), "--out", str(out), "--overwrite", "-q"]
    assert main([*argv, *small_flags(), "--seeds", "2"]) == 0
    assert sorted(path.name for path in out.glob("seed-*")) == [
        "seed-2",
        "seed-list.txt",
    ]
    assert mine.exists() and read(out / "metrics.json")["std"]["test"]["auroc"] is None
