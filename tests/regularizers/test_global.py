"""Regularizers on the solver's own statistics: values, gradients, invariances."""

from collections.abc import Callable

import pytest
import torch
from penalised import ADAPTIVE, ATOL, FIXED, RTOL, solved
from problems import KIND, TimedMLP, column, normal
from reference import replay
from torch import Tensor

from nde.regularizers import ErrorEstimate, Stiffness, draw
from nde.solvers import (
    PID,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    SDETerm,
    Solution,
    solve,
)
from nde.solvers.tableaus import EXPLICIT

ADJOINTS = pytest.mark.parametrize(
    "adjoint", [Recompute(), Direct()], ids=["recompute", "direct"]
)
REDUCE = pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
Global = ErrorEstimate | Stiffness


def value(regularizer: Global, sol: Solution) -> Tensor:
    return regularizer(sol, None, None)


def by_hand(sol: Solution, which: str, reduce: str) -> float:
    """The definition, sample by sample and step by step."""
    total = 0.0
    batch = len(sol.status)
    for i in range(batch):
        terms = []
        for j in range(int(sol.stats.accepted[i])):
            if which == "error":
                terms.append(
                    sol.stats.error_estimate[j, i].item() * sol.stats.step[j, i].item()
                )
            else:
                size = EXPLICIT["tsit5"].stability
                terms.append(sol.stats.stiffness[j, i].item() / size)
        total += {
            "mean": sum(terms) / len(terms),
            "sum": sum(terms),
            "max": max(terms),
        }[reduce]
    return total / batch


@REDUCE
def test_definition(reduce: str, f64: KIND) -> None:
    y0 = normal((5, 3), 0, **f64)
    y0[0] *= 5  # its number of steps differs from the others'
    sol = solved(TimedMLP(3, gain=3.0).to(**f64), y0, f64)
    assert sol.stats.accepted.unique().numel() > 1
    found = value(ErrorEstimate(reduce=reduce), sol).item()
    assert found == pytest.approx(by_hand(sol, "error", reduce), rel=1e-12)
    found = value(Stiffness(reduce=reduce), sol).item()
    assert found == pytest.approx(by_hand(sol, "stiffness", reduce), rel=1e-12)


def test_shared_steps(f64: KIND) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((5, 3), 0, **f64)
    sol = solved(net, y0, f64, batch="shared")
    found = value(ErrorEstimate(), sol).item()
    assert found == pytest.approx(by_hand(sol, "error", "mean"), rel=1e-12)


@ADJOINTS
@REDUCE
@pytest.mark.parametrize("make", [ErrorEstimate, Stiffness])
def test_gradient_against_finite_differences(
    make: Callable[..., Global], reduce: str, adjoint: Recompute | Direct, f64: KIND
) -> None:
    """On a fixed grid the steps cannot move, so differences are exact."""
    net, y0 = TimedMLP(3, seed=1, gain=3.0).to(**f64), normal((5, 3), 1, **f64)

    def penalty() -> Tensor:
        sol = solved(net, y0, f64, controller=FIXED, adjoint=adjoint)
        return value(make(reduce=reduce), sol)

    parameters = list(net.parameters())
    for index, gradient in enumerate(torch.autograd.grad(penalty(), parameters)):
        p = parameters[index]
        direction = normal(tuple(p.shape), 10 + index, **f64)
        kept, found = p.detach().clone(), []
        with torch.no_grad():
            for eps in (1e-5, -1e-5):
                p.copy_(kept + eps * direction)
                found.append(penalty().item())
            p.copy_(kept)
        slope = (found[0] - found[1]) / 2e-5
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5)


@ADJOINTS
@pytest.mark.parametrize("method", ["heun_euler", "bosh3", "dopri5", "tsit5"])
def test_gradient_of_adaptive_steps_holds_them_fixed(
    method: str, adjoint: Recompute | Direct, f64: KIND
) -> None:
    """Against the same steps taken again, as numbers, in plain autograd."""
    net, y0 = TimedMLP(3, seed=2).to(**f64), normal((5, 3), 2, **f64)
    sol = solved(net, y0, f64, method=method, adjoint=adjoint)
    stats = sol.stats
    again = replay(
        EXPLICIT[method], net, y0, stats.t, stats.step, stats.valid, RTOL, ATOL
    )
    plain = ((again.errors * stats.step).sum(0) / stats.accepted).mean()
    found = value(ErrorEstimate(), sol)
    torch.testing.assert_close(found, plain, rtol=1e-10, atol=0)
    parameters = list(net.parameters())
    for x, y in zip(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(plain, parameters),
        strict=True,
    ):
        assert (x - y).norm() <= 1e-9 * y.norm()


