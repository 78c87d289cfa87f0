"""Backsolve: the adjoint equation of an SDE, solved backward along the same path."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nde.solvers.adjoint.backward import (
    check_unchanged,
    ended_early,
    ends,
    looks_at,
    vjp,
    watched,
)
from nde.solvers.adjoint.captured import Captured
from nde.solvers.adjoint.forward import evaluations, find_steps
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.adjoint.recompute import Recompute
from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.controller import Controller
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule, replay_of
from nde.solvers.stepper import Stepper
from nde.solvers.tape import Tape
from nde.solvers.term import ODETerm, Term
from nde.solvers.types import Increment, Status


@dataclass(frozen=True)
class Backsolve:
    """Approximate gradients of an SDE, with the memory of its outputs.

    The gradient a of the state obeys da = -(df/dy)^T a dt - (dg/dy)^T a o dB, which the
    backward pass solves together with the state and the gradients of captured tensors,
    by Heun's method over the steps of the forward pass, their Brownian increments
    reversed. At outputs the state is set to the stored one. What results is not the
    gradient of the computed solution, but differs from it by an error of the step's
    order: prefer `Recompute`, or `Reversible` where memory is short. Statistics of the
    solver are no part of the equation and have no gradient: RuntimeError. No double
    backward.

    For equations in the Stratonovich sense, and additive noise. Two calls of drift and
    diffusion and two vector-Jacobian products for each step. Where samples fail
    (`throw=False`), which have no way back, the solve is that of `Recompute`. Brownian
    increments of the steps are kept.

    Li, Wong, Chen and Duvenaud, *Scalable gradients for stochastic differential
    equations* (2020), section 3; Kidger, *On neural differential equations* (2021),
    chapter 5, for how it compares. Tensors that get gradients: as for `Recompute`.

    Args:
        parameters: the only tensors besides y0 that get gradients; None finds those
            that the term uses.
    """

    parameters: tuple[Tensor, ...] | None = None

    def check(self, term: Term, stepper: Stepper, controller: Controller) -> None:
        """Raises ValueError for an equation that it cannot solve backward."""
        if isinstance(term, ODETerm):
            raise ValueError(
                "adjoint=Backsolve() is for an SDETerm, got an ODETerm; use "
                "adjoint=Recompute(), whose gradients are exact"
            )
        if term.interpretation == "ito" and term.noise != "additive":
            raise ValueError(
                "adjoint=Backsolve() solves Stratonovich equations backward, got an "
                f"Ito term with {term.noise} noise; convert it by "
                "term.to('stratonovich'), or use adjoint=Recompute()"
            )

    def run(
        self,
        problem: Problem,
        plan: Schedule | None,
        carry: tuple[Tensor, ...],
        captured: Captured,
    ) -> Outcome:
        """Solve with gradients to `problem.y0` and to the captured tensors."""
        stored = Recompute(self.parameters)
        if plan is not None and ended_early(problem, plan):
            return stored.run(problem, plan, carry, captured)
        stateless = replace(problem, keep=False, keep_motion=True)
        tape = find_steps(stateless, plan, carry)
        if plan is None and bool((tape.status != Status.SUCCESS).any()):
            return stored.run(problem, plan, carry, captured)
        steps = replay_of(tape) if plan is None else plan
        back = _Back(problem, tape, steps, captured)
        y_end, polynomials, error, stiffness = _Backsolve.apply(  # type: ignore[no-untyped-call]
            back, problem.y0, *captured.tensors
        )
        return Outcome(
            tape=tape,
            y_end=y_end,
            polynomials=polynomials,
            evaluations=evaluations(problem, tape),
            graph=(error, stiffness),
        )


@dataclass(frozen=True)
class _Back:
    """What the way back needs."""

    problem: Problem
    tape: Tape
    plan: Schedule
    captured: Captured

    def pull(
        self,
        now: Tensor,
        y: Tensor,
        weight: Tensor,
        inc: Increment,
        totals: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """f h + g w at a state, and the gradient of <weight, f h + g w> there."""
        term = self.problem.term
        assert isinstance(term, BoundSDE) and inc.w is not None
        y = y.detach().requires_grad_()
        context, captured = self.captured.replay()
        with torch.enable_grad(), context:
            f, g = term.f(now, y), term.g(now, y)
            moved = along(term.product(g, inc.w), f, inc.dt)
        (grad,) = vjp((moved,), (weight,), (y,), captured, totals)
        return moved.detach(), grad

    def step(
        self,
        times: tuple[Tensor, Tensor],
        y: Tensor,
        a: Tensor,
        inc: Increment,
        moving: Tensor | None,
        totals: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """State and gradient at a step's start, from those at its end."""
        start, end = times
        weight = 0.5 * (a if moving is None else torch.where(moving, a, 0.0))
        moved, grad = self.pull(end, y, weight, inc, totals)
        before = y - moved if moving is None else torch.where(moving, y - moved, y)
        moved_start, grad_start = self.pull(start, before, weight + grad, inc, totals)
        y_start, a_start = y - 0.5 * (moved + moved_start), a + grad + grad_start
        if moving is None:
            return y_start, a_start
        return torch.where(moving, y_start, y), torch.where(moving, a_start, a)


