"""Tensors that only a later call uses, or that were computed from one another."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from problems import KIND, normal
from torch import Tensor, nn

from nde.models import NeuralODE, SolverSettings
from nde.solvers import Direct, FixedSteps, ODETerm, Recompute, solve

Field = Callable[[Tensor, Tensor], Tensor]

_LATE: dict[str, Any] = {}


def switch(t: Tensor, y: Tensor, early: nn.Module, late: nn.Module) -> Tensor:
    return early(y) if float(t.max()) < 0.5 else late(y)


class Caller:
    def __init__(self, nets: list[nn.Module]) -> None:
        self.nets = nets

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return switch(t, y, *self.nets)


class Slots:
    __slots__ = ("nets",)

    def __init__(self, *nets: nn.Module) -> None:
        self.nets = nets

    def rhs(self, t: Tensor, y: Tensor) -> Tensor:
        return switch(t, y, *self.nets)


def by_default(a: nn.Module, b: nn.Module) -> Field:
    def f(t: Tensor, y: Tensor, nets: tuple[nn.Module, ...] = (a, b)) -> Tensor:
        return switch(t, y, *nets)

    return f


def nested(a: nn.Module, b: nn.Module) -> Field:
    def inner(y: Tensor) -> Tensor:
        return b(y)

    return lambda t, y: a(y) if float(t.max()) < 0.5 else inner(y)


def by_global(a: nn.Module, b: nn.Module) -> Field:
    _LATE["net"] = b
    return lambda t, y: a(y) if float(t.max()) < 0.5 else _LATE["net"](y)


HOLDS: dict[str, Callable[[nn.Module, nn.Module], Field]] = {
    "closure": lambda a, b: lambda t, y: switch(t, y, a, b),
    "nested function": nested,
    "partial": lambda a, b: partial(switch, early=a, late=b),
    "callable object": lambda a, b: Caller([a, b]),
    "slots": lambda a, b: Slots(a, b).rhs,
    "default": by_default,
    "global": by_global,
    "layer with a path": lambda a, b: (
        NeuralODE(
            lambda t, y: switch(t, y, a, b),
            solver=SolverSettings(method="rk4", step=0.1),
        ).field
    ),
}


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
def test_parameters_used_late_only(
    hold: Callable[[nn.Module, nn.Module], Field], f64: KIND
) -> None:
    torch.manual_seed(0)
    a, b = nn.Linear(2, 2).to(**f64), nn.Linear(2, 2).to(**f64)
    field, found = hold(a, b), []
    for adjoint in (Recompute(), Direct()):
        sol = solve(
            ODETerm(field),
            normal((3, 2), 0, **f64),
            torch.tensor([0.0, 1.0], **f64),
            method="rk4",
            controller=FixedSteps(0.1),
            adjoint=adjoint,
        )
        weights = [*a.parameters(), *b.parameters()]
        found.append(torch.autograd.grad(sol.final.sum(), weights))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


def test_what_cannot_be_found_is_refused(f64: KIND) -> None:
    """A gradient is never lost in silence where a look is taken."""
    late = nn.Linear(2, 2).to(**f64)
    hidden = weakref.ref(late)

    def field(t: Tensor, y: Tensor) -> Tensor:
        net = hidden()
        assert net is not None
        return -y if float(t.max()) < 0.5 else net(y)

    y0 = normal((3, 2), 0, **f64).requires_grad_()
    sol = solve(ODETerm(field), y0, torch.tensor([0.0, 1.0], **f64))
    with pytest.raises(RuntimeError, match=r"shape \(2, 2\).*Direct\(\)"):
        sol.final.sum().backward()


@pytest.mark.parametrize("leaf", [True, False], ids=["leaf", "computed"])
def test_a_tensor_beside_one_made_from_it(leaf: bool, f64: KIND) -> None:
    """The graph between the two is walked once, by the outer backward pass."""
    found = []
    for adjoint in (Recompute(), Direct()):
        source = normal((3, 2), 1, **f64).requires_grad_()
        w = source if leaf else source.sin()
        made = (w * w).tanh()
        y0 = normal((3, 2), 0, **f64).requires_grad_()
        sol = solve(
            ODETerm(lambda t, y, w=w, made=made: w * y.cos() - made * y),
            y0,
            torch.linspace(0, 1, 3, **f64),
            adjoint=adjoint,
        )
        found.append(torch.autograd.grad(sol.ys.square().sum(), (source, y0)))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-13)


def test_a_change_of_what_was_not_used_is_no_matter(f64: KIND) -> None:
    """Parameters that a closure only holds may be stepped before the backward pass."""
    used, other = nn.Linear(2, 2).to(**f64), nn.Linear(2, 2).to(**f64)
    nets = [used, other]
    sol = solve(
        ODETerm(lambda t, y: nets[0](y)),
        normal((3, 2), 0, **f64),
        torch.tensor([0.0, 1.0], **f64),
    )
    with torch.no_grad():
        other.weight.add_(1.0)
    sol.final.sum().backward()
    assert used.weight.grad is not None and other.weight.grad is None
