"""Samples that fail on a grid which the batch shares: the field sees one time on."""

import pytest
import torch
from problems import KIND
from torch import Tensor

from nde.solvers import (
    BrownianTree,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    SDETerm,
    SolveError,
    Status,
    solve,
)
from nde.solvers.term import Term

ADJOINTS = pytest.mark.parametrize("adjoint", [Recompute(), Direct()])
# As many entries as samples, where a time per sample would broadcast unseen.
STARTS = ((1.0, 0.5, 1.5), (1.0, 40.0, 2.0), (0.3, 0.2, 0.1))
FAILS = 1


def growing(rate: Tensor, stochastic: bool) -> Term:
    """Not defined for states beyond 50, which one sample reaches."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        assert t.shape == ()
        return torch.where(y > 50.0, torch.nan, rate * y * (1.0 + t))

    if not stochastic:
        return ODETerm(field)
    return SDETerm(field, lambda t, y: 0.1 * y, interpretation="stratonovich")


def solved(rows: slice, rate: Tensor, method: str, throw: bool, **options: object):  # type: ignore[no-untyped-def]
    kind: KIND = {"dtype": rate.dtype, "device": rate.device}
    y0 = torch.tensor(STARTS, **kind)[rows].requires_grad_()
    stochastic = method == "reversible_heun"
    noise = None
    if stochastic:
        seeds = torch.arange(3, device=rate.device)[rows]
        noise = BrownianTree(seeds, 0.0, 1.0, (len(y0), 3), **kind)
    ts = torch.tensor([0.0, 0.5, 1.0], **kind)
    found = solve(
        growing(rate, stochastic),
        y0,
        ts,
        method=method,
        controller=FixedSteps(1 / 16),
        noise=noise,
        throw=throw,
        **options,
    )
    return found, y0


@ADJOINTS
@pytest.mark.parametrize("method", ["rk4", "dopri5", "reversible_heun"])
def test_the_others_go_on_as_alone(f64: KIND, method: str, adjoint: object) -> None:
    rate = torch.tensor(0.7, **f64, requires_grad=True)
    found, y0 = solved(slice(None), rate, method, False, adjoint=adjoint)
    good = torch.tensor([True, False, True], device=f64["device"])
    assert (found.status == Status.SUCCESS).tolist() == good.tolist()
    assert torch.isnan(found.ys[FAILS, -1]).all()
    grads = torch.autograd.grad(found.ys[good][:, 1:].sum(), (rate, y0))
    total = torch.zeros_like(rate)
    for row in (0, 2):
        alone, start = solved(slice(row, row + 1), rate, method, False, adjoint=adjoint)
        torch.testing.assert_close(found.ys[row], alone.ys[0], rtol=1e-12, atol=0)
        d_rate, d_start = torch.autograd.grad(alone.ys[:, 1:].sum(), (rate, start))
        total = total + d_rate
        torch.testing.assert_close(grads[1][row], d_start[0], rtol=1e-10, atol=0)
    torch.testing.assert_close(grads[0], total, rtol=1e-10, atol=0)
    assert bool((grads[1][FAILS] == 0).all())


@pytest.mark.parametrize("method", ["rk4", "dopri5", "reversible_heun"])
def test_a_failure_is_told_as_such(f64: KIND, method: str) -> None:
    rate = torch.tensor(0.7, **f64, requires_grad=True)
    with pytest.raises(SolveError, match=r"1 of 3 samples .*\(samples 1\)"):
        solved(slice(None), rate, method, True)


@pytest.mark.parametrize("stochastic", [False, True])
def test_all_fail_at_a_time(f64: KIND, stochastic: bool) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > 0.5, torch.nan, t) * y

    term: Term = SDETerm(field, lambda t, y: y) if stochastic else ODETerm(field)
    ts, y0 = torch.tensor([0.0, 1.0], **f64), torch.ones(4, 3, **f64)
    options = {"method": "euler", "controller": FixedSteps(1 / 16)}
    with pytest.raises(SolveError, match="4 of 4 samples"):
        solve(term, y0, ts, **options)
    found = solve(term, y0, ts, throw=False, **options)
    assert (found.status == Status.NON_FINITE_FIELD).all()


def test_none_can_begin(f64: KIND) -> None:
    ts, y0 = torch.tensor([0.0, 1.0], **f64), torch.ones(4, 3, **f64)
    term = ODETerm(lambda t, y: y * torch.nan * t)
    found = solve(term, y0, ts, method="rk4", controller=FixedSteps(0.25), throw=False)
    assert (found.status == Status.NON_FINITE_FIELD).all()
