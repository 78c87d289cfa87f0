"""How gradients of a solve reach leaves: hooks, and derivatives of derivatives."""

from collections.abc import Callable

import pytest
import torch
from problems import KIND
from torch import Tensor, nn

from nde.solvers import (
    PID,
    Backsolve,
    Direct,
    FixedSteps,
    McCallumFoster,
    ODETerm,
    Recompute,
    Reversible,
    SDETerm,
    Solution,
    solve,
)

GRID = FixedSteps(0.1)
TIGHT = PID(1e-6, 1e-8)
PAIR = McCallumFoster("tsit5")
WAYS = [
    (Recompute(), "tsit5"),
    (Recompute(states="log"), "tsit5"),
    (Reversible(), PAIR),
    (Backsolve(), "tsit5"),
]
SDE_WAYS = [
    (Recompute(), "heun"),
    (Reversible(), "reversible_heun"),
    (Backsolve(), "heun"),
]


def network(f64: KIND) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).to(**f64)


def ode(
    net: nn.Module,
    y0: Tensor,
    adjoint: object,
    method: object,
    controller: object = TIGHT,
) -> Solution:
    return solve(
        ODETerm(lambda t, y: net(y) + 0.1 * y0.sin()),
        y0,
        torch.linspace(0, 1, 3, dtype=y0.dtype, device=y0.device),
        method=method,
        controller=controller,
        adjoint=adjoint,
    )


def sde(
    net: nn.Module,
    y0: Tensor,
    adjoint: object,
    method: object,
    controller: object = GRID,
) -> Solution:
    return solve(
        SDETerm(
            lambda t, y: net(y) + 0.1 * y0.sin(),
            lambda t, y: 0.3 + 0 * y,
            interpretation="stratonovich",
        ),
        y0,
        torch.linspace(0, 1, 3, dtype=y0.dtype, device=y0.device),
        method=method,
        controller=controller,
        adjoint=adjoint,
        noise=1,
    )


CASES = [(ode, *way) for way in WAYS] + [(sde, *way) for way in SDE_WAYS]


@pytest.mark.parametrize(("run", "adjoint", "method"), CASES)
def test_hooks_run_once(
    run: Callable[..., Solution], adjoint: object, method: object, f64: KIND
) -> None:
    """On parameters and on y0, which the field uses too, with the whole gradient."""
    found = []
    for way in (Direct(), adjoint):
        net = network(f64)
        y0 = torch.linspace(-1, 1, 6, **f64).view(3, 2).requires_grad_()
        leaves, calls = (y0, *net.parameters()), []

        def halved(grad: Tensor, calls: list[int] = calls) -> Tensor:
            calls.append(1)
            return 0.5 * grad

        for leaf in leaves:
            leaf.register_hook(halved)
        run(net, y0, way, method).ys.square().sum().backward()
        assert len(calls) == len(leaves)
        found.append([leaf.grad for leaf in leaves])
    # Of an SDE's grid the adjoint equation is another discretisation.
    rough = isinstance(adjoint, Backsolve)
    rtol = (0.3 if run is sde else 1e-5) if rough else 1e-9
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None
        assert (one - other).norm() <= rtol * one.norm()


@pytest.mark.parametrize(("adjoint", "method"), WAYS)
def test_second_derivatives_are_refused_however_they_are_asked(
    adjoint: object, method: object, f64: KIND
) -> None:
    net = network(f64)
    y0 = torch.linspace(-1, 1, 6, **f64).view(3, 2)

    def loss(y: Tensor) -> Tensor:
        return ode(net, y, adjoint, method).ys.square().sum()

    with pytest.raises(RuntimeError, match="second derivative.*Direct"):
        torch.autograd.functional.hessian(loss, y0)
    with pytest.raises(RuntimeError, match="second derivative.*Direct"):
        torch.autograd.functional.hvp(loss, y0, torch.ones_like(y0))
    weights = tuple(net.parameters())
    grads = torch.autograd.grad(loss(y0), weights, create_graph=True)
    penalty = sum(grad.square().sum() for grad in grads)
    decay = 0.1 * sum(weight.square().sum() for weight in weights)
    with pytest.raises(RuntimeError, match="second derivative.*Direct"):
        torch.autograd.grad(penalty + decay, weights)


@pytest.mark.parametrize(("adjoint", "method"), WAYS)
def test_a_graph_that_is_not_used_is_harmless(
    adjoint: object, method: object, f64: KIND
) -> None:
    """Also where a loss looks inside of the solve, or at what it recorded."""
    net = network(f64)
    weights = tuple(net.parameters())
    y0 = torch.linspace(-1, 1, 6, **f64).view(3, 2)
    for statistics in (False, True)[: 1 if isinstance(adjoint, Backsolve) else 2]:
        grads = []
        for graph in (False, True):
            sol = ode(net, y0, adjoint, method)
            loss = sol.ys.square().sum()
            if statistics:
                loss = loss + sol.stats.error_estimate.square().sum()
            grads.append(torch.autograd.grad(loss, weights, create_graph=graph))
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("run", "adjoint", "method"), CASES)
def test_random_fields_are_told(
    run: Callable[..., Solution], adjoint: object, method: object, f64: KIND
) -> None:
    """Repeated, they would draw other numbers; taped, they may do as they like."""
    net = nn.Sequential(network(f64), nn.Dropout(0.3))
    y0 = torch.linspace(-1, 1, 6, **f64).view(3, 2).requires_grad_()
    with pytest.warns(UserWarning, match="draws random numbers.*Direct"):
        run(net, y0, adjoint, method, GRID)
    run(net, y0, Direct(), "heun" if run is sde else "tsit5", GRID)
    with torch.no_grad():
        run(net, y0, adjoint, method, GRID)
    run(net.eval(), y0, adjoint, method, GRID)


def test_random_fields_are_told_where_parameters_are_named(f64: KIND) -> None:
    """By methods that call the field before their first step."""
    net = nn.Sequential(network(f64), nn.Dropout(0.3))
    y0 = torch.linspace(-1, 1, 6, **f64).view(3, 2)
    named = Recompute(parameters=tuple(net.parameters()))
    with pytest.warns(UserWarning, match="draws random numbers.*Direct"):
        ode(net, y0, named, "tsit5", GRID)
