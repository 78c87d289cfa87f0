"""Gradients: each adjoint against the other, a plain replay, and finite differences."""

from collections.abc import Callable

import pytest
import torch
from gradients import assert_same, check_finite_differences, gradients
from problems import KIND, TimedMLP, normal
from reference import replay
from torch import Tensor, nn

from nde.solvers import (
    PID,
    Backsolve,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    Solution,
    solve,
)
from nde.solvers.tableaus import EXPLICIT

RTOL, ATOL = 1e-4, 1e-5
ADAPTIVE = PID(rtol=RTOL, atol=ATOL)
FIXED = FixedSteps(0.13, rtol=RTOL, atol=ATOL)
BOTH = [Recompute(), Direct()]
ADJOINTS = pytest.mark.parametrize("adjoint", BOTH, ids=["recompute", "direct"])
BATCHES = pytest.mark.parametrize("batch", ["per_sample", "shared"])
PAIRS = pytest.mark.parametrize("method", ["heun_euler", "bosh3", "dopri5", "tsit5"])


def rich_loss(sol: Solution) -> Tensor:
    """Everything differentiable a solution carries: outputs, errors, stiffness."""
    weights = torch.linspace(0.5, 1.5, sol.ys.numel(), dtype=sol.ys.dtype)
    loss = (sol.ys * weights.view_as(sol.ys).to(sol.ys.device)).sin().sum()
    loss = loss + (sol.final**2).sum()
    stats = sol.stats
    real = stats.valid
    loss = loss + (stats.error_estimate * stats.step)[real].sum()
    stiffness = stats.stiffness[real]
    if not stiffness.isnan().any():
        loss = loss + 0.1 * stiffness.sum()
    return loss


@BATCHES
@PAIRS
@pytest.mark.parametrize("controller", [ADAPTIVE, FIXED], ids=["pid", "fixed"])
def test_recompute_equals_direct(
    method: str, batch: str, controller: object, f64: KIND
) -> None:
    net, y0 = TimedMLP(3, seed=1).to(**f64), normal((5, 3), 0, **f64)
    ts = torch.tensor([0.0, 0.21, 0.5, 1.4], **f64)

    def loss(adjoint: object) -> Callable[[Tensor, nn.Module], Tensor]:
        return lambda y, f: rich_loss(
            solve(
                ODETerm(f),
                y,
                ts,
                method=method,
                controller=controller,
                batch=batch,
                adjoint=adjoint,
            )
        )

    assert_same(*(gradients(loss(a), y0, net) for a in BOTH), rtol=1e-12)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
def test_recompute_equals_direct_for_fixed_methods(method: str, f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=1).to(**f64), normal((5, 3), 0, **f64)
    ts = torch.tensor([0.0, 0.21, 0.5, 1.4], **f64)
    found = []
    for adjoint in BOTH:

        def loss(y: Tensor, f: nn.Module, adjoint: object = adjoint) -> Tensor:
            sol = solve(
                ODETerm(f), y, ts, method=method, controller=FIXED, adjoint=adjoint
            )
            return (sol.ys**2).sum() + sol.final.sin().sum()

        found.append(gradients(loss, y0, net))
    assert_same(*found, rtol=1e-12)
    check_finite_differences(loss, y0, net)


@ADJOINTS
@PAIRS
def test_fixed_steps_against_finite_differences(
    method: str, adjoint: object, f64: KIND
) -> None:
    net, y0 = TimedMLP(3, seed=2).to(**f64), normal((4, 3), 1, **f64)
    ts = torch.tensor([0.0, 0.21, 0.5, 1.4], **f64)

    def loss(y: Tensor, f: nn.Module) -> Tensor:
        return rich_loss(
            solve(ODETerm(f), y, ts, method=method, controller=FIXED, adjoint=adjoint)
        )

    check_finite_differences(loss, y0, net)


