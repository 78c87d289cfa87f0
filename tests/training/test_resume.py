"""A run that was interrupted and resumed is the run that was not, to the last bit."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from visits import small_config

from nde.training import guard, loop
from nde.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from nde.training.config import Config
from nde.training.config_file import merge
from nde.training.events import EpochEnd, StepEnd
from nde.training.loop import train
from nde.training.preparation import prepare
from nde.training.run import run_training
from nde.training.run_folder import RunFolder, RunFolderError, create_run

SAME = ("metrics.json", "metrics.jsonl", "predictions.csv", "steps.csv")


class Killed(Exception):
    """Stands for the end of the process."""


def same(first: Any, second: Any) -> bool:
    """Whether two trees of tensors and plain values are equal to the last bit."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            same(first[key], second[key]) for key in first
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second) or (first != first and second != second)


def state_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """All of a checkpoint but the seconds that the run took."""
    tree = dict(vars(checkpoint))
    tree["course"] = {k: v for k, v in checkpoint.course.items() if k != "seconds"}
    return tree


def killed_after(step: int) -> Callable[[StepEnd | EpochEnd], None]:
    def observe(event: StepEnd | EpochEnd) -> None:
        if isinstance(event, StepEnd) and event.step == step:
            raise Killed

    return observe


def ignore(event: StepEnd | EpochEnd) -> None:
    """Watch nothing."""


def whole(config: Config, folder: Path) -> RunFolder:
    run = create_run(folder)
    run_training(config, prepare(config), run, ignore)
    return run


def resumed(config: Config, run: RunFolder) -> None:
    """Go on in a process that has drawn other random numbers."""
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    run_training(config, prepare(config), run, ignore, load_checkpoint(run.last))


def assert_same(first: RunFolder, second: RunFolder) -> None:
    for name in SAME:
        assert first.file(name).read_bytes() == second.file(name).read_bytes(), name
    for name in ("best.pt", "last.pt"):
        ours, theirs = (
            load_checkpoint(run.path / "checkpoints" / name) for run in (first, second)
        )
        assert same(state_of(ours), state_of(theirs)), name


CASES: list[dict[str, object]] = [
    {"optim__schedule": "plateau", "log__every": 3},
    {
        "model__name": "neural-sde",
        "solver__step": "adaptive",
        "data__drop_rate": 0.3,
        "log__save_every": 1,
    },
    {
        "model__name": "neural-ode",
        "solver__step": None,
        "solver__rtol": 0.1,
        "regularizers__error": "auto:nfe=0.6",
        "regularizers__kinetic": "auto:share=0.2",
        "regularizers__adaptive-jacobian": "0.1",
        "regularizers__steer": 0.4,
        "log__save_every": 1,
    },
]


@pytest.mark.parametrize("changes", CASES)
def test_after_a_kill(visits: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    """Killed in the middle of an epoch, resumed, killed again in the next one."""
    config = small_config(visits, train__epochs=3, **changes)
    every_step = "log__save_every" in changes
    intact = whole(config, tmp_path / "intact")
    run = create_run(tmp_path / "run")
    with pytest.raises(Killed):
        run_training(config, prepare(config), run, killed_after(7))
    last = load_checkpoint(run.last)
    assert (last.epoch, last.iteration) == (1, 6 if every_step else 4)
    with pytest.raises(Killed):
        run_training(config, prepare(config), run, killed_after(10), last)
    assert load_checkpoint(run.last).iteration == (9 if every_step else 8)
    resumed(config, run)
    assert_same(intact, run)


@pytest.mark.parametrize("save_number", range(1, 5))
def test_after_a_kill_between_two_files(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_number: int
) -> None:
    """Best and last are two files, of which one may be there without the other."""
    config = small_config(visits, train__epochs=3)
    intact = whole(config, tmp_path / "intact")
    saved = 0

    def save(path: Path, checkpoint: Checkpoint) -> None:
        nonlocal saved
        saved += 1
        if saved == save_number:
            raise Killed
        save_checkpoint(path, checkpoint)

    run = create_run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save)
        with pytest.raises(Killed):
            run_training(config, prepare(config), run, ignore)
    if save_number == 1:
        # Nothing to go on from.
        assert not run.last.exists()
        return
    resumed(config, run)
    assert_same(intact, run)


