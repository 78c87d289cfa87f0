"""Least, greatest and first steps; and bad times to land on."""

import pytest
import torch
from problems import KIND, OSCILLATOR, normal
from torch import Tensor

from nde.solvers import PID, FixedSteps, ODETerm, SolveError, Status, StepTo, solve

BATCHES = pytest.mark.parametrize("batch", [1, 3])


def kinked(t: Tensor, y: Tensor) -> Tensor:
    """Jumps at t = 0.5, which no long step gets over accurately."""
    return torch.where(t.reshape(-1, 1) < 0.5, 1.0, 1e6).to(y).expand_as(y)


@BATCHES
def test_min_step(batch: int, f64: KIND) -> None:
    y0, ts = torch.zeros(batch, 1, **f64), torch.tensor([0.0, 1.0], **f64)
    with pytest.raises(SolveError, match="min_step") as caught:
        solve(ODETerm(kinked), y0, ts, controller=PID(1e-9, 1e-9, min_step=1e-3))
    assert caught.value.status == Status.STEP_UNDERFLOW
    assert caught.value.times[0] == pytest.approx(0.5, abs=1e-2)
    forced = PID(1e-9, 1e-9, min_step=1e-3, force_min_step=True)
    sol = solve(ODETerm(kinked), y0, ts, controller=forced)
    assert sol.status.tolist() == [Status.SUCCESS] * batch
    valid = sol.stats.valid
    # The end, or half of what remains before it, may be shorter.
    assert (sol.stats.step[valid] >= 1e-3).sum() >= valid.sum() - 2 * batch
    assert (sol.stats.error_estimate > 1.0).any()


@BATCHES
def test_a_field_that_is_no_number_is_not_forced(batch: int, f64: KIND) -> None:
    sol = solve(
        ODETerm(lambda t, y: (0.5 - t).log().reshape(-1, 1).expand_as(y)),
        torch.zeros(batch, 1, **f64),
        torch.tensor([0.0, 1.0], **f64),
        controller=PID(min_step=1e-3, force_min_step=True),
        throw=False,
    )
    assert sol.status.tolist() == [Status.NON_FINITE_FIELD] * batch


@BATCHES
def test_max_and_first_step(batch: int, f64: KIND) -> None:
    y0, ts = normal((batch, 2), 0, **f64), torch.tensor([0.0, 4.0], **f64)
    term = ODETerm(OSCILLATOR.field)
    for options in (
        {"max_step": 0.05},
        {"max_step": 0.05, "first_step": 1.0},
        {"max_step": 0.05, "step_t": torch.tensor([0.33], **f64)},
    ):
        sol = solve(term, y0, ts, controller=PID(**options))
        assert sol.stats.step.max() <= 0.05
    for first in (1e-3, 0.07):
        sol = solve(term, y0, ts, controller=PID(first_step=first))
        assert sol.stats.step[0].tolist() == pytest.approx([first] * batch)
    sol = solve(term, y0, ts, controller=PID(first_step=1e-9, min_step=1e-2))
    assert sol.stats.step[0].tolist() == pytest.approx([1e-2] * batch)
    sol = solve(term, y0, ts, controller=PID(1e2, 1e2, first_step=99.0))
    assert sol.stats.step[0].tolist() == [4.0] * batch


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"first_step": 0.0}, "first_step"),
        ({"first_step": float("nan")}, "first_step"),
        ({"first_step": "a"}, "first_step"),
        ({"min_step": -1.0}, "min_step"),
        ({"min_step": 2.0, "max_step": 1.0}, "min_step"),
        ({"max_step": 0.0}, "max_step"),
        ({"max_step": float("nan")}, "max_step"),
        ({"max_step": None}, "max_step"),
        ({"pcoeff": float("inf")}, "pcoeff"),
        ({"pcoeff": 0.0, "icoeff": 0.0}, "pcoeff"),
    ],
)
def test_bad_bounds(options: dict, match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        PID(**options)


@pytest.mark.parametrize("name", ["step_t", "jump_t"])
@pytest.mark.parametrize(
    "times",
    [
        [0.5],
        torch.tensor([1]),
        torch.tensor(0.5),
        torch.zeros(2, 1),
        torch.zeros(1, 1, 1),
    ],
)
def test_bad_times(name: str, times: object, f64: KIND) -> None:
    for controller in (PID, lambda **o: FixedSteps(0.1, **o)):
        with pytest.raises((TypeError, ValueError), match=name):
            solve(
                ODETerm(OSCILLATOR.field),
                normal((3, 2), 0, **f64),
                torch.tensor([0.0, 1.0], **f64),
                controller=controller(**{name: times}),
            )


def test_bad_grids(f64: KIND) -> None:
    for times in ([0.5], torch.tensor([1]), torch.zeros(2, 1)):
        with pytest.raises((TypeError, ValueError), match="times"):
            solve(
                ODETerm(OSCILLATOR.field),
                normal((3, 2), 0, **f64),
                torch.tensor([0.0, 1.0], **f64),
                controller=StepTo(times),  # type: ignore[arg-type]
            )


def test_multistep_methods_do_not_jump(f64: KIND) -> None:
    with pytest.raises(ValueError, match="jump_t"):
        solve(
            ODETerm(OSCILLATOR.field),
            normal((3, 2), 0, **f64),
            torch.tensor([0.0, 1.0], **f64),
            method="explicit_adams",
            controller=FixedSteps(0.1, jump_t=torch.tensor([0.5])),
        )