class _Backsolve(torch.autograd.Function):
    """The solve as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, back: _Back, *inputs: Tensor) -> tuple[Tensor, ...]:
        tape = back.tape
        ctx.back = back
        ctx.versions = [tensor._version for tensor in back.captured.tensors]
        ctx.set_materialize_grads(False)
        # Fresh tensors: an output that the node itself holds would never be freed.
        return (
            tape.y_end.clone(),
            tape.polynomials.clone(),
            tape.grid(tape.error),
            tape.grid(tape.stiffness),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        back: _Back = ctx.back
        g_end, g_polynomials, g_error, g_stiffness = grads
        if g_error is not None or g_stiffness is not None:
            raise RuntimeError(
                "a gradient was asked of error or stiffness estimates, but "
                "adjoint=Backsolve() solves the continuous adjoint equation, of which "
                "statistics of the solver are no part; use adjoint=Recompute()"
            )
        totals: list[Tensor | None] = [None] * len(back.captured.tensors)
        a = _solved(back, g_end, g_polynomials, totals)
        check_unchanged(back.captured, ctx.versions, totals)
        return (None, a, *totals)


def _solved(
    back: _Back,
    g_end: Tensor | None,
    g_polynomials: Tensor | None,
    totals: list[Tensor | None],
) -> Tensor:
    """The gradient in y0; those of captured tensors are added to `totals`."""
    problem, tape, plan = back.problem, back.tape, back.plan
    a = torch.zeros_like(tape.y_end) if g_end is None else g_end
    if not plan.steps:
        return a
    y, own = tape.y_end, plan.own
    if own is not None:
        y = torch.where(own, y, plan.lent(problem).y0.detach())
    table = None if plan.shared is not None else ends(plan, y.dtype)
    looks = looks_at(plan.steps, back.captured)
    last = tape.slots.numel()
    for j in range(plan.steps - 1, -1, -1):
        t, inc = plan.step(j, y.dtype)
        end = later(t, inc.dt) if table is None else table[j]
        times, moving = (clock(t, y), clock(end, y)), plan.moving(j)
        call = partial(back.step, times, y, a, inc, moving, totals)
        watching = j in looks
        y, a = watched(call, problem, back.captured) if watching else call()
        rows, first = tape.slot_rows[j], last - tape.slot_rows[j].numel()
        if first < last:
            y = y.index_copy(0, rows, tape.polynomials[first:last, 0])
            if g_polynomials is not None:
                a = a.index_add(0, rows, g_polynomials[first:last, 0])
        if problem.observer is not None:
            h = inc.dt if isinstance(inc.dt, float) else plan.h[j]
            problem.observer.replay(t, y, h)
        last = first
    return a
