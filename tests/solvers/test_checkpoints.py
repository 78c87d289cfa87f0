"""Recompute with fewer states than steps: the same gradients, and what it costs."""

import math
from collections.abc import Callable

import pytest
import torch
from held import bytes_alive
from problems import KIND, TimedMLP, normal
from sde_gradients import TIMES, Scaled, everything
from sde_gradients import found as sde_gradients
from torch import Tensor

from nde.solvers import (
    PID,
    Direct,
    Event,
    FixedSteps,
    ODETerm,
    Recompute,
    solve,
)
from nde.solvers.adjoint.checkpoints import go_back, room
from nde.solvers.types import Step

STATES = [1, 2, 5, 400, "sqrt", "log"]
few = pytest.mark.parametrize("states", STATES)


class Walker:
    """Counts the steps walked and the places alive at a time."""

    def __init__(self) -> None:
        self.walked: dict[int, int] = {}
        self.visited: list[int] = []

    def walk(self, place: list[int], a: int, b: int) -> list[int]:
        assert place == [a] and a < b
        for step in range(a, b):
            self.walked[step] = self.walked.get(step, 0) + 1
        return [b]

    def visit(self, step: int, place: list[int]) -> None:
        assert place == [step]
        self.visited.append(step)


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 20, 100, 1001])
@pytest.mark.parametrize("places", [1, 2, 3, 8, 45, 2000])
def test_every_step_is_visited_once_from_its_place(steps: int, places: int) -> None:
    """And walked no oftener than the binomial bound says."""
    if steps > 200 and places == 1:
        return  # Half a million steps, with nothing new to see.
    walker = Walker()
    go_back(steps, [0], places, walker.walk, walker.visit)
    assert walker.visited == list(range(steps))[::-1]
    again = 0
    while math.comb(places + again, again) < steps:
        again += 1
    assert max(walker.walked.values(), default=0) <= again


def test_room() -> None:
    assert [room("sqrt", n) for n in (0, 1, 2, 200, 2000)] == [1, 2, 2, 20, 64]
    assert [room("log", n) for n in (0, 1, 7, 8, 2000)] == [1, 1, 3, 4, 11]
    for steps in (2, 17, 200, 2000):
        walker = Walker()
        go_back(steps, [0], room("sqrt", steps), walker.walk, walker.visit)
        assert max(walker.walked.values()) <= 2


def ode_gradients(
    adjoint: object,
    kind: KIND,
    loss: Callable[..., Tensor] = everything,
    **options: object,
) -> list[Tensor]:
    net = TimedMLP(3, seed=1).to(**kind)
    y0 = normal((5, 3), 0, **kind).requires_grad_()
    ts = torch.tensor([0.0, 0.21, 0.5, 1.4], **kind)
    sol = solve(ODETerm(net), y0, ts, adjoint=adjoint, **options)
    return list(torch.autograd.grad(loss(sol), (y0, *net.parameters())))


def assert_equal(found: list[Tensor], wanted: list[Tensor], rtol: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)


CASES = {
    "pid": {"controller": PID(1e-4, 1e-5)},
    "shared": {"controller": PID(1e-4, 1e-5), "batch": "shared"},
    "fixed": {"controller": FixedSteps(0.06)},
    "adams": {"controller": FixedSteps(0.06), "method": "explicit_adams"},
    "jump": {
        "controller": PID(1e-4, 1e-5, jump_t=torch.tensor([0.3, 0.9])),
        "method": "dopri5",
    },
    "own jumps": {
        "controller": FixedSteps(
            0.06, jump_t=torch.linspace(0.1, 0.9, 5, dtype=torch.float64)[:, None]
        ),
        "method": "dopri5",
    },
}


@few
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_odes(case: str, states: object, f64: KIND) -> None:
    options = dict(CASES[case])
    wanted = ode_gradients(Recompute(), f64, **options)
    assert_equal(ode_gradients(Recompute(states=states), f64, **options), wanted, 1e-12)


