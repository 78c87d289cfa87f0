"""Paths of SDEs read inside of steps: the law of the bridge, ends, gradients."""

import pytest
import torch
from fine_path import tree
from problems import KIND
from sde_problems import diagonal, drift
from torch import Tensor, nn

from nde.solvers import (
    PID,
    SDE_METHODS,
    BrownianGrid,
    Direct,
    FixedSteps,
    Recompute,
    SDETerm,
    StepTo,
    solve,
)

WALK = SDETerm(lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y))


def test_variance_between_coarse_steps() -> None:
    """Of 200,000 Brownian paths, within 1 % of t: three standard errors or more."""
    paths, times = 200_000, torch.tensor([0.1, 0.25, 0.6, 0.875])
    sol = solve(
        WALK,
        torch.zeros(paths, 1),
        torch.tensor([0.0, 1.0]),
        method="euler",
        controller=FixedSteps(0.5),
        noise=5,
        dense=True,
    )
    read = sol.evaluate(times)[:, :, 0].double()
    variance = read.var(dim=0)
    assert float((variance / times - 1).abs().max()) < 0.01
    covariance = (read[:, 0] * read[:, 1]).mean()
    assert abs(float(covariance) - 0.1) < 4 * (0.1 * 0.25 + 0.01) ** 0.5 / paths**0.5
    # The straight line between the ends of steps has 10 % less, and more.
    line = (0.2 * sol.evaluate(torch.tensor([0.5]))[:, 0, 0].double()).var()
    assert float(line) < 0.25 * 0.1


def methods() -> list[tuple[str, str]]:
    return [
        (name, kind)
        for name, method in SDE_METHODS.items()
        for kind in method.interpretations
        if method.reads_between
        and "diagonal" in method.noises
        and name != "linear_splitting"
    ]


@pytest.mark.parametrize(("name", "kind"), methods())
@pytest.mark.parametrize("ts", ["shared", "own"])
def test_meets_the_solution_at_the_ends_of_steps(
    name: str, kind: str, ts: str, f64: KIND
) -> None:
    """And in between is what a grid with a step up to there gives."""
    shared = ts == "shared"

    def wide(function: object) -> object:
        return (lambda t, y: function(t.expand(3), y)) if shared else function

    term = SDETerm(wide(drift), wide(diagonal), interpretation=kind)
    y0 = torch.linspace(-1, 1, 6, **f64).view(3, 2)
    times = torch.tensor([0.0, 1.0], **f64)
    if not shared:
        times = times.expand(3, 2)
    options = {"method": name, "noise": tree(3, 2, f64)}
    grid = torch.tensor([0.25, 0.5, 0.75], **f64)
    sol = solve(term, y0, times, controller=StepTo(grid), dense=True, **options)
    knots = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], **f64)
    read = sol.evaluate(knots)
    torch.testing.assert_close(read[:, 0], y0)
    torch.testing.assert_close(read[:, -1], sol.final, rtol=1e-12, atol=1e-12)
    marks = torch.tensor([0.25, 0.5, 0.6], **f64)
    again = solve(
        term, y0, times, controller=StepTo(marks), probe_times=marks, **options
    )
    read = sol.evaluate(marks)
    torch.testing.assert_close(read, again.probes, rtol=1e-12, atol=1e-12)
    before = sol.evaluate(torch.tensor([0.5 - 1e-9], **f64))[:, 0]
    torch.testing.assert_close(before, read[:, 1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 3])
def test_adaptive_steps(rows: int, f64: KIND) -> None:
    """Near the exact solution in between as at the ends."""
    noise = tree(rows, 1, f64)
    term = SDETerm(lambda t, y: 0.5 * y, lambda t, y: 0.8 * y)
    y0 = torch.ones(rows, 1, **f64)
    ts = torch.tensor([0.0, 1.0], **f64)
    sol = solve(
        term,
        y0,
        ts,
        method="sosri2",
        controller=PID(1e-3, 1e-3),
        noise=noise,
        dense=True,
    )
    own = torch.rand(rows, 9, generator=torch.Generator().manual_seed(1)).to(**f64)
    for times in (own, torch.linspace(0, 1, 7, **f64)):
        read = sol.evaluate(times)
        table = times.expand(rows, -1) if times.ndim == 1 else times
        for column in range(table.shape[1]):
            t = table[:, column]
            w = noise.increment(torch.zeros_like(t), t).w
            exact = torch.exp(0.18 * t[:, None] + 0.8 * w)
            torch.testing.assert_close(read[:, column], exact, rtol=2e-2, atol=2e-2)


def test_a_batch_that_shares_its_steps(f64: KIND) -> None:
    noise = tree(3, 2, f64)
    y0, ts = torch.zeros(3, 2, **f64), torch.tensor([0.0, 1.0], **f64)
    for controller in (PID(1e-2, 1e-2), FixedSteps(0.3)):
        sol = solve(
            WALK,
            y0,
            ts,
            method="srk",
            batch="shared",
            controller=controller,
            noise=noise,
            dense=True,
        )
        read = sol.evaluate(torch.tensor([0.33, 0.7], **f64))
        want = torch.stack([noise.increment(0.0, t).w for t in (0.33, 0.7)], 1)
        torch.testing.assert_close(read, want, rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match=r"one time for all.*\(k,\)"):
            sol.evaluate(torch.tensor([[0.1], [0.2], [0.3]], **f64))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(2, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.inner(y))


