"""What adjoints for SDEs keep, what their way back costs, and what they refuse."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from held import bytes_alive
from problems import KIND, normal
from sde_gradients import BATCH, STEP, Scaled, found, nodes
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from nde.solvers import (
    Backsolve,
    BrownianGrid,
    FixedSteps,
    Recompute,
    Reversible,
    SDETerm,
    solve,
)
from nde.solvers.types import Step


class Saved:
    """Counts tensors that graphs hold."""

    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Saved.now += 1
        Saved.most = max(Saved.most, Saved.now)

    def __del__(self) -> None:
        Saved.now -= 1


WIDE = 64


def kept(adjoint: object, steps: int, kind: KIND) -> tuple[int, int]:
    """Bytes held between forward and backward pass, most tensors saved in backward."""
    rate = torch.tensor(0.3, **kind, requires_grad=True)
    term = SDETerm(
        lambda t, y: (rate * y).sin(),
        lambda t, y: 0.1 * y,
        noise="scalar",
        interpretation="stratonovich",
    )
    y0, ts = torch.ones(4, WIDE, **kind), torch.tensor([0.0, 0.5, 1.0], **kind)
    before = bytes_alive()
    sol = solve(
        term,
        y0,
        ts,
        method="reversible_heun",
        controller=FixedSteps(1 / steps),
        adjoint=adjoint,
        noise=BrownianGrid(1),
    )
    loss = sol.ys.sum()
    held = bytes_alive() - before
    Saved.most = Saved.now
    with saved_tensors_hooks(Saved, lambda packed: packed.tensor):
        loss.backward()
    return held, Saved.most - Saved.now


@pytest.mark.parametrize("adjoint", [Reversible(), Backsolve()])
def test_no_states_are_kept(adjoint: object, f64: KIND) -> None:
    state = 4 * WIDE * 8
    few, many, stored = (
        kept(*which, f64)
        for which in ((adjoint, 16), (adjoint, 272), (Recompute(), 272))
    )
    # Brownian increments and times of steps are kept: a few numbers for each.
    assert many[0] - few[0] < 256 * state / 4
    assert stored[0] - few[0] > 256 * state
    assert 0 < many[1] == few[1]


@pytest.mark.parametrize("begin", [0.0, 1e6])
def test_states_are_kept_only_where_a_sample_failed(begin: float, f64: KIND) -> None:
    """Rounding of late times is no failure."""
    term = SDETerm(
        lambda t, y: y**2, lambda t, y: 0.1 * y, interpretation="stratonovich"
    )
    for start, name in ((0.5, "_ReversibleBackward"), (2.0, "_RecomputeBackward")):
        sol = solve(
            term,
            torch.tensor([[0.1], [start]], **f64, requires_grad=True),
            torch.tensor([begin, begin + 0.7, begin + 1.1], **f64),
            method="reversible_heun",
            controller=FixedSteps(1 / 64),
            adjoint=Reversible(),
            throw=False,
        )
        assert name in nodes(sol.ys)


@pytest.mark.parametrize(("adjoint", "calls"), [(Reversible(), 17), (Backsolve(), 32)])
def test_calls_of_the_way_back(adjoint: object, calls: int, f64: KIND) -> None:
    net, y0 = Scaled("diagonal", **f64), normal((BATCH, 2), 1, **f64).requires_grad_()
    counts = {"drift": 0, "diffusion": 0}

    def counted(name: str) -> Callable[..., Tensor]:
        function = getattr(net.term, name)

        def call(*given: Tensor) -> Tensor:
            counts[name] += 1
            return function(*given)

        return call

    class Observer:
        replayed: list[float] = []

        def attempt(self, t: Step, y: Tensor, h: Step) -> None:
            pass

        def judge(self, t: Step, y: Tensor, h: Step, accept: object) -> None:
            pass

        def replay(self, t: Step, y: Tensor, h: Step) -> None:
            self.replayed.append(t)

    observer = Observer()
    sol = solve(
        replace(net.term, drift=counted("drift"), diffusion=counted("diffusion")),
        y0,
        torch.tensor([0.0, 0.5, 1.0], **f64),
        method="reversible_heun",
        controller=FixedSteps(STEP),
        adjoint=adjoint,
        args=torch.tensor(0.3, **f64),
        observer=observer,
    )
    counts.update(drift=0, diffusion=0)
    sol.final.sum().backward()
    assert counts == {"drift": calls, "diffusion": calls}
    assert observer.replayed == [j * STEP for j in reversed(range(16))]


REFUSED = {
    "another method": (
        Reversible(),
        {"method": "heun"},
        r"adjoint=Reversible\(\) .*'reversible_heun', got method 'heun'; solve with",
    ),
    "a jump": (
        Reversible(),
        {"controller": FixedSteps(STEP, jump_t=(0.5,))},
        r"adjoint=Reversible\(\) cannot walk back across jump_t.*use adjoint=Recompute",
    ),
    "an Ito term": (
        Backsolve(),
        {"method": "euler", "interpretation": "ito"},
        r"adjoint=Backsolve\(\) .*Ito term with diagonal noise; .*to\('stratonovich'\)",
    ),
    "a way back of its own": (
        Backsolve(method="tsit5"),
        {},
        r"Backsolve\(method=\.\.\., controller=\.\.\.\) is for an ODETerm; .*out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, f64: KIND) -> None:
    adjoint, options, message = REFUSED[case]
    options = {"controller": FixedSteps(STEP), "method": "reversible_heun", **options}
    kind = options.pop("interpretation", "stratonovich")

    def never(t: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("work had begun")

    with pytest.raises(ValueError, match=message):
        solve(
            SDETerm(never, never, interpretation=kind),
            torch.ones(2, 2, **f64),
            torch.tensor([0.0, 1.0], **f64),
            adjoint=adjoint,
            **options,
        )


def test_backsolve_has_no_gradient_of_statistics(f64: KIND) -> None:
    net, y0 = Scaled("diagonal", **f64), normal((BATCH, 2), 1, **f64)
    with pytest.raises(RuntimeError, match=r"estimates.*Backsolve\(\).*Recompute\(\)"):
        found(net, y0, Backsolve())


@pytest.mark.parametrize("kind", [Reversible, Backsolve])
def test_only_named_parameters_get_gradients(
    kind: type[Reversible | Backsolve], f64: KIND
) -> None:
    net, y0 = Scaled("diagonal", **f64), normal((BATCH, 2), 1, **f64)
    sol = solve(
        net.term,
        y0,
        torch.tensor([0.0, 1.0], **f64),
        method="reversible_heun",
        controller=FixedSteps(STEP),
        adjoint=kind(parameters=(net.rate,)),
        args=torch.tensor(0.3, **f64),
    )
    sol.final.sum().backward()
    assert net.rate.grad is not None and bool(net.rate.grad.any())
    assert net.size.grad is None and net.shift.grad is None