def test_early_stop_counts_epochs_before_the_interruption(
    visits: Path, tmp_path: Path
) -> None:
    config = small_config(visits, train__epochs=50, train__patience=3, optim__lr=1e-30)
    intact = whole(config, tmp_path / "intact")
    epochs = json.loads(intact.metrics.read_text())["epochs"]
    assert epochs < 50
    run = create_run(tmp_path / "run")
    with pytest.raises(Killed):
        run_training(config, prepare(config), run, killed_after(4 * (epochs - 1) + 2))
    resumed(config, run)
    assert_same(intact, run)
    # A run that is complete stays as it is.
    resumed(config, run)
    assert_same(intact, run)


def test_skipped_batches_in_a_row_go_on_counting(visits: Path, tmp_path: Path) -> None:
    config = small_config(visits, train__epochs=3)
    run = whole(config, tmp_path / "run")
    last = load_checkpoint(run.last)
    # What forces every batch to be skipped: weights too large to solve with.
    huge = {name: torch.full_like(w, 1e30) for name, w in last.model.items()}
    watch = last.course["guard"] | {"skipped_in_row": guard.MAX_SKIPPED - 1}
    almost = replace(last, model=huge, course=last.course | {"guard": watch})
    seen: list[StepEnd | EpochEnd] = []
    longer = merge(config.model_dump(), [("train.epochs", 4)])
    with pytest.raises(guard.Diverged):
        train(longer, prepare(longer), run, seen.append, almost)
    assert len(seen) == 1


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_more_epochs_are_those_of_a_longer_run(
    visits: Path, tmp_path: Path, schedule: str
) -> None:
    short = small_config(visits, optim__schedule=schedule)
    longer = merge(short.model_dump(), [("train.epochs", 4)])
    run = whole(short, tmp_path / "run")
    resumed(longer, run)
    intact = whole(longer, tmp_path / "intact")
    for name in ("metrics.json", "predictions.csv"):
        assert run.file(name).read_bytes() == intact.file(name).read_bytes()


def test_more_epochs_go_on_along_the_longer_cosine(
    visits: Path, tmp_path: Path
) -> None:
    short = small_config(visits, optim__lr=0.5)
    longer = merge(short.model_dump(), [("train.epochs", 4)])
    run = whole(short, tmp_path / "run")
    seen: list[float] = []
    train(
        longer,
        prepare(longer),
        run,
        lambda event: seen.append(event.lr) if isinstance(event, StepEnd) else None,
        load_checkpoint(run.last),
    )
    steps = np.arange(8, 16)
    expected = 0.25 * (1 + np.cos(np.pi * steps / 16))
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_a_best_checkpoint_of_another_epoch(visits: Path, tmp_path: Path) -> None:
    # Nothing is learned after the first epoch, which therefore is the best.
    config = small_config(visits, optim__lr=1e-30)
    run = whole(config, tmp_path / "run")
    best = load_checkpoint(run.best)
    assert load_checkpoint(run.last).best["epoch"] == best.epoch < 2
    longer = merge(config.model_dump(), [("train.epochs", 3)])
    save_checkpoint(run.best, replace(best, epoch=2))
    with pytest.raises(CheckpointError, match="of epoch 2, and the best one .* is 1"):
        resumed(longer, run)
    run.best.unlink()
    with pytest.raises(CheckpointError, match="no such"):
        resumed(longer, run)


def test_rows_that_are_gone(visits: Path, tmp_path: Path) -> None:
    config = small_config(visits)
    run = whole(config, tmp_path / "run")
    rows = run.file("metrics.jsonl")
    rows.write_bytes(rows.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match="metrics.jsonl"):
        resumed(config, run)


def test_a_checkpoint_of_another_program_version(visits: Path, tmp_path: Path) -> None:
    config = small_config(visits)
    run = whole(config, tmp_path / "run")
    last = load_checkpoint(run.last)
    for changed in (
        replace(last, course={}),
        replace(last, optimiser={}),
        replace(last, weights={"error": {"value": 1.0}}),
    ):
        save_checkpoint(run.last, changed)
        with pytest.raises(CheckpointError, match="does not fit this program"):
            resumed(config, run)
