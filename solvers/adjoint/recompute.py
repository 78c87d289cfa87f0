"""Recompute: store the states of accepted steps, replay one step at a time backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from nde.solvers.adjoint.backward import looks_at, vjp, watched
from nde.solvers.adjoint.captured import Captured
from nde.solvers.adjoint.checkpoints import (
    Remembered,
    check_remembered,
    go_back,
    room,
)
from nde.solvers.adjoint.forward import find_steps, start
from nde.solvers.adjoint.node import Grads, Node, outcome_of
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.march import Place, faced, first_place, walked
from nde.solvers.problem import Problem
from nde.solvers.runge_kutta import ExplicitRungeKutta
from nde.solvers.schedule import Schedule, replay_of
from nde.solvers.tape import Tape


@dataclass(frozen=True)
class Recompute:
    """Exact gradients of the computed solution, with the memory of its states or less.

    The forward pass records no graph; the backward pass rebuilds each accepted step
    from its stored state and takes one vector-Jacobian product, last step first. Step
    sizes are constants, as under `Direct`. No double backward: use `Direct` for that.

    With fewer `states` than steps the forward pass stores none, and the backward pass
    walks the steps again from the places that it keeps, as seldom as their number
    allows: at most twice each with sqrt(2 n) of n steps. Times, lengths and noise of
    steps are kept in any case.

    Gradients reach the initial state, `args`, and every tensor that the term's
    functions use in their first call or hold on to: in closures, defaults, attributes,
    containers, modules, and the globals they name. A tensor from elsewhere that only a
    later call uses is refused where it is noticed. What the first call uses, or
    `parameters` name, gets zeros where it had no influence; what is only held on to,
    and never used, gets none.

    Args:
        parameters: the only tensors besides y0 and ts that get gradients; None finds
            those that the term uses.
        states: how many to keep at a time: "all", a number, "sqrt" or "log" of that of
            the steps.

    Raises ValueError for other states.
    """

    parameters: tuple[Tensor, ...] | None = None
    states: Remembered = "all"

    def __post_init__(self) -> None:
        check_remembered(self.states)

    def run(
        self,
        problem: Problem,
        plan: Schedule | None,
        carry: tuple[Tensor, ...],
        captured: Captured,
    ) -> Outcome:
        """Solve with gradients to `problem.y0` and to the captured tensors."""
        every = self.states == "all"
        found = problem if every else replace(problem, keep=False, keep_motion=True)
        tape = find_steps(found, plan, carry)
        steps = replay_of(tape) if plan is None else plan
        begun = tuple(part.detach().clone() for part in carry)
        replay = _Replay(problem, tape, steps, captured, begun, self.states)
        return outcome_of(_Recompute, replay)


@dataclass(frozen=True)
class _Replay:
    problem: Problem
    tape: Tape
    plan: Schedule
    captured: Captured
    carry: tuple[Tensor, ...]
    states: Remembered

    def without_estimates(self) -> _Replay:
        """The same of steps whose error and stiffness nobody asks for."""
        stepper = self.problem.stepper
        if not isinstance(stepper, ExplicitRungeKutta):
            return self
        bare = replace(stepper, tableau=stepper.tableau.bare)
        return replace(self, problem=replace(self.problem, stepper=bare))

    def back(self, grads: Grads, totals: list[Tensor | None]) -> Tensor:
        """The gradient in y0; those of captured tensors are added to `totals`."""
        g_end, g_polynomials, g_error, g_stiffness = grads
        tape = self.tape
        y_grad = torch.zeros_like(tape.y_end) if g_end is None else g_end
        carry_grad = tuple(torch.zeros_like(part) for part in tape.carry_end)
        last = tape.slots.numel()
        looks = looks_at(self.plan.steps, self.captured)
        bare = g_error is None and g_stiffness is None
        replay = self.without_estimates() if bare else self

        def visit(j: int, y: Tensor, carry: tuple[Tensor, ...]) -> None:
            nonlocal y_grad, carry_grad, last
            first = last - tape.slot_rows[j].numel()
            extra = (
                None if g_polynomials is None else g_polynomials[first:last],
                None if g_error is None else g_error[j],
                None if g_stiffness is None else g_stiffness[j],
            )
            last = first
            step: Callable[[], _Pulled] = partial(
                _step_vjp, replay, j, (y, carry), (y_grad, carry_grad), extra, totals
            )
            if j in looks:
                step = partial(watched, step, self.problem, self.captured)
            y_grad, carry_grad = step()

        replay.visit(visit)
        if carry_grad:
            y_grad = _start_vjp(self, y_grad, carry_grad, totals)
        return y_grad

    def visit(self, visit: Callable[[int, Tensor, tuple[Tensor, ...]], None]) -> None:
        """Visit every step with what it sets out from, last step first."""
        plan, tape = self.plan, self.tape
        if self.states == "all":
            for j in range(plan.steps - 1, -1, -1):
                visit(j, *tape.states(j))
            return
        problem = replace(self.problem, y0=self.problem.y0.detach(), keep=False)

        def meet(j: int, place: Place) -> None:
            with torch.no_grad():
                place = faced(problem, plan, j, place)
            visit(j, place.shown, place.shown_carry)

        with torch.no_grad():
            first = first_place(problem, plan, self.carry).kept()
        places = room(self.states, plan.steps)
        go_back(plan.steps, first, places, partial(walked, problem, plan), meet)


class _Recompute(Node):
    """The solve as one node of the graph."""


# A state and carry, or the gradients in both.
_Pulled = tuple[Tensor, tuple[Tensor, ...]]


def _step_vjp(
    replay: _Replay,
    j: int,
    begin: _Pulled,
    grads_end: _Pulled,
    extra: tuple[Tensor | None, Tensor | None, Tensor | None],
    totals: list[Tensor | None],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Pull gradients of step j's end back to its begin, each a state and carry."""
    problem, tape = replay.plan.facing(replay.problem, j), replay.tape
    g_polynomials, g_error, g_stiffness = extra
    (y, carry), (y_grad, carry_grad) = begin, grads_end
    moving = replay.plan.moving(j)
    passed = y_grad
    if moving is not None:
        y_grad = torch.where(moving, y_grad, 0.0)
        carry_grad = tuple(torch.where(moving, part, 0.0) for part in carry_grad)
    y = y.detach().requires_grad_()
    carry = tuple(part.detach().requires_grad_() for part in carry)
    t, inc = replay.plan.step(j, y.dtype)
    context, captured = replay.captured.replay()
    if problem.observer is not None:
        h = inc.dt if isinstance(inc.dt, float) else replay.plan.h[j]
        problem.observer.replay(t, y.detach(), h)
    with torch.enable_grad(), context:
        stages = problem.stepper.workspace(y, graph=True)
        begun = replay.plan.begin(problem, j, y, carry)
        out = problem.stepper.step(problem.term, t, y, inc, begun, stages)
        outputs: list[Tensor] = [out.y1, *out.carry]
        weights: list[Tensor] = [y_grad, *carry_grad]
        if g_polynomials is not None and g_polynomials.numel():
            outputs.append(
                problem.polynomials_of(tape.slot_rows[j], t, y, inc, out, stages)
            )
            weights.append(g_polynomials)
        if g_error is not None and out.error is not None:
            outputs.append(problem.error_ratio(y, out))
            weights.append(_of_moving(g_error, moving))
        if g_stiffness is not None and out.stiffness is not None:
            outputs.append(out.stiffness)
            weights.append(_of_moving(g_stiffness, moving))
    grads = vjp(outputs, weights, (y, *carry), captured, totals)
    y_grad = grads[0] if moving is None else torch.where(moving, grads[0], passed)
    return y_grad, tuple(grads[1:])


def _of_moving(weight: Tensor, moving: Tensor | None) -> Tensor:
    """Weights `(rows,)` without those of rows that rest, whose estimates are none."""
    return weight if moving is None else torch.where(moving.squeeze(1), weight, 0.0)


def _start_vjp(
    replay: _Replay,
    y_grad: Tensor,
    carry_grad: tuple[Tensor, ...],
    totals: list[Tensor | None],
) -> Tensor:
    """Pull the gradient of the first carry back to the initial state."""
    problem = replay.plan.lent(replay.problem)
    y = problem.y0.detach().requires_grad_()
    context, captured = replay.captured.replay()
    with torch.enable_grad(), context:
        carry = start(replace(problem, y0=y))
    (grad,) = vjp(carry, carry_grad, (y,), captured, totals)
    own = replay.plan.own
    return y_grad + (grad if own is None else torch.where(own, grad, 0.0))
