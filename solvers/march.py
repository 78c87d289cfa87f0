"""Marching along known steps: fixed grids, and every replay of an adaptive solve."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.controller import PID
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule
from nde.solvers.stages import Stages
from nde.solvers.tape import Tape
from nde.solvers.types import Status


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
    # Adaptive steps were observed when they were found.
    observer = None if isinstance(problem.controller, PID) else problem.observer
    stages: Stages | None = None
    if not graph:
        stages = problem.stepper.workspace(y, graph)
    # What resting rows show the field.
    shown, shown_carry = y, carry
    if plan.donor is not None:
        begun = plan.lent(problem)
        shown = begun.y0
        if graph:
            carry = problem.stepper.start(problem.term, begun.start_time, shown)
        shown_carry = tuple(part[plan.donor] for part in carry)
    error, stiffness, polynomials = [], [], []
    states: list[Tensor] = []
    carries: list[tuple[Tensor, ...]] = []
    for j in range(plan.steps):
        if graph:
            stages = problem.stepper.workspace(y, graph)
        t, inc = plan.step(j, y.dtype)
        carry = plan.begin(problem, j, y, carry)
        if problem.keep and j % problem.spacing == 0:
            states.append(y.detach())
            carries.append(tuple(part.detach().clone() for part in carry))
        moving = plan.moving(j)
        if moving is not None:
            shown = torch.where(moving, y, plan.stand_in(j, y, shown))
            shown_carry = tuple(
                torch.where(moving, part, plan.stand_in(j, part, old))
                for part, old in zip(carry, shown_carry, strict=True)
            )
        elif plan.resting:
            # The next step will overwrite the carry of this one.
            shown, shown_carry = y, tuple(part.clone() for part in carry)
        else:
            shown, shown_carry = y, carry
        if observer is not None:
            h = inc.dt if isinstance(inc.dt, float) else plan.h[j]
            observer.attempt(t, y, h)
        # Rows at rest keep theirs, which the step may overwrite.
        held = carry if moving is None else tuple(part.clone() for part in carry)
        facing = plan.facing(problem, j)
        out = problem.stepper.step(facing.term, t, shown, inc, shown_carry, stages)
        if out.error is not None:
            error.append(problem.error_ratio(shown, out))
        if out.stiffness is not None:
            stiffness.append(out.stiffness)
        if slot_rows[j].numel():
            polynomials.append(
                facing.polynomials_of(slot_rows[j], t, shown, inc, out, stages)
            )
        y = out.y1 if moving is None else torch.where(moving, out.y1, y)
        carry = out.carry
        if moving is not None:
            carry = tuple(
                torch.where(moving, new, old)
                for new, old in zip(carry, held, strict=True)
            )
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
