"""What a solution with events shows: values up to them, other samples, its cost."""

import math

import pytest
import torch
from problems import KIND, OSCILLATOR
from torch import Tensor

from nde.solvers import (
    PID,
    Event,
    FixedSteps,
    ODETerm,
    Solution,
    Status,
    StepTo,
    solve,
)

TIGHT = PID(rtol=1e-10, atol=1e-12)
GRID = torch.linspace(0.0, 10.0, 301, dtype=torch.float64)
CONTROLLERS = {"pid": TIGHT, "fixed": FixedSteps(0.02), "to": StepTo(GRID)}
CONTROLLED = pytest.mark.parametrize(
    "controller", CONTROLLERS.values(), ids=CONTROLLERS
)

OSCILLATE = ODETerm(OSCILLATOR.field)


def first(t: Tensor, y: Tensor) -> Tensor:
    return y[:, 0]


def oscillating(count: int, **kind: torch.dtype | torch.device) -> Tensor:
    """States at the angles 0, 0.3, ... of the unit circle: zero at pi / 2 + angle."""
    angle = 0.3 * torch.arange(count, **kind)
    return torch.stack((angle.cos(), angle.sin()), -1)


def span(end: float, **kind: torch.dtype | torch.device) -> Tensor:
    return torch.tensor([0.0, end], **kind)


def close(found: Tensor, wanted: list[float] | Tensor, atol: float = 1e-8) -> None:
    wanted = torch.as_tensor(wanted, dtype=found.dtype, device=found.device)
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


@CONTROLLED
def test_others_are_not_touched_by_the_event_of_one(
    controller: object, f64: KIND
) -> None:
    """Bit for bit: the event ends sample 1 alone."""
    y0 = oscillating(3, **f64)
    ts = torch.linspace(0.0, 5.0, 7, **f64)
    level = torch.tensor([9.0, 0.5, 9.0], **f64)

    def solved(events: list[Event]) -> Solution:
        return solve(
            OSCILLATE, y0, ts, controller=controller, events=events, dense=True
        )

    sol = solved([Event(lambda t, y: y[:, 0] - level)])
    free = solved([Event(lambda t, y: y[:, 0] - 9.0)])
    assert sol.status.tolist() == [Status.SUCCESS, Status.EVENT, Status.SUCCESS]
    at = torch.tensor([0.3, 2.2, 4.99], **f64)
    for found, wanted in (
        (sol.ys, free.ys),
        (sol.final, free.final),
        (sol.evaluate(at), free.evaluate(at)),
    ):
        assert torch.equal(found[[0, 2]], wanted[[0, 2]])
    reached = ts <= sol.events.time[1, 0]
    close(sol.ys[1][reached], free.ys[1][reached], atol=1e-9)
    assert torch.isnan(sol.ys[1][~reached]).all()


@CONTROLLED
def test_reading_up_to_the_event(controller: object, f64: KIND) -> None:
    ts = torch.linspace(0.0, 3.0, 13, **f64)
    sol = solve(
        OSCILLATE,
        oscillating(2, **f64),
        ts,
        controller=controller,
        events=[Event(first)],
        dense=True,
        probe_times=torch.tensor([1.51, 2.9], **f64),
    )
    exact = OSCILLATOR.solution(ts, oscillating(2, **f64))
    end = sol.events.time
    wanted = exact.masked_fill((ts > end).unsqueeze(2), torch.nan)
    torch.testing.assert_close(sol.ys, wanted, rtol=0, atol=1e-7, equal_nan=True)
    at = torch.stack((end[:, 0], end[:, 0] - 0.1, end[:, 0] + 0.1), 1)
    values, slopes = sol.evaluate(at), sol.derivative(at)
    close(values[:, 0], sol.final, atol=1e-9)
    assert torch.isnan(values[:, 2]).all() and torch.isnan(slopes[:, 2]).all()
    close(slopes[:, 0], [[-1.0, 0.0]] * 2, atol=1e-4)
    close(sol.probes[:, 0, 0], [math.cos(1.51), math.cos(1.21)], atol=1e-7)
    assert torch.isnan(sol.probes[:, 1]).all()


@CONTROLLED
def test_evaluations_are_counted(controller: object, f64: KIND) -> None:
    calls = 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return OSCILLATOR.field(t, y)

    with torch.no_grad():
        sol = solve(
            ODETerm(field),
            oscillating(1, **f64),
            span(9.0, **f64),
            controller=controller,
            events=[Event(first)],
        )
    assert sol.stats.evaluations.tolist() == [calls]