@few
@pytest.mark.parametrize("ts", ["common", "own"])
@pytest.mark.parametrize("method", ["reversible_heun", "euler_heun", "slow_rk"])
@pytest.mark.parametrize("steps", ["pid", "fixed"])
def test_gradients_of_sdes(
    ts: str, method: str, states: object, steps: str, f64: KIND
) -> None:
    """With samples that end early, and one that never moves."""
    net, y0 = Scaled("scalar", **f64), normal((5, 2), 1, **f64)
    options = {"ts": TIMES[ts], "method": method}
    if steps == "pid":
        options["controller"] = PID(1e-2, 1e-2)
    wanted = sde_gradients(net, y0, Direct(), **options)
    got = sde_gradients(net, y0, Recompute(states=states), **options)
    assert_equal(got, wanted, 1e-11)


@few
def test_gradients_through_events(states: object, f64: KIND) -> None:
    options = {
        "events": [Event(lambda t, y: y[:, 0] - 0.3)],
        "controller": PID(1e-4, 1e-5),
        "loss": lambda sol: sol.final.square().sum() + sol.events.time.nansum(),
    }
    wanted = ode_gradients(Recompute(), f64, **options)
    assert_equal(ode_gradients(Recompute(states=states), f64, **options), wanted, 1e-12)


@few
@pytest.mark.parametrize("controller", [PID(1e-4, 1e-5), FixedSteps(0.05)])
def test_a_sample_that_fails(states: object, controller: object, f64: KIND) -> None:
    rate = torch.tensor(1.0, **f64).requires_grad_()
    y0 = torch.tensor([[0.2], [3.0], [0.1]], **f64)
    found = []
    for adjoint in (Recompute(), Recompute(states=states)):
        sol = solve(
            ODETerm(lambda t, y: rate * y**2),
            y0,
            torch.tensor([[0.0, 1.0]], **f64).expand(3, 2),
            controller=controller,
            adjoint=adjoint,
            throw=False,
        )
        assert sol.ys[1, 1].isnan().all()
        loss = sol.ys[[0, 2]].square().sum()
        found.append(list(torch.autograd.grad(loss, rate)))
    assert_equal(*found, 1e-12)


class Steps:
    """Counts steps that a backward pass takes, walks and visits."""

    def __init__(self) -> None:
        self.count = 0

    def attempt(self, t: Step, y: Tensor, h: Step) -> None:
        pass

    def judge(self, t: Step, y: Tensor, h: Step, accept: object) -> None:
        pass

    def replay(self, t: Step, y: Tensor, h: Step) -> None:
        self.count += 1


def held(states: object, steps: int, kind: KIND) -> tuple[int, int]:
    """Bytes held between forward and backward pass, and steps of the latter."""
    rate = torch.tensor(0.3, **kind, requires_grad=True)
    y0, ts = torch.ones(4, 512, **kind), torch.tensor([0.0, 1.0], **kind)
    watch = Steps()

    before = bytes_alive()
    sol = solve(
        ODETerm(lambda t, y: (rate * y).sin()),
        y0,
        ts,
        method="rk4",
        controller=FixedSteps(1 / steps),
        adjoint=Recompute(states=states),
        observer=watch,
    )
    loss = sol.ys.sum()
    kept = bytes_alive() - before
    loss.backward()
    return kept, watch.count


def test_memory_and_work(f64: KIND) -> None:
    state = 4 * 512 * 8
    few, many, every = (
        held(*which, f64) for which in (("sqrt", 20), ("sqrt", 200), ("all", 200))
    )
    # Between the passes only times are kept; in the second, 20 places.
    assert many[0] - few[0] < 4 * state
    assert every[0] - few[0] > 195 * state
    assert every[1] == 200
    assert 200 < many[1] <= 3 * 200
    assert held("log", 200, f64)[1] <= 6 * 200


@pytest.mark.parametrize("states", [0, -1, 1.5, True, "root", None])
def test_refusals(states: object) -> None:
    with pytest.raises(ValueError, match=r"states must be .*'sqrt'"):
        Recompute(states=states)
