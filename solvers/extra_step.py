"""One more step from any place of a solve: what local regularizers ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nde.solvers.bound import BoundSDE
from nde.solvers.brownian import (
    BrownianBridge,
    BrownianGrid,
    BrownianIncrement,
    BrownianTree,
    StretchedTree,
    fresh_seed,
)
from nde.solvers.controller import ErrorScale
from nde.solvers.dense import locate
from nde.solvers.driving import motion_between
from nde.solvers.engine import Run
from nde.solvers.initial_step import initial_step
from nde.solvers.precision import own
from nde.solvers.problem import Problem
from nde.solvers.schedule import drawn, driven_in
from nde.solvers.state import State
from nde.solvers.types import Increment, Step, StepOut

# What drives the step of an SDE: new noise, or what the solve met over that time.
StepNoise = Literal["fresh", "same"]

# Of a step's length: what rounding makes of it.
_ROUNDING = 1e-9


def engine_time(run: Run, t: Tensor) -> Tensor:
    """User times `(rows,)`, or one, as engine times `(rows,)`."""
    problem = run.problem
    t = t.detach().to(problem.t0.dtype).reshape(-1)
    if t.shape[0] == 1:
        t = t.expand(problem.rows)
    if t.shape[0] != problem.rows:
        raise ValueError(
            f"t has {t.shape[0]} times, this solve steps {problem.rows} rows; pass "
            "one time per sample, or one where the batch shares its steps"
        )
    return -t if run.layout.reverse else t


def whole_step(run: Run, t: Tensor) -> Tensor:
    """Length of the accepted step that holds engine time `t (rows,)`, 0 if none.

    Where one ended at t, as steps do that land on it, it is the next.
    """
    tape = run.outcome.tape
    if tape.steps == 0:
        return torch.zeros_like(t)
    begins = tape.grid(tape.t).masked_fill(~tape.valid, torch.inf).t().contiguous()
    slack = 4.0 * torch.finfo(t.dtype).eps * tape.t_end.abs()
    number = torch.searchsorted(begins, (t + slack).unsqueeze(1), right=True) - 1
    found = (number >= 0) & (t <= tape.t_end).unsqueeze(1)
    entry = tape.index.gather(0, number.clamp_min(0).t()).t()
    return torch.where(found, tape.h[entry], 0.0).squeeze(1)


def kept_step(run: Run, number: Tensor) -> tuple[Tensor, Tensor, State] | None:
    """User time, length and state where accepted steps `number (rows,)` began.

    None if the solve kept no states.
    """
    tape, layout = run.outcome.tape, run.layout
    if tape.y is None or tape.steps == 0:
        return None
    entry = tape.index.gather(0, number.unsqueeze(0)).squeeze(0)
    # A row without such a step rests where it ended.
    there = number < tape.accepted
    t = torch.where(there, tape.t[entry], tape.t_end)
    h = torch.where(there, tape.h[entry], 0.0)
    flat = torch.where(there.unsqueeze(1), tape.y[entry], tape.y_end)
    y = layout.structure.unflatten(layout.to_batch(flat))
    return -t if layout.reverse else t, h, y


def first_step(run: Run, t: Tensor, y: State) -> Tensor:
    """Hairer's first step from `y` at user time `t`, without gradient: `(rows,)`."""
    problem, layout = run.problem, run.layout
    order = problem.stepper.error_order
    if order is None or isinstance(problem.term, BoundSDE):
        raise ValueError(
            f"method {problem.stepper.name!r} does not choose a first step; use an "
            "adaptive ODE method, or the accepted step"
        )
    start = engine_time(run, t)
    with torch.no_grad():
        flat = layout.to_engine(y, "y").detach()
        k = problem.term.f(start.to(flat.dtype), flat)
        span = problem.t1 - start
        return initial_step(
            problem.term, start, flat, k, span, problem.tolerances, order
        )


