"""What is kept of a fixed grid on which a row failed.

Such a row is sent along the grid once more with the steps after its last good one taken
out, so that neither its values nor the gradients of what all rows share are NaN.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nde.solvers.adjoint.forward import find_steps, start
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.bound import BoundSDE
from nde.solvers.nonfinite import Blame
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule, schedule


def last_good_steps(problem: Problem, plan: Schedule) -> tuple[Tensor, Tensor]:
    """Steps of a fixed grid that each row can take, and the status of those that fail.

    Both `(rows,)`. One step fewer than it took before its state was not finite: the
    field at the state before that is known to be finite.
    """
    blame = Blame(problem.rows, problem.y0)
    with torch.no_grad():
        kept = replace(
            problem,
            term=blame.watching(problem.term),
            y0=problem.y0.detach(),
            keep=True,
            dense=False,
        )
        tape = find_steps(kept, plan, start(kept))
    assert tape.y is not None
    finite = tape.grid(torch.isfinite(tape.y).all(dim=1).long()).cumprod(0).sum(0)
    whole = torch.isfinite(tape.y_end).all(dim=1)
    return torch.where(whole, plan.steps, (finite - 2).clamp_min(0)), blame.status


def takes_own_times(problem: Problem) -> bool:
    """Whether functions that were shown one time for all would take one per sample.

    Tried at two times: a function may refuse them, or broadcast them along another
    axis.
    """
    y, t0, t1 = problem.y0.detach(), problem.t0, problem.t1
    odd = torch.arange(problem.rows, device=y.device) % 2 == 1
    early, late = t0.to(y.dtype), (t0 + 0.1 * (t1 - t0)).to(y.dtype)
    functions = [problem.term.f]
    if isinstance(problem.term, BoundSDE):
        functions.append(problem.term.g)
    slack = 16.0 * torch.finfo(y.dtype).eps
    with torch.no_grad():
        for function in functions:
            try:
                got = function(torch.where(odd, late, early), y).clone()
            except Exception:
                return False
            first = function(early[0], y).clone()
            wide = odd.view(-1, *(1,) * (first.ndim - 1))
            want = torch.where(wide, function(late[0], y), first)
            if not torch.allclose(got, want, slack, slack, equal_nan=True):
                return False
    return True


def cut_short(plan: Schedule, steps: Tensor) -> Schedule:
    """A plan whose rows rest after so many steps."""
    number = torch.arange(plan.steps, device=steps.device).unsqueeze(1)
    most = int(((number < steps) & (plan.h > 0)).any(dim=1).sum())
    taken = number[:most] < steps
    last = plan.t.gather(0, steps.clamp_max(plan.steps - 1).unsqueeze(0))
    t = torch.where(taken, plan.t[:most], last)
    noise = plan.noise
    if noise is not None:
        noise = noise.map(
            lambda part: part[:most] * taken.view(*taken.shape, *(1,) * (part.ndim - 2))
        )
    fresh = None if plan.fresh is None else plan.fresh[:most]
    h = plan.h[:most] * taken
    if plan.shared is None:
        return schedule(t, h, noise, fresh=fresh)
    still = (h == 0).any(dim=1).nonzero().view(-1).tolist()
    some, donor = (h > 0).any(dim=0), None
    if most and not bool(some.all()):
        rows = torch.arange(h.shape[1], device=h.device)
        donor = torch.where(some, rows, some.long().argmax())
    return replace(
        plan,
        h=h,
        t=plan.t[:most],
        noise=noise,
        fresh=fresh,
        shared=plan.shared[:most],
        restarts=frozenset(j for j in plan.restarts if j < most),
        resting=frozenset(still),
        donor=donor,
    )


def reached(plan: Schedule, steps: Tensor, problem: Problem) -> Tensor:
    """The time that each row got to in so many steps: `(rows,)`."""
    knots = torch.cat([plan.t, problem.t1.unsqueeze(0)])
    return knots.gather(0, steps.unsqueeze(0)).squeeze(0)


def failed(
    outcome: Outcome, status: Tensor, t_end: Tensor, channel: Tensor | None
) -> Outcome:
    """An outcome with the status and the times reached of a run cut short."""
    tape = replace(outcome.tape, status=status, t_end=t_end, channel=channel)
    return replace(outcome, tape=tape)
