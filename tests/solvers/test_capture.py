"""Whatever way a field uses a tensor, its gradient is found under Recompute too.

Direct is ordinary autograd, which misses nothing, so it serves as the reference.
"""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from problems import KIND, Field, TimedMLP, column, normal
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
    solve,
)

Make = Callable[[Tensor, nn.Module], Field]


class Cube(torch.autograd.Function):
    """A custom function, which the watch must see through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x * x * gradient


class Holder:
    """A plain object whose method is the field."""

    def __init__(self, w: Tensor, net: nn.Module) -> None:
        self.w, self.net = w, net

    def rhs(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(t, y) * self.w


class Branching(nn.Module):
    """Uses one of its parts late only."""

    def __init__(self, w: Tensor, net: nn.Module) -> None:
        super().__init__()
        self.late = net
        self.w = nn.Parameter(w.detach().clone())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.late(t, y) if t.max() > 0.5 else -y * 0.5


FIELDS: dict[str, Make] = {
    "operator": lambda w, net: lambda t, y: y * w,
    "reversed": lambda w, net: lambda t, y: 1.0 / (1 + w * w) * y,
    "method": lambda w, net: lambda t, y: y.mul(w).add(w, alpha=0.3),
    "keyword": lambda w, net: lambda t, y: torch.addcmul(y, y, w, value=0.1),
    "list": lambda w, net: lambda t, y: y * torch.stack([w, w * 2]).sum(0),
    "index": lambda w, net: lambda t, y: y * w[0] - w[[1, 2, 0]],
    "property": lambda w, net: lambda t, y: -(w[:, None] * y.T).T,
    "einsum": lambda w, net: lambda t, y: torch.einsum("bi,i->bi", y, w),
    "matmul": lambda w, net: lambda t, y: y @ torch.outer(w, w),
    "unbind": lambda w, net: lambda t, y: torch.stack([-y[:, 0] * a for a in w], 1),
    "view": lambda w, net: lambda t, y: y * w.view(1, 3).expand_as(y),
    "computed": lambda w, net: (lambda z: lambda t, y: z * y)(torch.tanh(w * 2)),
    "slice of a computed": lambda w, net: (lambda z: lambda t, y: z[:3] * y * z[3:])(
        torch.cat((w, w.sin()))
    ),
    "custom function": lambda w, net: lambda t, y: -y * Cube.apply(w),
    "custom function of a mix": lambda w, net: lambda t, y: -Cube.apply(y * w),
    "functional": lambda w, net: lambda t, y: nn.functional.softplus(w) * y.cos(),
    "module in a lambda": lambda w, net: lambda t, y: net(t, y) * w,
    "bound method": lambda w, net: Holder(w, net).rhs,
    "in place": lambda w, net: lambda t, y: y.clone().mul_(w).sub_(y),
    "out of nowhere": lambda w, net: (
        lambda t, y: torch.ones_like(y) * torch.where(column(t) > 0.5, w, 2 * w)
    ),
    "checkpointed": lambda w, net: (
        lambda t, y: torch.utils.checkpoint.checkpoint(
            lambda a: a * w, y, use_reentrant=False
        )
    ),
    "inner gradient": lambda w, net: lambda t, y: -_potential_slope(w, y),
    "vmap": lambda w, net: lambda t, y: torch.func.vmap(lambda row: row * w)(y),
    "jvp": lambda w, net: (
        lambda t, y: torch.func.jvp(
            lambda a: (a * w).sin(), (y,), (torch.ones_like(y),)
        )[1]
    ),
}


def _potential_slope(w: Tensor, y: Tensor) -> Tensor:
    """The gradient of a potential, as in Hamiltonian models."""
    with torch.enable_grad():
        x = y if y.requires_grad else y.detach().requires_grad_()
        energy = (w * x**2).sum() + (x**4).sum() * 0.1
        (slope,) = torch.autograd.grad(energy, x, create_graph=True)
    return slope


CONTROLLERS = pytest.mark.parametrize(
    "controller", [PID(), FixedSteps(0.2)], ids=["pid", "fixed"]
)


# torch.func.jvp scripts its decompositions on first use.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@CONTROLLERS
@pytest.mark.parametrize("make", FIELDS.values(), ids=FIELDS)
def test_every_way_to_use_a_tensor(
    make: Make, controller: PID | FixedSteps, f64: KIND
) -> None:
    found = []
    for adjoint in (Recompute(), Direct()):
        w = (0.5 + 0.2 * normal((3,), 1, **f64)).requires_grad_()
        net = TimedMLP(3, seed=2).to(**f64)
        y0 = normal((4, 3), 0, **f64).requires_grad_()
        term = ODETerm(make(w, net))
        ts = torch.tensor([0.0, 0.3, 1.0], **f64)
        sol = solve(term, y0, ts, controller=controller, adjoint=adjoint)
        inputs = [w, y0, *net.parameters()]
        found.append(torch.autograd.grad(sol.ys.sin().sum(), inputs, allow_unused=True))
    assert found[1][0] is not None and found[1][0].abs().max() > 0
    for x, y in zip(*found, strict=True):
        if y is None:
            assert x is None or not x.any()
        else:
            assert x is not None, "a gradient was lost"
            assert (x - y).norm() <= 1e-11 * y.norm() + 1e-15


@CONTROLLERS
def test_the_start_used_inside_the_field_too(
    controller: PID | FixedSteps, f64: KIND
) -> None:
    """y' = -y0 y: the start reaches the end along two ways."""
    found = []
    for adjoint in (Recompute(), Direct()):
        y0 = (1 + 0.2 * normal((4, 3), 0, **f64)).requires_grad_()
        sol = solve(
            ODETerm(lambda t, y, z=y0: -z * y),
            y0,
            torch.tensor([0.0, 1.0], **f64),
            controller=controller,
            adjoint=adjoint,
        )
        found.append(torch.autograd.grad(sol.final.sum(), y0)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=0)
    want = torch.exp(-y0) * (1 - y0)
    torch.testing.assert_close(found[0], want.detach(), rtol=0, atol=1e-2)


