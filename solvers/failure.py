"""The error of a solve that did not reach the end: what happened, where, what to do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nde.solvers.bound import Bound, BoundSDE
from nde.solvers.engine import Run
from nde.solvers.reversible_pair import McCallumFoster
from nde.solvers.tape import NOT_FINITE
from nde.solvers.types import SolveError, Status

CAUSE: Mapping[int, str] = {
    Status.MAX_STEPS: "max_steps was reached",
    Status.STEP_UNDERFLOW: (
        "the step fell below min_step, the resolution of time, or that of a Brownian "
        "motion, without being accurate enough"
    ),
    Status.NON_FINITE_FIELD: "the vector field was not finite",
    Status.NON_FINITE_STATE: (
        "the state grew beyond what its dtype holds and is not finite"
    ),
    Status.NON_FINITE_EVENT: "the condition of an event was not finite",
    Status.MAX_EVENTS: "max_events was reached",
}

FIX: Mapping[int, str] = {
    Status.MAX_STEPS: (
        "The problem may be stiff: loosen rtol and atol, scale the vector field down, "
        "or raise max_steps"
    ),
    Status.STEP_UNDERFLOW: (
        "The solution may blow up or jump there: end before it, give the time of the "
        "jump as jump_t, or bound the field"
    ),
    Status.NON_FINITE_FIELD: (
        "Look at the field there (division by zero, overflow, log of a negative); a "
        "smaller step may help on a fixed grid"
    ),
    Status.NON_FINITE_STATE: (
        "The solution may explode: end before it, bound the field, or use smaller "
        "units or a float64 state; on a fixed grid the step may be too long for a "
        "stiff problem"
    ),
    Status.NON_FINITE_EVENT: "Look at the condition there",
    Status.MAX_EVENTS: (
        "Events may accumulate there (a ball that comes to rest): end the sample with "
        "an event without reset, or raise max_events"
    ),
}


# For SDEs, whose paths are rough everywhere.
FIX_ALONG_PATHS: Mapping[int, str] = {
    **FIX,
    Status.MAX_STEPS: (
        "Loosen rtol and atol, use a method of higher order, or raise max_steps"
    ),
    Status.STEP_UNDERFLOW: (
        "The tolerance may ask for more than steps along a Brownian path give: loosen "
        "rtol and atol, use a method of higher order, lower min_step, or pass "
        "noise=BrownianTree(..., tol=...) with a tol that is smaller; or the solution "
        "may blow up there: end before it"
    ),
}


def fix_of(status: int, term: Bound) -> str:
    """What to do about a failure."""
    return (FIX_ALONG_PATHS if isinstance(term, BoundSDE) else FIX)[status]


def error_of(runs: tuple[Run, ...], status: Tensor) -> SolveError:
    """The error that names samples, time, step, cause and fix.

    `status (rows,)` as the solve ended.
    """
    layout, last = runs[0].layout, runs[-1]
    batch = layout.structure.batch
    status = status.expand(batch)
    t_end = last.outcome.tape.t_end.expand(batch)
    bad = (status != Status.SUCCESS) & (status != Status.EVENT)
    samples = bad.nonzero().reshape(-1).tolist()
    first = samples[0]
    code = Status(int(status[first]))
    times = (-t_end if layout.reverse else t_end)[samples].tolist()
    total = torch.stack([run.outcome.evaluations for run in runs]).sum(dim=0)
    counts = total.expand(batch)[samples].tolist()
    row = 0 if layout.shared else first
    step, state = _last_step(runs, row), layout.visible(last.outcome.tape.y_end)[row]
    size = float(state.abs().amax()) if state.numel() else 0.0
    shown = ", ".join(map(str, samples[:5])) + (", ..." if len(samples) > 5 else "")
    fix, stepper = fix_of(code, last.problem.term), last.problem.stepper
    if code == Status.MAX_STEPS and isinstance(stepper, McCallumFoster):
        fix = (
            f"Where the equation contracts, steps beyond {stepper.reach:.1g} over its "
            f"rate tear the two states of {stepper.name} apart: lower "
            f"coupling={stepper.coupling:g}, use method {stepper.base!r} with "
            "adjoint=Recompute(), or raise max_steps"
        )
    if code in (Status.MAX_STEPS, Status.STEP_UNDERFLOW) and stepper.name == (
        "reversible_heun"
    ):
        fix = (
            "Where the equation contracts, the two states of reversible_heun part, and "
            "no shorter step brings them together: use method 'heun', or shorter "
            "intervals"
        )
    return SolveError(
        f"{len(samples)} of {batch} samples did not reach the end (samples {shown}): "
        f"sample {first} stopped at t={times[0]:.6g}, |y|={size:.3g}, after "
        f"{counts[0]} evaluations{step}, because {_cause(code, runs, row)}. {fix}. "
        "With throw=False the others are returned.",
        status=code,
        samples=samples,
        times=times,
        evaluations=counts,
    )


def _cause(code: Status, runs: tuple[Run, ...], row: int) -> str:
    """Why a row ended; of events, which one."""
    for run in runs if code == Status.NON_FINITE_EVENT else ():
        channel, watch = run.outcome.tape.channel, run.problem.watch
        if channel is None or watch is None or int(channel[row]) > NOT_FINITE:
            continue
        number = int(watch.event_of(NOT_FINITE - channel[row]))
        condition = watch.events[number].condition
        name = getattr(condition, "__name__", type(condition).__name__)
        return f"the condition of event {number} ({name}) was not finite"
    return CAUSE[code]


def _last_step(runs: tuple[Run, ...], row: int) -> str:
    """The last accepted step of a row, in words."""
    for run in reversed(runs):
        tape = run.outcome.tape
        lengths = tape.h[tape.row == row]
        if len(lengths):
            return f" (last accepted step {float(lengths[-1]):.3g})"
    return " (no step accepted)"
