"""The way back of an SDE: its adjoint equation along the steps of the forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nde.solvers.adjoint.backward import ends, looks_at, of_states, vjp, watched
from nde.solvers.adjoint.captured import Captured
from nde.solvers.adjoint.node import Grads
from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule
from nde.solvers.tape import Tape
from nde.solvers.types import Increment


@dataclass(frozen=True)
class BackSDE:
    """What the way back needs."""

    problem: Problem
    tape: Tape
    plan: Schedule
    captured: Captured

    def back(self, grads: Grads, totals: list[Tensor | None]) -> Tensor:
        """The gradient in y0; those of captured tensors are added to `totals`."""
        g_end, g_polynomials = of_states(grads)
        problem, tape, plan = self.problem, self.tape, self.plan
        a = torch.zeros_like(tape.y_end) if g_end is None else g_end
        if not plan.steps:
            return a
        y, own = tape.y_end, plan.own
        if own is not None:
            y = torch.where(own, y, plan.lent(problem).y0.detach())
        table = None if plan.shared is not None else ends(plan, y.dtype)
        looks = looks_at(plan.steps, self.captured)
        last = tape.slots.numel()
        for j in range(plan.steps - 1, -1, -1):
            t, inc = plan.step(j, y.dtype)
            end = later(t, inc.dt) if table is None else table[j]
            times, moving = (clock(t, y), clock(end, y)), plan.moving(j)
            call = partial(self.step, times, y, a, inc, moving, totals)
            watching = j in looks
            y, a = watched(call, problem, self.captured) if watching else call()
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