@dataclass(frozen=True)
class ExtraStep:
    """A step from `y (rows, dim)`, laid out as in the solve.

    `now` and `begin` are its time as the field and the stepper see it.
    """

    problem: Problem
    y: Tensor
    now: Tensor
    begin: Step
    increment: Increment

    def take(self, y: Tensor, k1: Literal["attached", "frozen"]) -> StepOut:
        """The step from `y`."""
        problem, stepper = self.problem, self.problem.stepper
        carry = stepper.start(problem.term, self.now, y)
        if k1 == "frozen":
            carry = tuple(part.detach() for part in carry)
        stages = stepper.workspace(y, graph=torch.is_grad_enabled())
        with own(y.device):
            return stepper.step(
                problem.term, self.begin, y, self.increment, carry, stages
            )

    def estimates(
        self, k1: Literal["attached", "frozen"], scale: ErrorScale | None
    ) -> tuple[Tensor, Tensor]:
        """Error and stiffness estimates: `(rows,)` each."""
        problem = self.problem
        if scale is not None:
            tolerances = replace(problem.tolerances, detached=scale == "detached")
            problem = replace(problem, tolerances=tolerances)
        out = self.take(self.y, k1)
        return problem.error_ratio(self.y, out), problem.stiffness(self.y, out)

    @torch.no_grad()
    def rounding(self, eps: float) -> tuple[Tensor, Tensor]:
        """The error estimate, and how much of it is rounding: `(rows,)` each.

        The step from a state beside, by the relative rounding unit `eps`, has the same
        error but for rounding.
        """
        y = self.y.detach()
        out = self.take(y, "attached")
        assert out.error is not None
        ratio = self.problem.error_ratio(y, out)
        # A buffer of stages may hold it, which the second step overwrites.
        error = out.error.clone()
        beside = self.take(y * (1.0 + eps), "attached")
        assert beside.error is not None
        # Both steps have their own.
        apart = (beside.error - error) / math.sqrt(2.0)
        return ratio, self.problem.tolerances.ratio(apart, y, beside.y1)


def extra_step(
    run: Run, t: Tensor, y: State, h: Tensor, noise: StepNoise = "fresh"
) -> ExtraStep:
    """Lay out a step from `y` at user time `t` over `h (rows,)`."""
    problem = run.problem
    start = engine_time(run, t)
    flat = run.layout.to_engine(y, "y").contiguous()
    length = h.detach().to(start.dtype)
    now: Tensor = start
    begin: Step = start
    increment = Increment(length.to(flat.dtype).unsqueeze(1))
    alike = (start == start[:1]) & (length == length[:1])
    if problem.common and problem.rows and bool(alike.all()):
        # As in the solve, the field sees one time for all.
        now, begin = start[0], float(start[0])
        increment = Increment(float(length[0]))
    if isinstance(problem.term, BoundSDE):
        moved = _motion(run, start, length, noise)
        increment = replace(increment, w=moved.w, levy=moved.levy, area=moved.area)
    return ExtraStep(problem, flat, now, begin, increment)


def _motion(
    run: Run, start: Tensor, length: Tensor, noise: StepNoise
) -> BrownianIncrement:
    problem = run.problem
    source = BrownianGrid(fresh_seed()) if noise == "fresh" else problem.noise
    if source is None:
        raise ValueError(
            "noise='same' needs the Brownian motion of the solve; pass it as noise to "
            "foreign_solution, or use noise='fresh'"
        )
    if noise == "same" and isinstance(source, BrownianGrid):
        return _recorded(run, start, length)
    if isinstance(source, (BrownianTree, BrownianBridge, StretchedTree)):
        # The end of the last step may lie a rounding beside that of the interval.
        end = torch.minimum(start + length, problem.t1)
        return motion_between(problem, start, end)
    alike = (start == start[:1]) & (length == length[:1])
    one = slice(0, 1 if noise == "same" and bool(alike.all()) else None)
    moved = drawn(problem, source, start[one].unsqueeze(0), length[one].unsqueeze(0))
    return BrownianIncrement(*driven_in(moved, 0))  # type: ignore[arg-type]


def _recorded(run: Run, start: Tensor, length: Tensor) -> BrownianIncrement:
    """The motion over accepted steps, which a grid knows of whole steps alone."""
    problem, tape = run.problem, run.outcome.tape
    entry, found = locate(problem, tape, start.unsqueeze(1))
    entry = entry.squeeze(1) if tape.steps else entry
    whole = length == 0.0
    if tape.steps:
        near = (tape.h[entry] - length).abs() <= _ROUNDING * tape.h[entry]
        whole = whole | (found.squeeze(1) & (tape.t[entry] == start) & near)
    if tape.noise is None or not bool(whole.all()):
        raise ValueError(
            "noise='same' asks what the Brownian motion did over a time that is no "
            "step of the solve, which a grid does not know; take whole accepted steps, "
            "pass noise=BrownianTree(...) to the solve, or use noise='fresh'"
        )
    step = tape.step[entry]
    moves = (length > 0.0).to(problem.y0.dtype)

    def of_steps(part: Tensor) -> Tensor:
        batch = torch.arange(part.shape[1], device=part.device)
        picked = part[step.expand(len(batch)), batch]
        return picked * moves.expand(len(batch)).view(-1, *(1,) * (picked.ndim - 1))

    return tape.noise.map(of_steps)