@pytest.mark.parametrize("adjoint", [Recompute(), Direct()])
@pytest.mark.parametrize("controller", [PID(1e-2, 1e-2), FixedSteps(0.3)])
def test_gradients(adjoint: object, controller: object, f64: KIND) -> None:
    """Those of a grid that lands there, along the same path, where steps are given."""
    net = Net().to(**f64)
    y0 = torch.linspace(-1, 1, 6, **f64).view(3, 2).requires_grad_()
    term = SDETerm(net, lambda t, y: 0.3 + 0.1 * torch.tanh(net.inner.bias * y))
    ts, noise = torch.tensor([0.0, 1.0], **f64), tree(3, 2, f64)
    options = {"method": "srk", "noise": noise, "adjoint": adjoint}
    sol = solve(term, y0, ts, controller=controller, dense=True, **options)
    when = torch.tensor([0.21, 0.77], **f64)
    wrt = (y0, *net.parameters())
    found = torch.autograd.grad(sol.evaluate(when).square().sum(), wrt)
    total = [torch.zeros_like(x) for x in wrt]
    stats = sol.stats
    for t in when.tolist():
        before = stats.valid & (stats.t < t)
        grid = torch.cat([torch.where(before, stats.t, torch.nan).T], 1)
        again = solve(
            term, y0, torch.tensor([0.0, t], **f64), controller=StepTo(grid), **options
        )
        for part, grad in zip(
            total, torch.autograd.grad(again.final.square().sum(), wrt), strict=True
        ):
            part += grad
    for one, other in zip(found, total, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_rows_that_failed_read_as_nan(f64: KIND) -> None:
    def lost(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((t[:, None] >= 0.5) & (y > 50), torch.nan, -0.1 * y)

    y0 = torch.tensor([[1.0], [100.0]], **f64).requires_grad_()
    sol = solve(
        SDETerm(lost, lambda t, y: 0.1 * y),
        y0,
        torch.tensor([[0.0, 1.0], [0.0, 1.0]], **f64),
        method="milstein",
        controller=PID(1e-2, 1e-2),
        noise=4,
        dense=True,
        throw=False,
    )
    read = sol.evaluate(torch.tensor([0.2, 0.9], **f64))
    assert read[:, 0].isfinite().all() and read[0].isfinite().all()
    assert read[1, 1].isnan().all()
    (grad,) = torch.autograd.grad(read[0].sum() + read[1, 0].sum(), y0)
    assert grad.isfinite().all()


def test_refusals(f64: KIND) -> None:
    y0, ts = torch.zeros(2, 1, **f64), torch.tensor([0.0, 1.0], **f64)
    options = {"controller": FixedSteps(0.25), "dense": True}
    with pytest.raises(ValueError, match=r"noise \(BrownianGrid\).*seed"):
        solve(WALK, y0, ts, method="euler", noise=BrownianGrid(1), **options)
    odd = SDETerm(WALK.drift, WALK.diffusion, interpretation="stratonovich")
    with pytest.raises(ValueError, match="'reversible_heun'.*probe_times"):
        solve(odd, y0, ts, method="reversible_heun", **options)
    matrix = SDETerm(
        WALK.drift, lambda t, y: y.unsqueeze(2), noise="general", noise_dim=1
    )
    with pytest.raises(ValueError, match="'milstein' would draw Levy areas.*'spark'"):
        solve(matrix, y0, ts, method="milstein", **options)
    sol = solve(WALK, y0, ts, method="euler", **options)
    with pytest.raises(ValueError, match="no derivative"):
        sol.derivative(torch.tensor([0.5], **f64))
    with pytest.raises(ValueError, match=r"detach\(\)"):
        sol.evaluate(torch.tensor([0.5], **f64).requires_grad_())
    with pytest.raises(ValueError, match="outside|interval|span"):
        sol.evaluate(torch.tensor([1.5], **f64))
    sol = solve(WALK, y0, ts, method="euler", controller=FixedSteps(0.25))
    with pytest.raises(ValueError, match="dense=True"):
        sol.evaluate(torch.tensor([0.5], **f64))


def test_times_of_the_samples_given(f64: KIND) -> None:
    y0 = torch.zeros(2, 1, **f64)
    times = torch.tensor([[0.0, 1.0], [0.0, 2.0]], **f64)
    options = {"method": "srk", "controller": FixedSteps(0.25), "noise": 1}
    sol = solve(WALK, y0, times, paths=3, dense=True, **options)
    read = sol.evaluate(torch.tensor([[0.5], [1.5]], **f64))
    assert read.shape == (6, 1, 1)
    apart = sol.evaluate(torch.tensor([[0.5]] * 3 + [[1.5]] * 3, **f64))
    assert torch.equal(read, apart)