@ADJOINTS
def test_no_gradient_reaches_the_step(adjoint: Recompute | Direct, f64: KIND) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 3, **f64)
    sol = solved(net, y0, f64, adjoint=adjoint)
    assert value(ErrorEstimate(), sol).requires_grad
    assert not sol.stats.step.requires_grad
    assert not sol.stats.t.requires_grad


@pytest.mark.parametrize("make", [ErrorEstimate, Stiffness])
def test_a_doubled_batch_changes_nothing(
    make: Callable[..., Global], f64: KIND
) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 4, **f64)
    parameters = list(net.parameters())
    results = []
    for start in (y0, y0.repeat(2, 1), y0.repeat_interleave(3, 0)):
        found = value(make(), solved(net, start, f64))
        results.append((found, torch.autograd.grad(found, parameters)))
    for found, gradients in results[1:]:
        torch.testing.assert_close(found, results[0][0], rtol=1e-12, atol=0)
        for x, y in zip(gradients, results[0][1], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
@pytest.mark.parametrize("rate", [-7.0, -0.5, 3.0])
def test_stiffness_is_the_eigenvalue(method: str, rate: float, f64: KIND) -> None:
    size = {"dopri5": 3.3066, "tsit5": 3.5068}[method]
    y0, ts = torch.ones(3, 2, **f64), torch.tensor([0.0, 1.0], **f64)
    factor = torch.tensor(rate, requires_grad=True, **f64)
    sol = solve(
        ODETerm(lambda t, y: factor * y), y0, ts, method=method, controller=ADAPTIVE
    )
    real = sol.stats.stiffness[sol.stats.valid]
    torch.testing.assert_close(
        real, torch.full_like(real, abs(rate)), rtol=1e-6, atol=0
    )
    for reduce in ("mean", "max"):
        found = value(Stiffness(reduce=reduce), sol)
        assert found.item() == pytest.approx(abs(rate) / size, rel=1e-4)
        (slope,) = torch.autograd.grad(found, factor, retain_graph=True)
        assert slope.item() == pytest.approx(rate / abs(rate) / size, rel=1e-4)


@ADJOINTS
@pytest.mark.parametrize("controller", [ADAPTIVE, FIXED], ids=["pid", "fixed"])
def test_a_constant_field_gives_no_nan(
    controller: PID | FixedSteps, adjoint: Recompute | Direct, f64: KIND
) -> None:
    """Error and stiffness are 0 / 0 there: the root's slope and the quotient's."""
    bias = torch.tensor([1.0, -2.0], requires_grad=True, **f64)
    y0 = torch.zeros(3, 2, requires_grad=True, **f64)
    for field in (
        lambda t, y: bias.expand_as(y),
        lambda t, y: bias * 0.0 + 0.0 * y,
        lambda t, y: bias * column(t) + 0.0 * y,
    ):
        sol = solve(
            ODETerm(field),
            y0,
            torch.tensor([0.0, 1.0], **f64),
            controller=controller,
            adjoint=adjoint,
        )
        penalty = value(ErrorEstimate(), sol) + value(Stiffness(), sol)
        assert penalty.isfinite()
        loss = penalty + sol.final.square().sum()
        for gradient in torch.autograd.grad(loss, (y0, bias)):
            assert gradient.isfinite().all()


@ADJOINTS
def test_the_solution_is_the_same_with_and_without(
    adjoint: Recompute | Direct, f64: KIND
) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 5, **f64)
    with_it = solved(net, y0, f64, adjoint=adjoint)
    value(ErrorEstimate(), with_it).backward()
    without = solved(net, y0, f64, adjoint=adjoint)
    assert torch.equal(with_it.ys, without.ys)
    assert torch.equal(with_it.stats.evaluations, without.stats.evaluations)


