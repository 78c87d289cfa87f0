"""Importance of draws: either sampling estimates either average."""

import math

import pytest
import torch
from penalised import END, solved
from problems import KIND, TimedMLP, normal
from torch import Tensor

from nde.regularizers import ErrorEstimate, LocalError, LocalSampling, Measure
from nde.solvers import ODETerm, Solution, solve


def a_solve(f64: KIND, probe_times: Tensor | None = None) -> Solution:
    net = TimedMLP(3, seed=4, gain=2.0).to(**f64)
    return solved(net, normal((4, 3), 5, **f64), f64, probe_times=probe_times)


def test_biased_draws_average_over_time(f64: KIND) -> None:
    """Over all accepted steps, one by one: sum_j h_j x_j / T."""
    sol = a_solve(f64)
    options = LocalSampling(sampling="biased", draws=2000, average="time")
    torch.manual_seed(0)
    steps = options.steps(sol, None, None)
    stats = sol.stats
    # What a draw counts for is h_j n / T.
    want = steps.h * stats.accepted / END
    torch.testing.assert_close(steps.importance, want, rtol=1e-10, atol=0)
    value = (steps.importance * steps.error).detach()
    exact = (stats.error_estimate * stats.step).sum(0) / END
    spread = value.std(0) / math.sqrt(2000)
    assert ((value.mean(0) - exact).abs() <= 4.5 * spread).all()


def test_unbiased_draws_average_over_steps(f64: KIND) -> None:
    """Whatever depends on the step alone: here h, whose mean over time is another."""
    draws = 1500
    options = LocalSampling(draws=draws, average="steps")
    torch.manual_seed(1)
    times = options.times(torch.zeros(4, **f64), torch.full((4,), END, **f64))
    assert times is not None
    sol = a_solve(f64, times)
    stats = sol.stats
    whole = torch.stack([sol.whole_step_at(t) for t in times.unbind(1)])
    importance = options.steps(sol, times, sol.probes).importance
    torch.testing.assert_close(
        importance, END / (stats.accepted * whole), rtol=1e-10, atol=0
    )
    for power in (0, 1, 2):
        value = importance * whole**power
        exact = (stats.step**power * stats.valid).sum(0) / stats.accepted
        spread = value.std(0) / math.sqrt(draws)
        assert ((value.mean(0) - exact).abs() <= 4.5 * spread + 1e-12).all()
    # Without it the mean is that over time, which long steps dominate.
    over_time = (stats.step**2).sum(0) / END
    plain = whole.mean(0)
    assert ((plain - over_time).abs() <= 4.5 * whole.std(0) / math.sqrt(draws)).all()
    assert (over_time > 1.05 * END / stats.accepted).any()


def test_biased_draws_of_the_global_mean_have_none(f64: KIND) -> None:
    sol = a_solve(f64)
    for average in (None, "steps"):
        options = LocalSampling(sampling="biased", average=average)
        assert (options.steps(sol, None, None).importance == 1.0).all()


def test_the_weighted_penalty_meets_the_global_one(f64: KIND) -> None:
    """The integral of E over time is sum_j E_j h_j, which both approach."""
    sol = a_solve(f64)
    measure = Measure(with_h=False)
    options = LocalSampling(sampling="biased", draws=1500, average="time")
    torch.manual_seed(2)
    found = LocalError(options=options, measure=measure)(sol, None, None).item() * END
    want = ErrorEstimate(reduce="sum")(sol, None, None).item()
    each = sol.stats.error_estimate.detach().std().item() * END
    assert abs(found - want) <= 4.5 * 1.5 * each / math.sqrt(4 * 1500)


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("average", ["steps", "time"])
def test_rows_without_time_count_nothing(
    average: str, sampling: str, f64: KIND
) -> None:
    net, y0 = TimedMLP(3, seed=4).to(**f64), normal((2, 3), 5, **f64)
    ts = torch.tensor([[0.0, 1.0], [0.5, 0.5]], **f64)
    regularizer = LocalError(options=LocalSampling(sampling=sampling, average=average))
    times = regularizer.times(ts[:, 0], ts[:, 1])
    sol = solve(ODETerm(net), y0, ts, probe_times=times)
    found = regularizer(sol, times, sol.probes)
    assert found.isfinite()
    gradient = torch.autograd.grad(found, net.inner.weight)[0]
    assert gradient.isfinite().all() and gradient.any()


def test_unknown_averages_are_refused() -> None:
    with pytest.raises(ValueError, match="average must be one of"):
        LocalSampling(average="space")
