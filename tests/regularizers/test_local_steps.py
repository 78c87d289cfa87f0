"""Where local regularizers step, and that the steps are the solver's own."""

import math

import pytest
import torch
from penalised import ADAPTIVE, ATOL, END, FIXED, RTOL, solved
from problems import KIND, TimedMLP, normal
from reference import take_step
from torch import Tensor

from nde.regularizers import (
    ErrorEstimate,
    LocalError,
    LocalSampling,
    draw,
)
from nde.solvers import (
    PID,
    FixedSteps,
    Solution,
)
from nde.solvers.tableaus import EXPLICIT

CONTROLLERS = pytest.mark.parametrize(
    "controller", [ADAPTIVE, FIXED], ids=["pid", "fixed"]
)
METHODS = pytest.mark.parametrize("method", ["heun_euler", "bosh3", "dopri5", "tsit5"])
EVERY = pytest.mark.parametrize(
    "method", [name for name, tableau in EXPLICIT.items() if tableau.b_error]
)


def row_times(sol: Solution, t: Tensor) -> Tensor:
    """One time per row of the solve: per sample, or one for a shared batch."""
    return t[: sol.record.problem.rows]


@CONTROLLERS
@EVERY
def test_embedded_step_repeats_the_solver(
    method: str, controller: PID | FixedSteps, f64: KIND
) -> None:
    """From every recorded step's start it finds that step's own estimates."""
    net, y0 = TimedMLP(3, seed=1).to(**f64), normal((4, 3), 1, **f64)
    sol = solved(net, y0, f64, method=method, controller=controller)
    stats = sol.stats
    for j in range(int(stats.accepted.min())):
        number = torch.full_like(sol.record.outcome.tape.accepted, j)
        t, h, y = sol.accepted_step(number)
        assert not (t.requires_grad or h.requires_grad or y.requires_grad)
        torch.testing.assert_close(t.expand(4), stats.t[j])
        torch.testing.assert_close(h.expand(4), stats.step[j])
        error, stiffness = sol.embedded_step(t, y, h)
        torch.testing.assert_close(
            error.expand(4), stats.error_estimate[j], rtol=1e-8, atol=1e-12
        )
        torch.testing.assert_close(
            stiffness.expand(4), stats.stiffness[j], rtol=1e-6, atol=0, equal_nan=True
        )


@METHODS
def test_embedded_step_against_the_reference(method: str, f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=2, gain=3.0).to(**f64), normal((4, 3), 2, **f64)
    sol = solved(net, y0, f64, method=method)
    t, h = torch.tensor([0.1, 0.5, 1.0, 1.2], **f64), torch.full((4,), 0.2, **f64)
    state = normal((4, 3), 3, **f64).requires_grad_()
    error, stiffness = sol.embedded_step(t, state, h)
    want = take_step(EXPLICIT[method], net, t, state, h, RTOL, ATOL)
    torch.testing.assert_close(error, want.error, rtol=1e-9, atol=0)
    if EXPLICIT[method].stiffness_pair is not None:
        torch.testing.assert_close(stiffness, want.stiffness, rtol=1e-8, atol=0)
    inputs = [state, *net.parameters()]
    for x, y in zip(
        torch.autograd.grad(error.sum(), inputs),
        torch.autograd.grad(want.error.sum(), inputs),
        strict=True,
    ):
        assert (x - y).norm() <= 1e-8 * y.norm()


def test_the_frozen_first_stage_is_a_constant(f64: KIND) -> None:
    """Its gradient is the one of a step whose k1 is given, as in the published code."""
    net, y0 = TimedMLP(3, seed=2).to(**f64), normal((4, 3), 2, **f64)
    sol = solved(net, y0, f64)
    t, h = torch.tensor([0.1, 0.5, 1.0, 1.2], **f64), torch.full((4,), 0.1, **f64)
    state = normal((4, 3), 3, **f64)
    calls = []

    def first_held(time: Tensor, y: Tensor) -> Tensor:
        calls.append(None)
        return net(time, y).detach() if len(calls) == 1 else net(time, y)

    frozen, _ = sol.embedded_step(t, state, h, "frozen")
    attached, _ = sol.embedded_step(t, state, h)
    torch.testing.assert_close(frozen, attached)
    want = take_step(EXPLICIT["tsit5"], first_held, t, state, h, RTOL, ATOL)
    weights = list(net.parameters())
    held = torch.autograd.grad(frozen.sum(), weights)
    for x, y in zip(held, torch.autograd.grad(want.error.sum(), weights), strict=True):
        assert (x - y).norm() <= 1e-8 * y.norm()
    whole = torch.autograd.grad(attached.sum(), weights)
    assert (held[0] - whole[0]).norm() > 10 * whole[0].norm()


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_expected_biased_penalty_is_the_global_mean(batch: str, f64: KIND) -> None:
    """Averaged over all accepted steps, one by one."""
    net, y0 = TimedMLP(3, seed=4).to(**f64), normal((4, 3), 5, **f64)
    sol = solved(net, y0, f64, batch=batch)
    accepted = sol.record.outcome.tape.accepted
    sums = torch.zeros(len(accepted), **f64)
    for j in range(int(accepted.max())):
        number = torch.full_like(accepted, j).minimum(accepted - 1)
        t, h, y = sol.accepted_step(number)
        error, _ = sol.embedded_step(t, y, h)
        sums += torch.where(j < accepted, error.detach() * h, 0.0)
    expected = (sums / accepted).mean()
    found = ErrorEstimate()(sol, None, None)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-8, atol=0)


