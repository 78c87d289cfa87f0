"""Losses without a finite value: what is skipped, what is undone, when it is over."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from visits import small_config

from nde.models import ClassifierOutput, SeriesClassifier
from nde.training.checkpoint import load_checkpoint
from nde.training.config import Config
from nde.training.events import EpochEnd, StepEnd
from nde.training.guard import (
    CALM,
    MAX_SKIPPED,
    MAX_TRIES,
    MAX_UNDONE,
    Diverged,
    Guard,
    go_back,
    keep,
)
from nde.training.preparation import prepare
from nde.training.run import run_training
from nde.training.run_folder import RunFolder, create_run


class Toy:
    """A linear model with Adam, whose every good step is an update."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(2, 2)
        self.adam = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.guard = Guard()

    def step(self, *, skipped: bool) -> bool:
        before = keep(self.model, self.adam)
        if not skipped:
            self.adam.zero_grad()
            self.model(torch.ones(1, 2)).square().sum().backward()
            self.adam.step()
        undone = self.guard.after(skipped, before, self.model, self.adam)
        self.guard.check()
        return undone

    def weight(self) -> Tensor:
        return self.model.weight.detach().clone()


def test_the_last_update_is_undone_after_three_skipped_batches() -> None:
    toy, other = Toy(), Toy()
    for _ in range(4):
        toy.step(skipped=False)
    for _ in range(3):
        other.step(skipped=False)
    assert not torch.equal(toy.weight(), other.weight())
    toy.adam.param_groups[0]["lr"] = 0.05
    told = [toy.step(skipped=True) for _ in range(MAX_TRIES + 2)]
    assert told == [False, False, True, False, False]
    assert torch.equal(toy.weight(), other.weight())
    # The schedule owns the rate.
    assert toy.adam.param_groups[0]["lr"] == 0.05
    # The moments of the optimiser are back too, so both go on alike.
    other.adam.param_groups[0]["lr"] = 0.05
    for _ in range(2):
        toy.step(skipped=False)
        other.step(skipped=False)
        assert torch.equal(toy.weight(), other.weight())


def test_going_back_twice_to_one_place() -> None:
    toy = Toy()
    toy.step(skipped=False)
    kept = keep(toy.model, toy.adam)
    as_kept = copy.deepcopy(kept)
    ends = []
    for _ in range(2):
        toy.step(skipped=False)
        ends.append(toy.weight())
        go_back(toy.model, toy.adam, kept)
    assert torch.equal(*ends)
    for name, moment in as_kept["moments"][0].items():
        assert torch.equal(kept["moments"][0][name], moment), name


def test_a_run_that_never_had_a_finite_loss_ends_after_ten() -> None:
    toy = Toy()
    start = toy.weight()
    for _ in range(MAX_SKIPPED - 1):
        assert not toy.step(skipped=True)
    with pytest.raises(Diverged, match="10 batches in a row"):
        toy.step(skipped=True)
    assert torch.equal(toy.weight(), start)


def lapses(toy: Toy, count: int, good: int) -> None:
    """So often `good` steps, then skipped ones until the last update is undone."""
    for _ in range(count):
        for _ in range(good):
            toy.step(skipped=False)
        for _ in range(MAX_TRIES):
            toy.step(skipped=True)


def test_updates_that_keep_leading_astray_end_the_run() -> None:
    toy = Toy()
    lapses(toy, MAX_UNDONE - 1, good=1)
    with pytest.raises(Diverged, match="3 times an update"):
        lapses(toy, 1, good=CALM - 1)
    lapses(Toy(), 5 * MAX_UNDONE, good=CALM)


def test_single_skipped_batches_never_end_a_run() -> None:
    toy = Toy()
    for _ in range(10 * MAX_SKIPPED):
        toy.step(skipped=False)
        assert not toy.step(skipped=True)


def spoiled(monkeypatch: pytest.MonkeyPatch, steps: set[int], first: int = 1) -> None:
    """Let these steps of a run, whose first is `first`, have no finite loss."""
    forward = SeriesClassifier.forward
    calls = first - 1

    def changed(model: SeriesClassifier, *args: Any, **options: Any) -> Any:
        nonlocal calls
        out: ClassifierOutput = forward(model, *args, **options)
        if not model.training:
            return out
        calls += 1
        factor = float("nan") if calls in steps else 1.0
        return replace(out, logits=out.logits * factor)

    monkeypatch.setattr(SeriesClassifier, "forward", changed)


class Killed(Exception):
    """Stands for the end of the process."""


def trained(
    config: Config,
    folder: Path,
    observe: Callable[[StepEnd | EpochEnd], None] = lambda event: None,
) -> RunFolder:
    made = create_run(folder)
    run_training(config, prepare(config), made, observe)
    return made


def test_a_run_goes_on_exactly_from_between_skipped_batches(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(
        visits,
        model__name="neural-ode",
        regularizers__error="auto:share=0.2",
        log__save_every=1,
    )
    bad = {4, 5, 6}
    with monkeypatch.context() as patch:
        spoiled(patch, bad)
        intact = trained(config, tmp_path / "intact")
    rows = intact.file("metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, rows) if row["kind"] == "step"]
    assert [row["step"] for row in steps if row["skipped"]] == sorted(bad)
    assert [row["step"] for row in steps if row["undone"]] == [6]
    assert json.loads(intact.metrics.read_text())["skipped_batches"] == 3

    def killed(event: StepEnd | EpochEnd) -> None:
        if isinstance(event, StepEnd) and event.step == 6:
            raise Killed

    with monkeypatch.context() as patch:
        spoiled(patch, bad)
        with pytest.raises(Killed):
            trained(config, tmp_path / "run", killed)
    run = RunFolder(tmp_path / "run")
    last = load_checkpoint(run.last)
    assert last.iteration == 5 and last.course["guard"]["skipped_in_row"] == 2
    with monkeypatch.context() as patch:
        spoiled(patch, bad, first=6)
        run_training(config, prepare(config), run, lambda event: None, last)
    for name in ("metrics.json", "metrics.jsonl", "predictions.csv"):
        assert run.file(name).read_bytes() == intact.file(name).read_bytes(), name
