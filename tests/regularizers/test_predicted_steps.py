"""An estimate of the steps of a solve, and that descent on it makes them fewer."""

import math

import pytest
import torch
from penalised import END, solved
from problems import KIND, TimedMLP, normal

from nde.regularizers import LocalPredictedSteps, LocalSampling, PredictedSteps
from nde.solvers import PID, FixedSteps
from nde.solvers.tableaus import EXPLICIT


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5"])
def test_definition(method: str, f64: KIND) -> None:
    """sum_j E_j^(1/q), sample by sample."""
    net, y0 = TimedMLP(3, gain=3.0).to(**f64), normal((5, 3), 0, **f64)
    sol = solved(net, y0, f64, method=method)
    order, stats = EXPLICIT[method].error_order, sol.stats
    total = 0.0
    for i in range(5):
        for j in range(int(stats.accepted[i])):
            total += stats.error_estimate[j, i].item() ** (1.0 / order)
    found = PredictedSteps()(sol, None, None)
    assert found.item() == pytest.approx(total / 5, rel=1e-11)


@pytest.mark.parametrize("rtol", [1e-6, 1e-8, 1e-10])
def test_it_is_about_the_number_of_steps(rtol: float, f64: KIND) -> None:
    """But for the safety factor, 0.9, and a start of shorter ones. Also read off a grid
    whose steps are not those of the tolerance."""
    net, y0 = TimedMLP(3, seed=6, gain=3.0).to(**f64), normal((6, 3), 0, **f64)
    sol = solved(net, y0, f64, controller=PID(rtol=rtol, atol=rtol / 10))
    taken = sol.stats.accepted.double().mean().item()
    adaptive = PredictedSteps()(sol, None, None).item()
    assert 0.7 * taken < adaptive < 0.9 * taken
    grid = FixedSteps(END / 200, rtol=rtol, atol=rtol / 10)
    found = PredictedSteps()(solved(net, y0, f64, controller=grid), None, None)
    assert found.item() == pytest.approx(adaptive, rel=0.05)


def test_gradient_against_finite_differences(f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=1, gain=3.0).to(**f64), normal((5, 3), 1, **f64)
    # Steps so long that roots of their errors stand clear of rounding.
    long = FixedSteps(0.4)

    def value() -> torch.Tensor:
        return PredictedSteps()(solved(net, y0, f64, controller=long), None, None)

    for index, p in enumerate(net.parameters()):
        direction = normal(tuple(p.shape), 10 + index, **f64)
        (gradient,) = torch.autograd.grad(value(), p)
        kept, found = p.detach().clone(), []
        with torch.no_grad():
            for eps in (1e-5, -1e-5):
                p.copy_(kept + eps * direction)
                found.append(value().item())
            p.copy_(kept)
        slope = (found[0] - found[1]) / 2e-5
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_the_local_one_estimates_it(sampling: str, f64: KIND) -> None:
    """In the mean of many draws, where a step tells the error all along it."""
    net, y0 = TimedMLP(3, seed=6, gain=2.0).to(**f64), normal((4, 3), 0, **f64)
    t0, t1 = torch.zeros(4, **f64), torch.full((4,), END, **f64)
    torch.manual_seed(0)
    draws = 600
    regularizer = LocalPredictedSteps(
        options=LocalSampling(sampling=sampling, draws=draws)
    )
    # Short steps, whose error differs little from one to the next.
    fine = FixedSteps(END / 100, rtol=1e-6, atol=1e-7)
    times = regularizer.times(t0, t1)
    sol = solved(net, y0, f64, controller=fine, probe_times=times)
    found = regularizer(sol, times, sol.probes).item()
    want = PredictedSteps()(sol, None, None).item()
    each = (sol.stats.error_estimate.detach() ** 0.2) * 100
    spread = each.std(0).square().mean().sqrt().item() / math.sqrt(4 * draws)
    # Beside chance, the steps from the middle of others sample another grid.
    assert abs(found - want) < 4.5 * spread + 0.01 * want


def test_descent_makes_steps_fewer(f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=6, gain=3.0).to(**f64), normal((8, 3), 6, **f64)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    counts = []
    for _ in range(25):
        sol = solved(net, y0, f64)
        counts.append(sol.stats.accepted.double().mean().item())
        optimizer.zero_grad()
        PredictedSteps()(sol, None, None).backward()
        optimizer.step()
    assert counts[-1] < 0.8 * counts[0]


def test_averages_over_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="average='steps' in options"):
        LocalPredictedSteps(options=LocalSampling(average="steps"))
