"""Reading a path of an SDE inside its steps: by one more step, shorter, from the start.

It is driven by what the Brownian motion did up to the time asked for, which a tree
tells at any time, given where it went afterwards. So what is read meets the solution at
both ends of its step, and times read together belong to one path. A straight line
between the ends would lose the variance of the bridge: at most a quarter of the step.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.dense import locate
from nde.solvers.driving import motion_between
from nde.solvers.problem import Problem
from nde.solvers.types import Increment, Step


def read_between(problem: Problem, outcome: Outcome, times: Tensor) -> Tensor:
    """The solution at `times (rows, k)`, `(rows, k, dim)`; NaN where not reached.

    Differentiable but in time. Raises ValueError if times need a gradient, or differ
    between samples that share theirs.
    """
    times = _common(problem, times)
    tape = outcome.tape
    if not tape.slots.numel():
        begun = (times <= problem.t0.unsqueeze(1)).unsqueeze(2)
        return torch.where(begun, problem.y0.unsqueeze(1), torch.nan)
    entry, found = locate(problem, tape, times)
    begin = tape.t[entry]
    length = torch.where(found, times - begin, 0.0)
    starts = outcome.polynomials[tape.slot[entry], 0]
    columns = [
        _stepped(problem, t, h, y)
        for t, h, y in zip(
            begin.unbind(1), length.unbind(1), starts.unbind(1), strict=True
        )
    ]
    if not columns:
        return starts
    return torch.where(found.unsqueeze(2), torch.stack(columns, dim=1), torch.nan)


def _common(problem: Problem, times: Tensor) -> Tensor:
    if times.requires_grad:
        raise ValueError(
            "t requires grad, but the path of an SDE has no derivative in time; pass "
            "t.detach()"
        )
    if problem.common or len(times) != problem.rows:
        if not bool((times == times[:1]).all()):
            raise ValueError(
                "the solve has one time for all samples, t has others for each; pass t "
                "as (k,), or solve with ts of shape (batch, T)"
            )
        times = times[:1].expand(problem.rows, -1)
    return times


def _stepped(problem: Problem, t: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """One step from `y (rows, dim)` at `t (rows,)` over `h (rows,)`."""
    stepper, term = problem.stepper, problem.term
    now, begin = t, t
    inc = Increment(h.to(y.dtype).unsqueeze(1))
    step: Step = begin
    if problem.common:
        now, step = t[0], float(t[0])
        inc = Increment(float(h[0]))
    moved = motion_between(problem, t, t + h)
    inc = replace(inc, w=moved.w, levy=moved.levy, area=moved.area)
    carry = stepper.start(term, now, y)
    return stepper.step(term, step, y, inc, carry, None).y1
