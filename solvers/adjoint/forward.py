"""The forward pass that all adjoints share: find the steps, keep their states."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nde.solvers import initial_step, loop
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.bound import BoundODE
from nde.solvers.controller import PID
from nde.solvers.march import March, fixed_tape, march
from nde.solvers.nonfinite import judged
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule
from nde.solvers.tape import Tape
from nde.solvers.transforms import in_every_member, in_vmap
from nde.solvers.types import Status


def find_steps(
    problem: Problem, plan: Schedule | None, carry: tuple[Tensor, ...]
) -> Tape:
    """The tape of a solve from `carry`, without a graph.

    `plan` where the steps are given.
    """
    with torch.no_grad():
        carry = tuple(part.detach() for part in carry)
        if plan is None:
            tape = loop.run(problem, carry)
            return replace(tape, status=_judged(problem, tape))
        blank = fixed_tape(problem, plan)
        return fill(blank, problem, march(problem, plan, carry, blank.slot_rows))


def _judged(problem: Problem, tape: Tape) -> Tensor:
    """Why rows ended, where the loop only knows that a number was not finite."""
    status = tape.status
    if in_vmap():
        # Numbers of the members, which cannot be looked at one by one.
        return status
    if bool((status == Status.MAX_STEPS).any()):
        now = tape.t_end.to(tape.y_end.dtype)
        finite = torch.isfinite(problem.term.f(now, tape.y_end)).all(dim=1)
        lost = (status == Status.MAX_STEPS) & ~finite
        status = torch.where(lost, int(Status.NON_FINITE_FIELD), status)
    return judged(status, tape.y_end)


def start(problem: Problem) -> tuple[Tensor, ...]:
    """The carry of the first step."""
    return problem.stepper.start(problem.term, problem.start_time, problem.y0)


def fill(blank: Tape, problem: Problem, result: March) -> Tape:
    """A fixed grid's tape with the values of its march."""
    seen = result.y_end
    if isinstance(problem.term, BoundODE):
        # As under adaptive steps, an integral beside the state is not looked at.
        seen = problem.term.layout.visible(seen)
    finite = in_every_member(torch.isfinite(seen).all(dim=1))
    failed = torch.full_like(blank.status, int(Status.NON_FINITE_FIELD))
    states = _kept(blank, result.states) if result.states else None
    carry: tuple[Tensor, ...] = ()
    if result.states and result.carries[0]:
        columns = zip(*result.carries, strict=True)
        carry = tuple(_kept(blank, list(column)) for column in columns)
    return replace(
        blank,
        error=_picked(blank, result.error.detach()),
        stiffness=_picked(blank, result.stiffness.detach()),
        y=states,
        carry=carry,
        polynomials=result.polynomials.detach(),
        y_end=result.y_end.detach(),
        carry_end=tuple(part.detach() for part in result.carry_end),
        status=torch.where(finite, blank.status, failed),
    )


def _picked(blank: Tape, table: Tensor) -> Tensor:
    """Of a table `(steps, rows, ...)` what belongs to the entries."""
    if blank.step.numel() == table.shape[0] * table.shape[1]:
        return table.flatten(0, 1)
    return table[blank.step, blank.row]


def _kept(blank: Tape, parts: list[Tensor]) -> Tensor:
    """Of states of every `spacing`-th step, those that belong to entries."""
    if blank.spacing == 1:
        return _picked(blank, torch.stack(parts))
    some = blank.step % blank.spacing == 0
    return torch.stack(parts)[blank.step[some] // blank.spacing, blank.row[some]]


def plain(problem: Problem, tape: Tape) -> Outcome:
    """The outcome of a solve without gradients."""
    return Outcome(
        tape=tape,
        y_end=tape.y_end,
        polynomials=tape.polynomials,
        evaluations=evaluations(problem, tape),
    )


def evaluations(problem: Problem, tape: Tape) -> Tensor:
    """Vector-field calls that each row needed: counted, not observed."""
    stepper, controller = problem.stepper, problem.controller
    first = stepper.start_evaluations
    if isinstance(controller, PID) and controller.first_step is None:
        first += initial_step.EVALUATIONS + (0 if stepper.start_evaluations else 1)
    count = stepper.evaluations(tape.accepted + tape.rejected) + first
    if tape.fresh is not None and stepper.start_evaluations:
        anew = torch.bincount(tape.row[tape.fresh], minlength=problem.rows)
        count = count + anew * stepper.start_evaluations
    if stepper.extra_evaluations:
        read = torch.bincount(tape.row[tape.slots], minlength=problem.rows)
        count = count + read * stepper.extra_evaluations
    return count
