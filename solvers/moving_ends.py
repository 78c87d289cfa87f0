"""Gradients to times: where a solve starts, ends, and is stopped by an event.

The solution's derivative in its end is the vector field there; in its start, minus the
field there pushed along the flow; and an event moves with the state by the implicit
function theorem. All three are given to autograd as slopes at computed states: they are
derivatives of the flow, to which those of the computed solution converge with the
tolerance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.arithmetic import standing_in
from nde.solvers.problem import Problem
from nde.solvers.types import Status


class _Shift(torch.autograd.Function):
    """A state as a function of its time: the value as it is, the slope as its
    derivative."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, t: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        ctx.dtype = t.dtype
        return y.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (slope,) = ctx.saved_tensors
        return grad, (grad * slope).sum(dim=1).to(ctx.dtype), None


def shifted(y: Tensor, t: Tensor, slope: Tensor) -> Tensor:
    """`y (rows, dim)` with derivative `slope` in `t (rows,)`."""
    return _Shift.apply(y, t, slope)  # type: ignore[no-any-return, no-untyped-call]


def slope_at(problem: Problem, t: Tensor, y: Tensor) -> Tensor:
    """The vector field at engine time `t (rows,)`, without a graph."""
    with torch.no_grad():
        now = (t[0] if problem.common else t).detach().to(y.dtype)
        return problem.term.f(now, y.detach().clone()).clone()


def moving_start(problem: Problem, t0: Tensor) -> Problem:
    """A problem whose initial state depends on `t0 (rows,)`, which carries a graph."""
    slope = slope_at(problem, problem.t0, problem.y0)
    # A row that fails there keeps its y0, whenever it begins.
    known = torch.isfinite(slope).all(dim=1, keepdim=True)
    slope = torch.where(known, slope, 0.0)
    return replace(problem, y0=shifted(problem.y0, t0, -slope))


def moving_end(problem: Problem, outcome: Outcome, t1: Tensor) -> Outcome:
    """An outcome whose end depends on `t1 (rows,)` where it was reached."""
    slope = slope_at(problem, problem.t1, outcome.y_end)
    reached = (outcome.tape.status == Status.SUCCESS).unsqueeze(1)
    slope = torch.where(reached, slope, 0.0)
    return replace(outcome, y_end=shifted(outcome.y_end, t1, slope))


def moving_events(problem: Problem, outcome: Outcome) -> tuple[Outcome, Tensor]:
    """An outcome whose ends depend on when their events happen, and these times.

    `t_end (rows,)` float64: tau = t - g(t, y) / (dg/dt) with the total derivative along
    the flow, where y, and whatever the condition g uses, carry the graph.
    """
    tape, watch = outcome.tape, problem.watch
    assert watch is not None and tape.channel is not None
    fired = tape.channel >= 0
    if not torch.is_grad_enabled() or not bool(fired.any()):
        return outcome, tape.t_end
    channel = tape.channel.clamp_min(0).unsqueeze(0)
    slope = slope_at(problem, tape.t_end, outcome.y_end)
    rate = watch.rates(tape.t_end, outcome.y_end, slope).gather(0, channel)[0]
    # Without a derivative along the flow, the time is a constant.
    rate = torch.where(fired & (rate != 0), rate, torch.inf)
    source = standing_in(fired)
    value = watch.values(tape.t_end[source], outcome.y_end[source])
    value = value.gather(0, channel[:, source])[0]
    moved = torch.where(fired, (value - value.detach()) / rate, 0.0)
    t_end = tape.t_end - moved.to(tape.t_end.dtype)
    slope = torch.where(fired.unsqueeze(1), slope, 0.0)
    return replace(outcome, y_end=shifted(outcome.y_end, t_end, slope)), t_end
