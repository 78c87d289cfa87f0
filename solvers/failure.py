"""Solves that do not reach the end: what is said, and what is kept.

A row that fails on a fixed grid is sent along the grid once more with the steps after
its last good one taken out, so that neither its values nor the gradients of what all
rows share are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from nde.solvers.adjoint.forward import find_steps, start
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.march import Schedule, schedule
from nde.solvers.problem import Problem
from nde.solvers.term import Layout
from nde.solvers.types import SolveError, Status

_CAUSE: Mapping[int, str] = {
    Status.MAX_STEPS: "max_steps was reached",
    Status.STEP_UNDERFLOW: "the step fell below the resolution of time",
    Status.NON_FINITE: "the vector field or the state was not finite",
}

_FIX: Mapping[int, str] = {
    Status.MAX_STEPS: (
        "The problem may be stiff: loosen rtol and atol, scale the vector field down, "
        "or raise max_steps"
    ),
    Status.STEP_UNDERFLOW: (
        "The solution may blow up or jump there: end before it, or bound the field"
    ),
    Status.NON_FINITE: (
        "Look at the field there (division by zero, overflow, log of a negative); a "
        "smaller step may help on a fixed grid"
    ),
}


def last_good_steps(problem: Problem, plan: Schedule) -> Tensor:
    """Steps of a fixed grid that each row can take `(rows,)`.

    One fewer than it took before its state was not finite: the field at the state
    before that is known to be finite.
    """
    with torch.no_grad():
        kept = replace(problem, y0=problem.y0.detach(), keep=True, dense=False)
        tape = find_steps(kept, plan, start(kept))
    finite = torch.stack(
        [torch.isfinite(tape.states(j)[0]).all(dim=1) for j in range(plan.steps)]
    )
    whole = torch.isfinite(tape.y_end).all(dim=1)
    good = (finite.long().cumprod(0).sum(0) - 2).clamp_min(0)
    return torch.where(whole, plan.steps, good)


def cut_short(plan: Schedule, steps: Tensor) -> Schedule:
    """A plan whose rows rest after so many steps."""
    number = torch.arange(plan.steps, device=steps.device).unsqueeze(1)
    most = int(((number < steps) & (plan.h > 0)).any(dim=1).sum())
    taken = number[:most] < steps
    last = plan.t.gather(0, steps.clamp_max(plan.steps - 1).unsqueeze(0))
    t = torch.where(taken, plan.t[:most], last)
    noise = plan.noise
    if noise is not None:
        noise = noise[:most] * taken.unsqueeze(2)
    return schedule(t, plan.h[:most] * taken, noise)


def reached(plan: Schedule, steps: Tensor, problem: Problem) -> Tensor:
    """The time that each row got to in so many steps: `(rows,)`."""
    knots = torch.cat([plan.t, problem.t1.unsqueeze(0)])
    return knots.gather(0, steps.unsqueeze(0)).squeeze(0)


def failed(outcome: Outcome, status: Tensor, t_end: Tensor) -> Outcome:
    """An outcome with the status and the times reached of a run cut short."""
    return replace(outcome, tape=replace(outcome.tape, status=status, t_end=t_end))


def error_of(layout: Layout, outcome: Outcome) -> SolveError:
    """The error that names samples, time, cause and fix."""
    batch, tape = layout.structure.batch, outcome.tape
    status, t_end = tape.status.expand(batch), tape.t_end.expand(batch)
    samples = (status != Status.SUCCESS).nonzero().reshape(-1).tolist()
    code = Status(int(status[samples[0]]))
    times = (-t_end if layout.reverse else t_end)[samples].tolist()
    counts = outcome.evaluations.expand(batch)[samples].tolist()
    shown = ", ".join(map(str, samples[:5])) + (", ..." if len(samples) > 5 else "")
    return SolveError(
        f"{len(samples)} of {batch} samples did not reach the end (samples {shown}): "
        f"sample {samples[0]} stopped at t={times[0]:.6g} after {counts[0]} "
        f"evaluations, because {_CAUSE[code]}. {_FIX[code]}. With throw=False the "
        "others are returned.",
        status=code,
        samples=samples,
        times=times,
        evaluations=counts,
    )
