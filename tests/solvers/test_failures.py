"""Solves that cannot reach the end: what is raised, what is returned, what is kept."""

import pytest
import torch
from fields import after_half, ones, times
from problems import KIND
from torch import Tensor

from nde.solvers import (
    PID,
    FixedSteps,
    ODETerm,
    SolveError,
    Status,
    solve,
)

NAN, INF = float("nan"), float("inf")
OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {"method": "dopri5"},
        {"method": "tsit5", "batch": "shared"},
        {"method": "rk4", "controller": FixedSteps(0.05)},
        {"method": "euler", "controller": FixedSteps(0.05), "batch": "shared"},
    ],
    ids=["dopri5", "shared", "rk4", "euler"],
)


@OPTIONS
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_field_that_turns_non_finite(
    value: float, options: dict[str, object], f64: KIND
) -> None:
    with pytest.raises(SolveError) as caught:
        solve(ODETerm(after_half(value)), ones(**f64), times(0, 1, **f64), **options)
    assert caught.value.status in (Status.NON_FINITE_FIELD, Status.STEP_UNDERFLOW)
    assert caught.value.samples == (0, 1, 2, 3)
    assert 0.4 < caught.value.times[0] < 0.56
    text = str(caught.value)
    assert "finite" in text and ("0.5" in text or "0.4" in text)


@OPTIONS
def test_a_field_that_is_nan_from_the_start(
    options: dict[str, object], f64: KIND
) -> None:
    with pytest.raises(SolveError, match="finite") as caught:
        solve(ODETerm(lambda t, y: y * NAN), ones(**f64), times(0, 1, **f64), **options)
    assert caught.value.times[0] == 0
    assert caught.value.status == Status.NON_FINITE_FIELD
    assert caught.value.evaluations[0] < 2000


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_blow_up(batch: str, f64: KIND) -> None:
    """O49: y' = y^2 from 1 has its pole at t = 1."""
    with pytest.raises(SolveError) as caught:
        solve(ODETerm(lambda t, y: y * y), ones(**f64), times(0, 2, **f64), batch=batch)
    assert caught.value.times[0] == pytest.approx(1.0, abs=0.01)
    assert "1.0" in str(caught.value) or "0.99" in str(caught.value)


def test_pole_in_time(f64: KIND) -> None:
    """O53: y' = 1 / (1 - t), to t = 2.

    No method sees a pole between its stages, and one in seven tolerances steps over it.
    """

    def field(t: Tensor, y: Tensor) -> Tensor:
        return (1 / (1 - t)).reshape(-1, 1).expand(4, 2)

    with pytest.raises(SolveError) as caught:
        solve(
            ODETerm(field),
            ones(**f64),
            times(0, 2, **f64),
            controller=PID(rtol=1e-6, atol=1e-9),
        )
    assert caught.value.times[0] == pytest.approx(1.0, abs=0.01)


def test_blow_up_on_a_fixed_grid(f64: KIND) -> None:
    with pytest.raises(SolveError, match="finite"):
        solve(
            ODETerm(lambda t, y: y**3),
            ones(**f64),
            times(0, 5, **f64),
            method="rk4",
            controller=FixedSteps(0.05),
        )


def test_stiff_problem_ends_and_says_stiff(f64: KIND) -> None:
    """O51: Lipschitz constant 1e8 with an explicit method."""
    with pytest.raises(SolveError, match="(?i)max_steps.*stiff") as caught:
        solve(
            ODETerm(lambda t, y: -1e8 * (y - t.reshape(-1, 1).cos())),
            ones(**f64),
            times(0, 1, **f64),
            max_steps=300,
        )
    assert caught.value.status == Status.MAX_STEPS
    assert caught.value.evaluations[0] >= 300


def test_throw_false_returns_what_was_reached(f64: KIND) -> None:
    sol = solve(
        ODETerm(after_half(NAN)),
        ones(**f64),
        times(0, 0.25, 0.45, 1, **f64),
        throw=False,
    )
    assert (sol.status != Status.SUCCESS).all()
    want = torch.exp(-times(0, 0.25, 0.45, **f64)).expand(4, 3)
    torch.testing.assert_close(sol.ys[:, :3, 0], want, rtol=1e-2, atol=1e-3)
    assert sol.ys[:, 3].isnan().all()


def test_gradient_through_a_failed_solve(f64: KIND) -> None:
    """O82: on a fixed grid too, what was reached has finite gradients."""
    weight = torch.ones((), requires_grad=True, **f64)
    field = after_half(NAN)
    for options in (
        {"method": "rk4", "controller": FixedSteps(0.05)},
        {"method": "tsit5"},
    ):
        sol = solve(
            ODETerm(lambda t, y: weight * field(t, y)),
            ones(**f64),
            times(0, 0.25, 1, **f64),
            throw=False,
            **options,
        )
        (gradient,) = torch.autograd.grad(sol.ys[:, 1].sum(), weight)
        want = -0.25 * torch.exp(torch.tensor(-0.25, **f64)) * 8
        torch.testing.assert_close(gradient, want, rtol=1e-2, atol=0)


def test_chattering_ends(f64: KIND) -> None:
    """O81: y' = -sign(y) through zero."""
    sol = solve(
        ODETerm(lambda t, y: -y.sign()),
        ones(**f64),
        times(0, 2, **f64),
        throw=False,
        max_steps=2000,
    )
    good = sol.status == Status.SUCCESS
    assert (sol.final[good].abs() < 1e-3).all()
