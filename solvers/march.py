"""Marching along known steps: fixed grids, and every replay of an adaptive solve."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nde.solvers.controller import PID
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule
from nde.solvers.stages import Stages
from nde.solvers.tape import Tape
from nde.solvers.transforms import transformed
from nde.solvers.types import Status, StepOut


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


@dataclass(frozen=True)
class Place:
    """Where the rows stand before a step of a plan.

    `y (rows, dim)` and `carry` are theirs; `shown` and `shown_carry` what the field
    sees, which for rows that rest are others.
    """

    y: Tensor
    carry: tuple[Tensor, ...]
    shown: Tensor
    shown_carry: tuple[Tensor, ...]

    def kept(self) -> Place:
        """The same where no later step overwrites it."""
        carry, shown = (
            tuple(part.clone() for part in parts)
            for parts in (self.carry, self.shown_carry)
        )
        return replace(self, carry=carry, shown_carry=shown)


def first_place(problem: Problem, plan: Schedule, carry: tuple[Tensor, ...]) -> Place:
    """Where a march sets out; `carry` is that of the first step."""
    y = problem.y0
    if plan.donor is None:
        return Place(y, carry, y, carry)
    begun = plan.lent(problem)
    if torch.is_grad_enabled():
        carry = problem.stepper.start(problem.term, begun.start_time, begun.y0)
    return Place(y, carry, begun.y0, tuple(part[plan.donor] for part in carry))


def faced(problem: Problem, plan: Schedule, j: int, place: Place) -> Place:
    """A place as step j sets out from it."""
    y, carry = place.y, plan.begin(problem, j, place.y, place.carry)
    moving = plan.moving(j)
    if moving is None:
        # Where rows rest later, the next step will overwrite the carry of this one.
        later = tuple(part.clone() for part in carry) if plan.resting else carry
        return Place(y, carry, y, later)
    shown = torch.where(moving, y, plan.stand_in(j, y, place.shown))
    shown_carry = tuple(
        torch.where(moving, part, plan.stand_in(j, part, old))
        for part, old in zip(carry, place.shown_carry, strict=True)
    )
    # Rows at rest keep theirs, which the step may overwrite.
    return Place(y, tuple(part.clone() for part in carry), shown, shown_carry)


def left(plan: Schedule, j: int, place: Place, out: StepOut) -> Place:
    """Where step j leads from a place as it is faced."""
    moving = plan.moving(j)
    if moving is None:
        return replace(place, y=out.y1, carry=out.carry)
    carry = tuple(
        torch.where(moving, new, old)
        for new, old in zip(out.carry, place.carry, strict=True)
    )
    return replace(place, y=torch.where(moving, out.y1, place.y), carry=carry)


@torch.no_grad()
def walked(problem: Problem, plan: Schedule, place: Place, a: int, b: int) -> Place:
    """The place before step b, from that before step a; steps are taken once more."""
    stages = problem.stepper.workspace(place.y, graph=False)
    observer = problem.observer
    for j in range(a, b):
        t, inc = plan.step(j, place.y.dtype)
        place = faced(problem, plan, j, place)
        if observer is not None:
            h = inc.dt if isinstance(inc.dt, float) else plan.h[j]
            observer.replay(t, place.y, h)
        term = plan.facing(problem, j).term
        shown, carry = place.shown, place.shown_carry
        out = problem.stepper.step(term, t, shown, inc, carry, stages)
        place = left(plan, j, place, out)
    return place.kept()


def march(
    problem: Problem,
    plan: Schedule,
    carry: tuple[Tensor, ...],
    slot_rows: tuple[Tensor, ...],
) -> March:
    """Take the steps of a plan, recording a graph where gradients are on."""
    # What a transform hides in tensors is not written into a buffer without it.
    graph = torch.is_grad_enabled() or transformed()
    # Adaptive steps were observed when they were found.
    observer = None if isinstance(problem.controller, PID) else problem.observer
    stages: Stages | None = None
    if not graph:
        stages = problem.stepper.workspace(problem.y0, graph)
    place = first_place(problem, plan, carry)
    error, stiffness, polynomials = [], [], []
    states: list[Tensor] = []
    carries: list[tuple[Tensor, ...]] = []
    for j in range(plan.steps):
        if graph:
            stages = problem.stepper.workspace(place.y, graph)
        t, inc = plan.step(j, place.y.dtype)
        place = faced(problem, plan, j, place)
        if problem.keep and j % problem.spacing == 0:
            states.append(place.y.detach())
            carries.append(tuple(part.detach().clone() for part in place.carry))
        if observer is not None:
            h = inc.dt if isinstance(inc.dt, float) else plan.h[j]
            observer.attempt(t, place.y, h)
        facing, shown = plan.facing(problem, j), place.shown
        out = problem.stepper.step(
            facing.term, t, shown, inc, place.shown_carry, stages
        )
        if out.error is not None:
            error.append(problem.error_ratio(shown, out))
        if out.stiffness is not None:
            stiffness.append(out.stiffness)
        if slot_rows[j].numel():
            polynomials.append(
                facing.polynomials_of(slot_rows[j], t, shown, inc, out, stages)
            )
        place = left(plan, j, place, out)
    y, carry = place.y, place.carry
    none = problem.y0.new_full((plan.steps, problem.rows), torch.nan)
    return March(
        error=torch.stack(error) if error else none,
        stiffness=torch.stack(stiffness) if stiffness else none,
        y_end=y,
        polynomials=torch.cat(polynomials) if polynomials else y[:0].unsqueeze(1),
        states=states,
        carries=carries,
        carry_end=carry if graph else tuple(part.clone() for part in carry),
    )


def fixed_tape(problem: Problem, plan: Schedule) -> Tape:
    """The tape of a plan before it is marched: steps, rows and slots, no values."""
    taken = plan.h > 0
    step, row = _entries(plan, taken)
    accepted = taken.sum(0)
    none = problem.y0.new_full((step.numel(),), torch.nan)

    def at(table: Tensor) -> Tensor:
        return table[step, row] if plan.resting else table.reshape(-1)

    return Tape(
        step=step,
        row=row,
        t=at(plan.t),
        h=at(plan.h),
        fresh=None if plan.fresh is None else at(plan.fresh),
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
        common=problem.common,
        spacing=problem.spacing,
    )


def _entries(plan: Schedule, taken: Tensor) -> tuple[Tensor, Tensor]:
    """Step and row of each step taken, by step."""
    if plan.resting:
        step, row = taken.nonzero(as_tuple=True)
        return step, row
    steps, rows = (torch.arange(n, device=taken.device) for n in taken.shape)
    return steps.repeat_interleave(len(rows)), rows.repeat(len(steps))


def _slots(
    problem: Problem, plan: Schedule, taken: Tensor, step: Tensor, row: Tensor
) -> Tensor:
    """Entries inside which something is read."""
    if problem.dense:
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