@ADJOINTS
@PAIRS
def test_adaptive_steps_against_a_plain_replay(
    method: str, adjoint: object, f64: KIND
) -> None:
    """With steps chosen by the controller, the gradient is that of the same steps
    taken again as given numbers: nothing flows through the choice."""
    net, y0 = TimedMLP(3, seed=3).to(**f64), normal((6, 3), 2, **f64)
    y0[0] *= 4
    ts = torch.tensor([0.0, 1.4], **f64)

    def solved(y: Tensor, f: nn.Module) -> Solution:
        return solve(
            ODETerm(f), y, ts, method=method, controller=ADAPTIVE, adjoint=adjoint
        )

    stats = solved(y0, net).stats
    assert not stats.t.requires_grad and not stats.step.requires_grad

    def loss(y: Tensor, f: nn.Module) -> Tensor:
        sol = solved(y, f)
        out = (sol.final**3).sum() + (
            sol.stats.error_estimate * sol.stats.step * sol.stats.valid
        ).sum()
        if EXPLICIT[method].stiffness_pair is not None:
            out = out + torch.where(sol.stats.valid, sol.stats.stiffness, 0).sum()
        return out

    def replayed(y: Tensor, f: nn.Module) -> Tensor:
        again = replay(
            EXPLICIT[method], f, y, stats.t, stats.step, stats.valid, RTOL, ATOL
        )
        out = (again.ys[-1] ** 3).sum() + (again.errors * stats.step).sum()
        if EXPLICIT[method].stiffness_pair is not None:
            out = out + again.stiffness.sum()
        return out

    value, plain = loss(y0, net), replayed(y0, net)
    torch.testing.assert_close(value, plain, rtol=1e-10, atol=0)
    assert_same(gradients(loss, y0, net), gradients(replayed, y0, net), rtol=1e-10)


@ADJOINTS
def test_probes_and_dense_output(adjoint: object, f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=4).to(**f64), normal((4, 3), 3, **f64)
    ts = torch.tensor([0.0, 1.4], **f64)
    probes = torch.tensor([[0.9, 0.1], [0.3, 1.3], [1.4, 0.0], [0.5, 0.5]], **f64)
    at = torch.tensor([0.05, 0.7, 1.33], **f64)

    def loss(y: Tensor, f: nn.Module) -> Tensor:
        sol = solve(
            ODETerm(f),
            y,
            ts,
            controller=FIXED,
            adjoint=adjoint,
            probe_times=probes,
            dense=True,
        )
        return (sol.probes**2).sum() + sol.evaluate(at).sin().sum()

    check_finite_differences(loss, y0, net)


@ADJOINTS
def test_closures_modules_and_computed_tensors(adjoint: object, f64: KIND) -> None:
    """A leaf, a computed tensor and a module that the field uses get gradients."""
    net = TimedMLP(3, seed=5).to(**f64)
    leaf = normal((3,), 6, **f64)
    context = normal((4, 3), 7, **f64)
    y0, ts = normal((4, 3), 8, **f64), torch.tensor([0.0, 0.5, 1.4], **f64)

    def loss(leaf: Tensor, context: Tensor) -> Tensor:
        computed = (context * 2).tanh()
        start = y0 + computed

        def field(t: Tensor, y: Tensor) -> Tensor:
            return net(t, y) * leaf - y * computed

        sol = solve(ODETerm(field), start, ts, controller=FIXED, adjoint=adjoint)
        return (sol.ys**2).sum()

    leaf.requires_grad_()
    context.requires_grad_()
    wanted = [leaf, context, *net.parameters()]
    found = torch.autograd.grad(loss(leaf, context), wanted)
    for x, gradient in zip(wanted, found, strict=True):
        direction = normal(tuple(x.shape), 50, **f64)
        kept = x.detach().clone()
        values = []
        with torch.no_grad():
            for eps in (1e-5, -1e-5):
                x.copy_(kept + eps * direction)
                values.append(loss(leaf, context))
            x.copy_(kept)
        slope = ((values[0] - values[1]) / 2e-5).item()
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5)


