"""What Reversible keeps along a reversible pair, what it costs, what it refuses."""

import pytest
import torch
from held import bytes_alive
from problems import KIND
from torch import Tensor

from nde.solvers import (
    FixedSteps,
    McCallumFoster,
    ODETerm,
    Recompute,
    Reversible,
    solve,
)
from nde.solvers.types import Step


@pytest.mark.parametrize(("base", "calls"), [("rk4", 8), ("tsit5", 13)])
def test_calls_of_the_way_back(base: str, calls: int, f64: KIND) -> None:
    class Replayed:
        def __init__(self) -> None:
            self.times: list[float] = []

        def attempt(self, t: Step, y: Tensor, h: Step) -> None: ...

        def judge(self, t: Step, y: Tensor, h: Step, accept: object) -> None: ...

        def replay(self, t: Step, y: Tensor, h: Step) -> None:
            assert isinstance(t, float)
            self.times.append(t)

    count, observer = 0, Replayed()
    rate = torch.tensor(0.6, **f64, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return (rate * y).cos()

    sol = solve(
        ODETerm(f),
        torch.ones(2, 2, **f64),
        torch.tensor([0.0, 1.0], **f64),
        method=McCallumFoster(base),
        controller=FixedSteps(0.125),
        adjoint=Reversible(),
        observer=observer,
    )
    count = 0
    sol.final.sum().backward()
    assert count == 8 * calls
    assert observer.times == [j / 8 for j in reversed(range(8))]


def held(adjoint: object, steps: int, coupling: float, kind: KIND) -> int:
    """Bytes held between forward and backward pass."""

    rate = torch.tensor(0.3, **kind, requires_grad=True)
    y0, ts = torch.ones(1, WIDE, **kind), torch.tensor([0.0, 0.5, 1.0], **kind)
    before = bytes_alive()
    sol = solve(
        ODETerm(lambda t, y: (rate * y).sin()),
        y0,
        ts,
        method=McCallumFoster("euler", coupling),
        controller=FixedSteps(1 / steps),
        adjoint=adjoint,
    )
    loss = sol.ys.sum()
    assert loss.requires_grad
    return bytes_alive() - before


WIDE = 1 << 14


def test_no_states_are_kept(f64: KIND) -> None:
    state = WIDE * 8
    few, many = (held(Reversible(), n, 0.999, f64) for n in (200, 2000))
    assert many < 1.2 * few
    assert few < 20 * state
    # A slope and two states of every 28th step; of every step.
    sparse = held(Reversible(), 560, 0.9, f64) - held(Reversible(), 280, 0.9, f64)
    assert 30 * state <= sparse < 31 * state
    stored = held(Recompute(), 80, 0.9, f64) - held(Recompute(), 40, 0.9, f64)
    assert 120 * state <= stored < 121 * state


def test_accepted_steps_are_not_at_hand(f64: KIND) -> None:
    y0 = torch.ones(2, 2, **f64).requires_grad_()
    sol = solve(
        ODETerm(lambda t, y: y.cos()),
        y0,
        torch.tensor([0.0, 1.0], **f64),
        method=McCallumFoster("tsit5"),
        adjoint=Reversible(),
    )
    with pytest.raises(ValueError, match=r"kept no accepted steps.*Recompute\(\)"):
        sol.accepted_step(torch.zeros(2, dtype=torch.int64, device=y0.device))


def test_other_methods_are_refused(f64: KIND) -> None:
    message = r"ODETerm back .* got method 'tsit5'; solve with method=McCallumFoster"
    ts = torch.tensor([0.0, 1.0], **f64)
    with pytest.raises(ValueError, match=message):
        solve(
            ODETerm(lambda t, y: -y), torch.ones(2, 2, **f64), ts, adjoint=Reversible()
        )
