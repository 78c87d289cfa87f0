"""Regularizers in a training: logs, gradient shares, automatic weights, checkpoints."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from visits import small_config

from nde.data import collate
from nde.regularizers import AutoEvaluations, AutoShare
from nde.training.build import build_model, try_model
from nde.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from nde.training.config import REGULARIZERS, Config
from nde.training.config_file import ConfigError, merge
from nde.training.events import EpochEnd, StepEnd
from nde.training.loop import train
from nde.training.preparation import Prepared, prepare
from nde.training.pricing import auto_weights, restore_weights, weight_states
from nde.training.restore import restore
from nde.training.run_folder import RunFolder, create_run
from nde.training.step import Position, make_optimiser, training_step

# Each as the command line has it.
VALUES = {name: 0.01 for name in REGULARIZERS} | {"steer": 0.4}


def ode_config(visits: Path, regularizers: dict[str, float | str]) -> Config:
    small = small_config(visits, model__name="neural-ode", solver__step=None)
    given = [(f"regularizers.{name}", value) for name, value in regularizers.items()]
    return merge(small.model_dump(), given)


def watched(config: Config, folder: Path) -> tuple[RunFolder, list[StepEnd | EpochEnd]]:
    seen: list[StepEnd | EpochEnd] = []
    made = create_run(folder)
    train(config, prepare(config), made, seen.append)
    return made, seen


def steps_of(seen: list[StepEnd | EpochEnd]) -> list[StepEnd]:
    return [event for event in seen if isinstance(event, StepEnd)]


@pytest.mark.parametrize("name", REGULARIZERS)
def test_every_name_trains(name: str, visits: Path, tmp_path: Path) -> None:
    config = ode_config(visits, {name: VALUES[name]})
    config = merge(config.model_dump(), [("train.limit_batches", 2)])
    made, seen = watched(config, tmp_path / "run")
    moves = name.startswith("steer")
    for event in steps_of(seen):
        assert not event.skipped
        assert list(event.penalties) == list(event.weights) == ([] if moves else [name])
        assert all(math.isfinite(value) for value in event.penalties.values())
        assert set(event.weights.values()) <= {0.01}
    # What was learned beside the model comes back with it.
    trained = restore(made.path, device="cpu")
    model = trained.model.state_dict()
    assert any("learned" in key for key in model) == (name == "adaptive-jacobian")


def test_what_is_logged(visits: Path, tmp_path: Path) -> None:
    config = ode_config(visits, {"kinetic": "0.5,warmup=0.5", "error": "100:10"})
    config = merge(config.model_dump(), [("log.every", 3)])
    made, seen = watched(config, tmp_path / "run")
    steps = steps_of(seen)
    measured = [event.step for event in steps if event.shares]
    assert measured == [1, *range(3, len(steps) + 1, 3)]
    # Before the first step nothing is warm: no weight, hence no part of the gradient.
    assert (steps[0].weights["kinetic"], steps[0].shares["kinetic"]) == (0.0, 0.0)
    assert steps[0].weights["error"] == 100.0
    assert 0 < steps[0].shares["error"] < 1
    assert steps[-1].weights["kinetic"] == 0.5
    rows = [
        json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()
    ]
    for row in rows:
        if row["kind"] == "step":
            assert set(row["shares"]) == set(row["weights"]) == {"kinetic", "error"}
            assert all(0 < row["shares"][name] < 1 for name in row["shares"])
        else:
            assert row["validation_evaluations"] > 0


def test_measuring_changes_nothing(visits: Path, tmp_path: Path) -> None:
    """But for rounding: penalties and the loss share one graph."""
    losses = []
    for every in (1, 1000):
        config = ode_config(visits, {"kinetic": 0.1, "local-error": 1.0})
        config = merge(config.model_dump(), [("log.every", every)])
        _, seen = watched(config, tmp_path / f"run{every}")
        losses.append([event.loss for event in steps_of(seen)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("adjoint", ["recompute", "direct", "backsolve"])
def test_shares_against_gradients_taken_apart(adjoint: str, visits: Path) -> None:
    config = ode_config(visits, {"kinetic": 0.7, "jacobian": 0.2})
    config = merge(config.model_dump(), [("solver.adjoint", adjoint)])
    prepared = prepare(config)
    batch = collate(prepared.parts["train"], range(8))
    assert batch.labels is not None
    norms = {}
    for part in ("kinetic", "jacobian", "task"):
        torch.manual_seed(0)
        model = build_model(config, prepared.schema).train()
        torch.manual_seed(1)
        out = model(batch.times, batch.values, seed=0)
        value = (
            functional.cross_entropy(
                out.logits, batch.labels, label_smoothing=config.optim.label_smoothing
            )
            if part == "task"
            else out.weights[part] * out.terms[part]
        )
        value.backward()
        squares = [
            weight.grad.square().sum()
            for weight in model.parameters()
            if weight.grad is not None
        ]
        norms[part] = torch.stack(squares).sum().sqrt().item()
    torch.manual_seed(0)
    model = build_model(config, prepared.schema).train()
    torch.manual_seed(1)
    end = training_step(
        config.optim,
        model,
        make_optimiser(config.optim, model),
        batch,
        noise_seed=0,
        position=Position(1, 1, 10),
        measure=True,
    )
    total = sum(norms.values())
    for name, share in end.shares.items():
        assert share == pytest.approx(norms[name] / total, rel=1e-3)
    assert set(end.shares) == {"kinetic", "jacobian"}


def test_an_automatic_share_is_held(visits: Path, tmp_path: Path) -> None:
    config = ode_config(visits, {"error": "auto:share=0.4"})
    config = merge(config.model_dump(), [("train.epochs", 8), ("log.every", 1)])
    _, seen = watched(config, tmp_path / "run")
    steps = steps_of(seen)
    assert steps[0].shares["error"] == 0.0
    shares = [event.shares["error"] for event in steps[8:]]
    assert sum(shares) / len(shares) == pytest.approx(0.4, abs=0.12)


def _stepped(
    config: Config, prepared: Prepared, saved: Path | None, count: int
) -> tuple[list[StepEnd], object]:
    """So many steps, from the start or from a checkpoint's weights."""
    torch.manual_seed(0)
    model = build_model(config, prepared.schema).train()
    optimiser = make_optimiser(config.optim, model)
    first = 1
    if saved is not None:
        last = load_checkpoint(saved)
        model.load_state_dict(last.model)
        optimiser.load_state_dict(last.optimiser)
        restore_weights(model, last.weights)
        first = last.iteration + 1
    ends = []
    for step in range(first, count + 1):
        rows = [(step * 5 + i) % len(prepared.parts["train"]) for i in range(5)]
        torch.manual_seed(step)
        ends.append(
            training_step(
                config.optim,
                model,
                optimiser,
                collate(prepared.parts["train"], rows),
                noise_seed=step,
                position=Position(1, step, 12),
                measure=step % 2 == 1,
            )
        )
    return ends, (model, optimiser)