@ADJOINTS
def test_only_what_asks_for_gradients_gets_them(adjoint: object, f64: KIND) -> None:
    net = TimedMLP(2).to(**f64)
    net.inner.weight.requires_grad_(False)
    y0, ts = normal((4, 2), 0, **f64), torch.tensor([0.0, 1.0], **f64)
    solve(ODETerm(net), y0, ts, adjoint=adjoint).final.sum().backward()
    assert net.inner.weight.grad is None
    assert net.outer.weight.grad is not None and net.outer.weight.grad.any()

    for p in net.parameters():
        p.requires_grad_(False)
    sol = solve(ODETerm(net), y0, ts, adjoint=adjoint)
    assert not sol.ys.requires_grad
    y0.requires_grad_()
    sol = solve(ODETerm(net), y0, ts, adjoint=adjoint)
    assert sol.ys.requires_grad and sol.stats.error_estimate.requires_grad
    with torch.no_grad():
        assert not solve(ODETerm(net), y0, ts, adjoint=adjoint).ys.requires_grad


@ADJOINTS
def test_gradients_can_be_asked_twice_and_accumulate(
    adjoint: object, f64: KIND
) -> None:
    net = TimedMLP(2).to(**f64)
    y0, ts = normal((4, 2), 0, **f64), torch.tensor([0.0, 1.0], **f64)
    loss = (solve(ODETerm(net), y0, ts, adjoint=adjoint).final ** 2).sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in net.parameters()]
    loss.backward()
    for p, first in zip(net.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * first)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("adjoint", [Recompute(), Recompute(states=2), Backsolve()])
def test_second_derivatives_are_refused_in_words(
    adjoint: object, linear: bool, f64: KIND
) -> None:
    """Also where the loss is linear, and torch would leave them out without a word."""
    y0 = normal((2, 3), 0, **f64).requires_grad_()
    net = TimedMLP(3, seed=1).to(**f64)
    sol = solve(
        ODETerm(net),
        y0,
        torch.tensor([0.0, 0.5], **f64),
        controller=ADAPTIVE,
        adjoint=adjoint,
    )
    loss = sol.final.sum() if linear else sol.final.square().sum()
    grads = torch.autograd.grad(loss, (y0, *net.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivative.*adjoint=Direct\(\)"):
        sum(g.square().sum() for g in grads).backward()


def test_estimates_of_rows_at_rest_have_no_gradient(f64: KIND) -> None:
    """Stiffness summed over the padding too, with any weight."""
    w = (0.3 * torch.eye(2, **f64)).requires_grad_()
    found = []
    for adjoint in BOTH:
        sol = solve(
            ODETerm(lambda t, y: torch.tanh(y @ w) + y),
            torch.tensor([[1.0, 2.0], [0.1, 0.0]], **f64),
            torch.tensor([[0.0, 3.0], [0.0, 0.1]], **f64),
            adjoint=adjoint,
        )
        found.append(torch.autograd.grad(10 * sol.stats.stiffness.sum(), w))
    assert_same(*found, rtol=1e-10)


@BATCHES
@pytest.mark.parametrize("method", ["bosh3", "tsit5", "dop853"])
def test_estimates_that_nobody_asks_for_change_nothing(
    method: str, batch: str, f64: KIND
) -> None:
    """The backward pass then repeats steps without them: the same steps to the bit."""
    net, y0 = TimedMLP(3, seed=1).to(**f64), normal((5, 3), 0, **f64)
    ts = torch.tensor([0.0, 0.5, 1.4], **f64)

    def loss(weight: float | None) -> Callable[[Tensor, nn.Module], Tensor]:
        def of(y: Tensor, f: nn.Module) -> Tensor:
            sol = solve(
                ODETerm(f), y, ts, method=method, controller=ADAPTIVE, batch=batch
            )
            value = sol.ys.square().sum()
            if weight is None:
                return value
            error = sol.stats.error_estimate[sol.stats.valid]
            return value + weight * error.sum()

        return of

    without, zero, one = (gradients(loss(w), y0, net) for w in (None, 0.0, 1.0))
    assert_same(without, zero, rtol=1e-14)
    assert all(bool((x - y).any()) for x, y in zip(without, one, strict=True))
