"""What the audit measures by: slopes, live bytes, solves along frozen steps."""

import math

import pytest
import torch
from problems import normal
from torch import Tensor

from nde.audit.differences import slope
from nde.audit.memory import LiveBytes, measured
from nde.solvers import PID, Direct, ODETerm, SDETerm, solve
from nde.solvers.adjoint.frozen import Frozen

SIZE = 1000 * 8


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (math.exp, 1.0),
        (lambda x: math.sin(30 * x), 30.0),
        (lambda x: 1e6 + x, 1.0),
        (lambda x: abs(x - 1e-3), -1.0),
        (lambda x: math.exp(x) + 1e-8 * math.sin(1e9 * x), 1.0),
        (lambda x: 5.0, 0.0),
    ],
)
def test_slopes_know_their_error(function: object, wanted: float) -> None:
    found = slope(function)  # type: ignore[arg-type]
    assert abs(found.value - wanted) <= 20 * found.error
    assert found.error <= 2e-4 * max(wanted, 1.0)


def test_a_jump_leaves_no_slope() -> None:
    assert slope(lambda x: math.copysign(1.0, x)).error > 1.0


def test_live_bytes() -> None:
    old = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    with LiveBytes() as live:
        view = old.detach()[10:]
        view.mul_(1.0)
        assert live.now == 0
        x = old * 2
        assert live.now == SIZE
        y = x.sin().view(10, 100)
        assert live.now == 2 * SIZE
        total = y.sum()
        del y
        # Only the sum stays; x is kept for the gradient of the sine.
        assert live.now == SIZE + 8
        del x
        assert live.now == SIZE + 8
        total.backward()
        assert live.now == SIZE + 8  # the gradient of `old`, and the sum
        assert live.peak >= 2 * SIZE + 8
    assert old.grad is not None


def test_measured() -> None:
    calls = []

    def call() -> float:
        calls.append(torch.ones(1000, dtype=torch.float64) + 1)
        return float(calls.pop().sum())

    found = measured(call, torch.device("cpu"), runs=2)
    assert found.result == 2000.0 and found.seconds > 0
    assert 2 * SIZE <= found.peak_bytes < 2 * SIZE + 100


TS = torch.tensor([[0.0, 0.3, 1.0], [0.0, 0.7, 2.0]], dtype=torch.float64)


def values(adjoint: object, kind: str, scale: float, t1: float = 2.0) -> Tensor:
    """A solve of two samples whose field is scaled."""
    factor = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    y0 = normal((2, 2), 3)
    times = TS.clone()
    times[1, 2] = t1

    def drift(t: Tensor, y: Tensor) -> Tensor:
        return factor * (3 * y).sin()

    ode = kind == "ode"
    sol = solve(
        ODETerm(drift) if ode else SDETerm(drift, lambda t, y: 0.3 * y),
        y0,
        times,
        method="tsit5" if ode else "sosri2",
        controller=PID(1e-2, 1e-2),
        noise=None if ode else 5,
        adjoint=adjoint,  # type: ignore[arg-type]
    )
    found = sol.ys.detach().flatten()
    return torch.cat([found, sol.stats.error_estimate.detach()[sol.stats.valid]])


@pytest.mark.parametrize("kind", ["ode", "sde"])
def test_frozen_steps_stay(kind: str) -> None:
    frozen = Frozen()
    first = values(frozen, kind, 1.0)
    assert frozen.adaptive
    torch.testing.assert_close(first, values(Direct(), kind, 1.0), rtol=1e-12, atol=0)
    frozen.again()
    torch.testing.assert_close(values(frozen, kind, 1.0), first, rtol=1e-12, atol=0)
    frozen.again()
    near = values(frozen, kind, 1.001)
    # As many steps as in the first round, and values that differ a little.
    assert near.shape == first.shape
    assert 0 < float((near - first).abs().max()) < 0.05


def test_frozen_steps_do_not_fit_another_interval() -> None:
    frozen = Frozen()
    values(frozen, "ode", 1.0)
    frozen.again()
    found = values(frozen, "ode", 1.0, t1=2.5)
    wanted = values(Direct(), "ode", 1.0, t1=2.5)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
