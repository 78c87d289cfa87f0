"""Marching along known steps: fixed grids, and every replay of an adaptive solve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.brownian import BrownianGrid
from nde.solvers.controller import FixedSteps
from nde.solvers.problem import Problem
from nde.solvers.stages import Stages
from nde.solvers.tape import Tape
from nde.solvers.term import BoundSDE
from nde.solvers.types import MEMORY, Increment, Status, Step


@dataclass(frozen=True)
class Schedule:
    """Steps to take: start and length of each, as Python numbers where all rows share.

    `t`, `h` `(steps, rows)` float64; a length of zero rests. `noise (steps, batch, m)`.
    """

    t: Tensor
    h: Tensor
    noise: Tensor | None
    shared: list[tuple[float, float]] | None

    @property
    def steps(self) -> int:
        """Number of steps of the longest row."""
        return self.t.shape[0]

    def step(self, j: int, dtype: torch.dtype) -> tuple[Step, Increment]:
        """Start and increment of step j."""
        w = None if self.noise is None else self.noise[j]
        before = slice(max(j - MEMORY, 0), j)
        if self.shared is not None:
            t, h = self.shared[j]
            return t, Increment(h, w, j, [size for _, size in self.shared[before]])
        dt = self.h[j].to(dtype).unsqueeze(1)
        return self.t[j], Increment(dt, w, j, self.h[before])


def schedule(
    t: Tensor, h: Tensor, noise: Tensor | None, common: bool = False
) -> Schedule:
    """A schedule from `t`, `h` `(steps, rows)`; `common` if all rows are alike."""
    shared = None
    if t.shape[1] == 1 or (common and t.shape[1]):
        shared = list(zip(t[:, 0].tolist(), h[:, 0].tolist(), strict=True))
    return Schedule(t, h, noise, shared)


def replay_of(tape: Tape) -> Schedule:
    """The accepted steps of a tape; rows that ended early rest."""
    t = torch.where(tape.valid, tape.grid(tape.t), tape.t_end)
    return schedule(t, tape.grid(tape.h), tape.noise)


def fixed_grid(problem: Problem, noise: BrownianGrid | None) -> Schedule:
    """The grid that `FixedSteps` asks for.

    Raises ValueError if it would take more than `max_steps` steps.
    """
    controller = problem.controller
    assert isinstance(controller, FixedSteps)
    # Python numbers, and one copy from the device: a grid is made once per solve.
    rows = slice(0, 1 if problem.common else None)
    times, inside = problem.reads[rows].tolist(), problem.interior[rows].tolist()
    ends = zip(problem.t0[rows].tolist(), problem.t1[rows].tolist(), strict=True)
    grids = []
    for row, (t0, t1) in enumerate(ends):
        marks = {t for t, keep in zip(times[row], inside[row], strict=True) if keep}
        if problem.interpolates:
            marks = set()
        grids.append(_knots([t0, *sorted(marks), t1], problem, controller.step))
    steps = max((len(knots) for knots in grids), default=1) - 1
    knots = problem.t1.new_tensor(
        [grid + [grid[-1]] * (steps + 1 - len(grid)) for grid in grids]
    )
    knots = knots.reshape(-1, steps + 1).t()
    t, h = knots[:-1].contiguous(), knots.diff(dim=0)
    drawn = None
    if noise is not None:
        assert isinstance(problem.term, BoundSDE)
        lengths = h[:, 0] if h.shape[1] == 1 else h
        drawn = noise.increments(lengths, problem.term.noise_shape, problem.y0.dtype)
    if problem.common:
        t, h = t.expand(-1, problem.rows), h.expand(-1, problem.rows)
    return schedule(t, h, drawn, problem.common)


@dataclass(frozen=True)
class March:
    """What a march gives: per step `error`, `stiffness` `(steps, rows)`, the end state,
    and the polynomials of the slots asked for. Where kept, the states it passed."""

    error: Tensor
    stiffness: Tensor
    y_end: Tensor
    polynomials: Tensor
    states: list[Tensor]
    carries: list[tuple[Tensor, ...]]
    carry_end: tuple[Tensor, ...]


def march(
    problem: Problem,
    plan: Schedule,
    carry: tuple[Tensor, ...],
    slot_rows: tuple[Tensor, ...],
) -> March:
    """Take the steps of a plan, recording a graph where gradients are on."""
    graph = torch.is_grad_enabled()
    y = problem.y0
    stages: Stages | None = None
    if not graph:
        stages = problem.stepper.workspace(y, graph)
    error, stiffness, polynomials = [], [], []
    states: list[Tensor] = []
    carries: list[tuple[Tensor, ...]] = []
    for j in range(plan.steps):
        if graph:
            stages = problem.stepper.workspace(y, graph)
        t, inc = plan.step(j, y.dtype)
        out = problem.stepper.step(problem.term, t, y, inc, carry, stages)
        if out.error is not None:
            error.append(problem.error_ratio(y, out))
        if out.stiffness is not None:
            stiffness.append(out.stiffness)
        if slot_rows[j].numel():
            polynomials.append(
                problem.polynomials_of(slot_rows[j], t, y, inc, out, stages)
            )
        if problem.keep:
            states.append(y.detach())
            carries.append(tuple(part.detach() for part in carry))
        y, carry = out.y1, out.carry
    none = problem.y0.new_full((plan.steps, problem.rows), torch.nan)
    return March(
        error=torch.stack(error) if error else none,
        stiffness=torch.stack(stiffness) if stiffness else none,
        y_end=y,
        polynomials=torch.cat(polynomials) if polynomials else y[:0].unsqueeze(1),
        states=states,
        carries=carries,
        carry_end=carry,
    )


def fixed_tape(problem: Problem, plan: Schedule) -> Tape:
    """The tape of a plan before it is marched: steps, rows and slots, no values."""
    taken = plan.h > 0
    step, row = taken.nonzero(as_tuple=True)
    accepted = taken.sum(0)
    none = problem.y0.new_full((step.numel(),), torch.nan)
    return Tape(
        step=step,
        row=row,
        t=plan.t[step, row],
        h=plan.h[step, row],
        error=none,
        stiffness=none,
        y=None,
        carry=(),
        slots=_slots(problem, plan, taken, step, row),
        polynomials=problem.y0[:0].unsqueeze(1),
        y_end=problem.y0,
        carry_end=(),
        t_end=problem.t1,
        accepted=accepted,
        rejected=torch.zeros_like(accepted),
        status=torch.full_like(accepted, int(Status.SUCCESS)),
        noise=plan.noise,
    )


def _slots(
    problem: Problem, plan: Schedule, taken: Tensor, step: Tensor, row: Tensor
) -> Tensor:
    """Entries inside which something is read."""
    if problem.dense and problem.interpolates:
        return torch.arange(step.numel(), device=step.device)
    edges = plan.t + plan.h if problem.interpolates else plan.t
    edges = edges.masked_fill(~taken, torch.inf).t().contiguous()
    reads = problem.reads.contiguous()
    if problem.interpolates:
        k = torch.searchsorted(edges, reads)
    else:
        k = torch.searchsorted(edges, reads, right=True) - 1
    inside = problem.interior & (k >= 0) & (k < taken.sum(0).unsqueeze(1))
    owner, read = inside.nonzero(as_tuple=True)
    hit = torch.zeros_like(taken)
    hit[k[owner, read], owner] = True
    return hit[step, row].nonzero(as_tuple=True)[0]


def _knots(marks: list[float], problem: Problem, step: float) -> list[float]:
    """Times of one row's grid, which holds every mark."""
    counts = []
    marks = [t for i, t in enumerate(marks) if i == 0 or t > marks[i - 1]]
    for left, right in zip(marks[:-1], marks[1:], strict=True):
        # A remainder of rounding size is no step of its own.
        counts.append(max(1, math.ceil((right - left) / step * (1.0 - 1e-9))))
    if sum(counts) > problem.max_steps:
        raise ValueError(
            f"step={step} on [{marks[0]}, {marks[-1]}] takes {sum(counts)} steps, more "
            f"than max_steps={problem.max_steps}; lengthen step or raise max_steps"
        )
    knots = marks[:1]
    for left, right, count in zip(marks[:-1], marks[1:], counts, strict=True):
        size = step if problem.interpolates else (right - left) / count
        knots.extend(left + size * i for i in range(1, count))
        knots.append(right)
    return knots