def test_parameters_that_the_first_call_leaves_out(f64: KIND) -> None:
    """A module's parameters count even where the first call does not touch them."""
    found = []
    for adjoint in (Recompute(), Direct()):
        model = Branching(torch.ones(3), TimedMLP(3, seed=2)).to(**f64)
        y0, ts = normal((4, 3), 0, **f64), torch.tensor([0.0, 1.0], **f64)
        sol = solve(ODETerm(model), y0, ts, controller=FixedSteps(0.1), adjoint=adjoint)
        loss = (sol.final**2).sum()
        found.append(torch.autograd.grad(loss, list(model.late.parameters())))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-14)


WAYS_BACK = {
    "recompute": (Recompute, "tsit5"),
    "sqrt": (partial(Recompute, states="sqrt"), "tsit5"),
    "reversible": (Reversible, McCallumFoster("tsit5")),
    "backsolve": (Backsolve, "tsit5"),
}


@pytest.mark.parametrize("way", WAYS_BACK)
@pytest.mark.parametrize("asked", ["end", "start"])
def test_tensors_without_influence(way: str, asked: str, f64: KIND) -> None:
    """Zeros for what is used or named, nothing for what is only at hand."""
    make, method = WAYS_BACK[way]

    def gradients(named: bool) -> list[Tensor | None]:
        used, hidden, idle = (torch.ones((), **f64).requires_grad_() for _ in range(3))
        held = [used, hidden, idle]

        def field(t: Tensor, y: Tensor) -> Tensor:
            return -held[0] * y + (held[1] * y).detach()

        adjoint = make(parameters=(used, hidden, idle) if named else None)
        y0 = torch.full((2, 1), 2.0, **f64).requires_grad_()
        ts = torch.tensor([0.0, 1.0], **f64)
        sol = solve(ODETerm(field), y0, ts, method=method, adjoint=adjoint)
        loss = sol.ys[:, -1 if asked == "end" else 0].sum()
        return list(torch.autograd.grad(loss, (y0, *held), allow_unused=True))

    for named in (False, True):
        in_y0, in_used, in_hidden, in_idle = gradients(named)
        assert in_y0 is not None and bool((in_y0 > 0.0).all())
        assert in_used is not None and bool(in_used) == (asked == "end")
        assert in_hidden is not None and float(in_hidden) == 0.0
        assert (in_idle is not None) == named
        assert in_idle is None or float(in_idle) == 0.0


def test_diffusions_are_watched_too(f64: KIND) -> None:
    w = torch.tensor(0.4, requires_grad=True, **f64)
    y0, ts = torch.ones(4, 2, **f64), torch.tensor([0.0, 1.0], **f64)
    found = []
    for adjoint in (Recompute(), Direct()):
        torch.manual_seed(0)
        sol = solve(
            SDETerm(lambda t, y: -y, lambda t, y: w * torch.ones_like(y)),
            y0,
            ts,
            method="euler",
            controller=FixedSteps(0.1),
            adjoint=adjoint,
        )
        found.append(torch.autograd.grad((sol.final**2).sum(), w)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)
    assert found[0] != 0


def test_recurrent_cells_and_normalisation(f64: KIND) -> None:
    """Fused kernels of torch.nn, whose weights enter by other doors."""
    found = []
    for adjoint in (Recompute(), Direct()):
        torch.manual_seed(0)
        cell = nn.GRUCell(3, 3).to(**f64)
        norm = nn.LayerNorm(3).to(**f64)
        attention = nn.MultiheadAttention(3, 1, batch_first=True).to(**f64)
        spectral = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)).to(**f64)
        parts = nn.ModuleList([cell, norm, attention, spectral])

        def field(t: Tensor, y: Tensor, parts: nn.ModuleList = parts) -> Tensor:
            cell, norm, attention, spectral = parts
            mixed, _ = attention(y[:, None], y[:, None], y[:, None])
            return cell(norm(y), y) - y + spectral(y) + mixed[:, 0]

        y0, ts = normal((4, 3), 0, **f64), torch.tensor([0.0, 1.0], **f64)
        sol = solve(ODETerm(field), y0, ts, adjoint=adjoint)
        found.append(
            torch.autograd.grad(
                (sol.final**2).sum(), list(parts.parameters()), allow_unused=True
            )
        )
    for x, y in zip(*found, strict=True):
        assert (x is None) == (y is None), "a gradient was lost"
        if y is not None:
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "adjoint", [Recompute(), Direct()], ids=["recompute", "direct"]
)
def test_nothing_is_kept_alive(adjoint: Recompute | Direct, f64: KIND) -> None:
    """Reference counting alone frees a solve: no cycle holds its tape."""
    w = torch.ones(3, requires_grad=True, **f64)
    y0 = normal((4, 3), 0, **f64).requires_grad_()
    ts = torch.tensor([0.0, 1.0], **f64)
    gc.collect()
    gc.disable()
    try:
        sol = solve(ODETerm(lambda t, y, w=w: -w * y), y0, ts, adjoint=adjoint)
        used, kept = weakref.ref(w), weakref.ref(sol.record.outcome.tape.y_end)
        (sol.final**2).sum().backward()
        del sol, w
        assert kept() is None
        assert used() is None
    finally:
        gc.enable()