def test_biased_draws_are_uniform_over_the_steps(f64: KIND) -> None:
    """So that their mean approaches the global one."""
    net, y0 = TimedMLP(3, seed=4).to(**f64), normal((6, 3), 5, **f64)
    sol = solved(net, y0, f64)
    torch.manual_seed(0)
    options = LocalSampling(sampling="biased", draws=1500)
    error, _, h, _ = options.steps(sol, None, None)
    values = (error * h).detach()  # (1500, 6)
    stats = sol.stats
    each = (stats.error_estimate * stats.step).detach()
    want = each.sum(0) / stats.accepted
    spread = values.std(0) / math.sqrt(1500)
    assert ((values.mean(0) - want).abs() <= 4.5 * spread + 1e-12).all()
    for i in range(6):
        # Every accepted step is met, about equally often.
        steps = stats.step[stats.valid[:, i], i]
        counts = torch.stack(
            [(h[:, i] - s).abs().lt(1e-12).sum() for s in steps]
        ).double()
        assert (counts > 0).all()


def test_a_penalty_is_the_mean_of_its_draws(f64: KIND) -> None:
    net, y0 = TimedMLP(3, seed=4).to(**f64), normal((4, 3), 5, **f64)
    t0, t1 = torch.zeros(4, **f64), torch.full((4,), END, **f64)
    regularizer = LocalError(options=LocalSampling(draws=3))
    times = regularizer.times(t0, t1)
    assert times.shape == (4, 3)
    sol = solved(net, y0, f64, probe_times=times)
    found = regularizer(sol, times, sol.probes)
    by_hand = []
    for k in range(3):
        h = sol.step_at(times[:, k])
        error, _ = sol.embedded_step(times[:, k], sol.probes[:, k].detach(), h)
        by_hand.append((error * h).mean())
    torch.testing.assert_close(found, torch.stack(by_hand).mean())


def test_unbiased_times_are_uniform(f64: KIND) -> None:
    t0 = torch.tensor([0.0, -1.0, 5.0], **f64)
    t1 = torch.tensor([2.0, 0.0, 4.0], **f64)
    torch.manual_seed(3)
    times = LocalError(options=LocalSampling(draws=20000)).times(t0, t1)
    assert times.shape == (3, 20000) and times.dtype == torch.float64
    u = (times - t0[:, None]) / (t1 - t0)[:, None]
    assert (u >= 0).all() and (u < 1).all()
    ranks = torch.arange(1, 20001, **f64) / 20000
    distance = (u.sort(1).values - ranks).abs().amax(1)
    assert (distance < 1.95 / math.sqrt(20000)).all()
    assert (u[0] * u[1]).mean().sub(0.25).abs() < 0.01


@CONTROLLERS
def test_step_at_is_the_step_that_holds_the_time(
    controller: PID | FixedSteps, f64: KIND
) -> None:
    net, y0 = TimedMLP(3, seed=5).to(**f64), normal((4, 3), 6, **f64)
    sol = solved(net, y0, f64, controller=controller)
    stats = sol.stats
    for share in (0.01, 0.3, 0.99):
        for j in range(int(stats.accepted.min())):
            t = stats.t[j] + share * stats.step[j]
            found = sol.step_at(row_times(sol, t))
            want = torch.minimum(stats.step[j], END - t)
            torch.testing.assert_close(found.expand(4), want, rtol=1e-9, atol=1e-12)
            assert not found.requires_grad
    late = row_times(sol, torch.full((4,), END - 1e-3, **f64))
    torch.testing.assert_close(
        sol.step_at(late), torch.full_like(late, 1e-3), rtol=1e-6, atol=0
    )


def test_fixed_grids_with_draws_for_each_sample(f64: KIND) -> None:
    """Unbiased times differ by sample, also where all steps are alike."""
    net, y0 = TimedMLP(3, seed=9).to(**f64), normal((5, 3), 10, **f64)
    drawn = draw((LocalError(),), torch.zeros(5, **f64), torch.full((5,), END, **f64))
    sol = solved(net, y0, f64, controller=FIXED, probe_times=drawn.probe_times)
    (value,) = drawn.penalties(sol).values()
    times = drawn.probe_times[:, 0]
    h = torch.minimum(torch.full_like(times, 0.13), END - times)
    last = times > 1.3  # the clipped step of the grid
    h = torch.where(last, torch.minimum(END - times, torch.full_like(h, 0.1)), h)
    want = take_step(
        EXPLICIT["tsit5"], net, times, sol.probes[:, 0].detach(), h, RTOL, ATOL
    )
    torch.testing.assert_close(value, (want.error * h).mean(), rtol=1e-8, atol=0)