def test_descent_makes_steps_fewer(f64: KIND) -> None:
    """Following the gradient of the penalty alone lowers the solver's work."""
    net, y0 = TimedMLP(3, seed=6, gain=3.0).to(**f64), normal((8, 3), 6, **f64)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    counts = []
    for _ in range(25):
        sol = solved(net, y0, f64)
        penalty = value(ErrorEstimate(), sol)
        counts.append(sol.stats.evaluations.double().mean().item())
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert counts[-1] < 0.8 * counts[0]


@pytest.mark.parametrize(
    ("make", "method", "words"),
    [
        (ErrorEstimate, "rk4", "rk4.*dopri5"),
        (ErrorEstimate, "euler", "euler.*tsit5"),
        (Stiffness, "bosh3", "bosh3.*dopri5"),
        (Stiffness, "heun_euler", "heun_euler.*tsit5"),
    ],
)
def test_methods_without_the_estimate_are_refused(
    make: Callable[..., Global], method: str, words: str, f64: KIND
) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 7, **f64)
    sol = solved(net, y0, f64, method=method, controller=FIXED)
    with pytest.raises(ValueError, match=words):
        value(make(), sol)


def test_sde_solves(f64: KIND) -> None:
    """Heun has an error estimate, Euler-Maruyama none; neither a stiffness."""
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 8, **f64)
    ts = torch.tensor([0.0, 1.0], **f64)
    sols = {}
    for method, interpretation in (("euler", "ito"), ("heun", "stratonovich")):
        term = SDETerm(net, lambda t, y: 0.1 * y, interpretation=interpretation)
        sols[method] = solve(term, y0, ts, method=method, controller=FixedSteps(0.1))
    found = value(ErrorEstimate(), sols["heun"])
    assert found.item() == pytest.approx(by_hand(sols["heun"], "error", "mean"))
    assert torch.autograd.grad(found, net.inner.weight)[0].abs().max() > 0
    with pytest.raises(ValueError, match="euler.*heun"):
        value(ErrorEstimate(), sols["euler"])
    with pytest.raises(ValueError, match="heun.*tsit5"):
        value(Stiffness(), sols["heun"])


def test_failed_samples_do_not_spoil_the_penalty(f64: KIND) -> None:
    net = TimedMLP(2).to(**f64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        odd = (torch.arange(len(y), device=y.device) == 1)[:, None]
        return torch.where(odd, y * y, net(t, y))

    y0 = torch.full((4, 2), 2.0, **f64)
    ts = torch.tensor([0.0, 1.0], **f64)
    sol = solve(ODETerm(field), y0, ts, throw=False, max_steps=300)
    assert sol.status[1] != 0
    penalty = value(ErrorEstimate(), sol)
    assert penalty.isfinite()
    for gradient in torch.autograd.grad(penalty, list(net.parameters())):
        assert gradient.isfinite().all()


def test_two_at_once(f64: KIND) -> None:
    net, y0 = TimedMLP(3).to(**f64), normal((4, 3), 9, **f64)
    t0, t1 = torch.zeros(4, **f64), torch.full((4,), 1.4, **f64)
    drawn = draw((ErrorEstimate(weight=3.0), Stiffness(weight=0.5)), t0, t1)
    assert drawn.probe_times is None
    sol = solved(net, y0, f64)
    penalties = drawn.penalties(sol)
    assert set(penalties) == {"error", "stiffness"}
    torch.testing.assert_close(penalties["error"], value(ErrorEstimate(), sol))
    want = 3.0 * penalties["error"] + 0.5 * penalties["stiffness"]
    torch.testing.assert_close(drawn.total(penalties, 0.3), want)
    with pytest.raises(ValueError, match="name"):
        draw((ErrorEstimate(), ErrorEstimate(weight=2.0)), t0, t1)


def test_none_at_all(f64: KIND) -> None:
    drawn = draw((), torch.zeros(4, **f64), torch.ones(4, **f64))
    sol = solved(TimedMLP(3).to(**f64), normal((4, 3), 9, **f64), f64)
    assert drawn.penalties(sol) == {}
    assert drawn.total({}, 0.5).item() == 0.0