def test_a_resumed_run_continues_exactly(visits: Path, tmp_path: Path) -> None:
    config = ode_config(
        visits, {"error": "auto:nfe=0.6", "kinetic": "auto:share=0.2", "steer": 0.4}
    )
    made, _ = watched(config, tmp_path / "run")
    some = load_checkpoint(made.last)
    assert set(some.weights) == {"error", "kinetic"}
    assert some.weights["kinetic"]["value"] > 0

    prepared = prepare(config)
    whole, _ = _stepped(config, prepared, None, 12)
    _, parts = _stepped(config, prepared, None, 5)
    model, optimiser = parts  # type: ignore[misc]
    place = tmp_path / "half.pt"
    half = replace(
        some,
        model=model.state_dict(),
        optimiser=optimiser.state_dict(),
        weights=weight_states(model),
        iteration=5,
    )
    save_checkpoint(place, half)
    resumed, _ = _stepped(config, prepared, place, 12)
    assert [asdict(end) for end in resumed] == [asdict(end) for end in whole[5:]]
    assert len({end.weights["kinetic"] for end in resumed}) > 2


def test_states_come_back_with_the_model(visits: Path, tmp_path: Path) -> None:
    config = ode_config(visits, {"error": "auto:nfe=0.6", "kinetic": "auto:share=0.2"})
    made, _ = watched(config, tmp_path / "run")
    found = auto_weights(restore(made.path, device="cpu").model)
    assert isinstance(found["error"], AutoEvaluations)
    assert isinstance(found["kinetic"], AutoShare)
    saved = load_checkpoint(made.best)
    assert found["kinetic"].state() == saved.weights["kinetic"]
    # A checkpoint from before there were automatic weights.
    tree = torch.load(made.best, weights_only=True)
    tree.pop("weights")
    torch.save(tree, made.best)
    assert load_checkpoint(made.best).weights == {}
    restore(made.path, device="cpu")
    save_checkpoint(made.best, replace(saved, weights={"stiffness": {"value": 1.0}}))
    with pytest.raises(CheckpointError, match="weight of 'stiffness' has no place"):
        restore(made.path, device="cpu")


def test_what_cannot_work_is_told_before_the_run(visits: Path) -> None:
    for changes, words in (
        ({"model.name": "lnsde"}, "kinetic.*ODE.*SDE"),
        ({"regularizers.steer": 0.7}, "share is 0.7 with 4 output times"),
        ({"solver.method": "leapfrog", "solver.step": 0.1}, "leapfrog"),
    ):
        config = ode_config(visits, {"kinetic": 0.1})
        config = merge(config.model_dump(), changes.items())
        prepared = prepare(config)
        with pytest.raises(ConfigError, match=words):
            try_model(config, prepared.schema, prepared.parts["train"])
