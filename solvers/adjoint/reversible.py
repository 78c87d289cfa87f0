"""Reversible: keep no states, walk the reversible Heun method backward."""

from __future__ import annotations

import warnings
from collections.abc import Callable
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
from nde.solvers.adjoint.forward import evaluations, find_steps, start
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.adjoint.recompute import Recompute
from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.controller import Controller
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule, replay_of
from nde.solvers.stepper import Stepper
from nde.solvers.stochastic.heun import REVERSIBLE_HEUN, unflattened
from nde.solvers.tape import Tape
from nde.solvers.term import ODETerm, Term
from nde.solvers.types import Increment, Status, Step, StepOut


@dataclass(frozen=True)
class Reversible:
    """Exact gradients of an SDE solved by "reversible_heun", without storing states.

    The forward pass keeps the outputs, the Brownian increments and the last pair of
    states: of these, its memory does not grow with the number of steps. The backward
    pass runs the method's inverse, last step first, with one call of drift and
    diffusion and one vector-Jacobian product for each step, as many as `Recompute`.
    Error estimates of steps have gradients too. No double backward.

    Exact means exact for the states walked back to. They are those of the forward pass
    but for rounding, which grows where the equation contracts; one warning is given if
    the walk misses y0 by more than the square root of the precision. For dy = -y dt +
    0.1 dB in steps of 1/128, errors of gradients were below 1e-12 over 10 units of time
    in float64 and 2e-6 over 5 in float32, and reached 1e-4 over 20 and 10.

    Where samples fail (`throw=False`), whose states may not come back, the solve is
    that of `Recompute`, memory included. Not with `jump_t`, where the method begins
    anew.

    Kidger, Foster, Li and Lyons, *Efficient and accurate gradients for neural SDEs*
    (2021), algorithms 1 and 2. Tensors that get gradients: as for `Recompute`.

    Args:
        parameters: the only tensors besides y0 that get gradients; None finds those
            that the term uses.
    """

    parameters: tuple[Tensor, ...] | None = None

    def check(self, term: Term, stepper: Stepper, controller: Controller) -> None:
        """Raises ValueError for a solve that it cannot walk back."""
        if isinstance(term, ODETerm):
            raise ValueError(
                "adjoint=Reversible() walks back along method 'reversible_heun' of an "
                "SDETerm, got an ODETerm; use adjoint=Recompute()"
            )
        if stepper.name != REVERSIBLE_HEUN.name:
            raise ValueError(
                "adjoint=Reversible() walks back along method 'reversible_heun', got "
                f"method {stepper.name!r}; solve with method='reversible_heun', or use "
                "adjoint=Recompute()"
            )
        if controller.jump_t is not None:
            raise ValueError(
                "adjoint=Reversible() cannot walk back across jump_t, where the method "
                "begins anew and leaves its second state behind; use "
                "adjoint=Recompute(), or step_t if the functions do not jump"
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
        walk = _Walk(problem, tape, steps, captured)
        y_end, polynomials, error, stiffness = _Reversible.apply(  # type: ignore[no-untyped-call]
            walk, problem.y0, *captured.tensors
        )
        return Outcome(
            tape=tape,
            y_end=y_end,
            polynomials=polynomials,
            evaluations=evaluations(problem, tape),
            graph=(error, stiffness),
        )


@dataclass(frozen=True)
class _Slopes:
    """Drift and diffusion with a graph, back to the second state and `captured`.

    `outputs` are f, g and, at the start, the second state; `inputs` what they are made
    from.
    """

    outputs: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    captured: tuple[Tensor, ...]

    def moved(self, term: BoundSDE, inc: Increment) -> Tensor:
        """f h + g w."""
        assert inc.w is not None
        f, g = (part.detach() for part in self.outputs[:2])
        return along(term.product(g, inc.w), f, inc.dt)

    def weights(
        self, term: BoundSDE, pulls: list[tuple[Tensor, Increment]]
    ) -> tuple[Tensor, Tensor]:
        """Gradients in f and g of the sum of <v, f h + g w>."""
        f_grad, g_grad = None, None
        for v, inc in pulls:
            assert inc.w is not None
            in_f, in_g = v * inc.dt, term.outer(v, inc.w)
            f_grad = in_f if f_grad is None else f_grad + in_f
            g_grad = in_g if g_grad is None else g_grad + in_g
        assert f_grad is not None and g_grad is not None
        return f_grad, g_grad


@dataclass(frozen=True)
class _Walk:
    """What the way back needs."""

    problem: Problem
    tape: Tape
    plan: Schedule
    captured: Captured

    @property
    def term(self) -> BoundSDE:
        term = self.problem.term
        assert isinstance(term, BoundSDE)
        return term

    def slopes(self, now: Tensor, z: Tensor) -> _Slopes:
        """Drift and diffusion at the second state."""
        z = z.detach().requires_grad_()
        context, captured = self.captured.replay()
        with torch.enable_grad(), context:
            outputs = self.term.f(now, z), self.term.g(now, z)
        return _Slopes(outputs, (z,), captured)

    def begin(self) -> _Slopes:
        """What the first step set out with, from y0 itself."""
        begun = self.plan.lent(self.problem)
        y = begun.y0.detach().requires_grad_()
        context, captured = self.captured.replay()
        with torch.enable_grad(), context:
            f, flat, z = start(replace(begun, y0=y))
            g = unflattened(self.term, flat)
        return _Slopes((f, g, z), (y,), captured)

    def clocks(self) -> Callable[[int], Tensor]:
        """The time of the slopes at the end of a step, as the forward pass had it."""
        plan, y = self.plan, self.problem.y0
        if plan.shared is not None:
            shared = plan.shared
            return lambda j: clock(later(*shared[j]), y)
        table = ends(plan, y.dtype)
        return lambda j: clock(table[j], y)

    def ratio_grads(
        self, y0: Tensor, y1: Tensor, error: Tensor, weight: Tensor
    ) -> tuple[Tensor, ...]:
        """Gradients of error ratios in a step's start, end and error estimate."""
        leaves = [part.detach().requires_grad_() for part in (y0, y1, error)]
        with torch.enable_grad():
            out = StepOut(leaves[1], leaves[2], None, (), None)
            ratio = self.problem.error_ratio(leaves[0], out)
        return torch.autograd.grad(ratio, leaves, weight, materialize_grads=True)


class _Reversible(torch.autograd.Function):
    """The solve as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, walk: _Walk, *inputs: Tensor) -> tuple[Tensor, ...]:
        tape = walk.tape
        ctx.walk = walk
        ctx.versions = [tensor._version for tensor in walk.captured.tensors]
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
        walk: _Walk = ctx.walk
        totals: list[Tensor | None] = [None] * len(walk.captured.tensors)
        y_grad = _back(walk, grads, totals)
        check_unchanged(walk.captured, ctx.versions, totals)
        return (None, y_grad, *totals)


def _back(
    walk: _Walk, grads: tuple[Tensor | None, ...], totals: list[Tensor | None]
) -> Tensor:
    """The gradient in y0; those of captured tensors are added to `totals`.

    With v = y_grad / 2 + z_grad, both of a step's end, a step from y, z to y', z' pulls
    v back to its slopes f h + g w at the start, and y_grad' / 2 to those at the end;
    y_grad = y_grad' + 2 z_grad', z_grad = -z_grad' + what the slopes at z pull.
    """
    g_end, g_polynomials, g_error, _ = grads
    problem, tape, plan, term = walk.problem, walk.tape, walk.plan, walk.term
    y_grad = torch.zeros_like(tape.y_end) if g_end is None else g_end
    if not plan.steps:
        return y_grad
    y, z, own = tape.y_end, tape.carry_end[-1], plan.own
    if own is not None:
        z = torch.where(own, z, plan.lent(problem).y0.detach())
    z_grad = torch.zeros_like(y)
    clocks, looks = walk.clocks(), looks_at(plan.steps, walk.captured)
    here = _slopes(walk, clocks, plan.steps - 1, z, looks)
    pulled: list[tuple[Tensor, Increment]] = []
    last = tape.slots.numel()
    for j in range(plan.steps - 1, -1, -1):
        t, inc = plan.step(j, y.dtype)
        moving = plan.moving(j)
        # The step backward: its start, and the slopes there.
        slope = here.moved(term, inc)
        z = _among(moving, 2.0 * y - z - slope, z)
        there = walk.begin() if j == 0 else _slopes(walk, clocks, j - 1, z, looks)
        slope_before = there.moved(term, inc)
        before = _among(moving, y - 0.5 * (slope + slope_before), y)
        if j == 0:
            before = problem.y0.detach()
        _observe(walk, j, t, before, inc)
        # The gradients backward.
        e_grad: Tensor | None = None
        if g_error is not None:
            weight = g_error[j] if moving is None else g_error[j] * moving.squeeze(1)
            in_start, in_end, e_grad = walk.ratio_grads(
                before, y, 0.5 * (slope - slope_before), weight
            )
            y_grad = y_grad + _among(moving, in_end, None)
            e_grad = _among(moving, e_grad, None)
        half = 0.5 * (y_grad if e_grad is None else y_grad + e_grad)
        pulled.append((_among(moving, half, None), inc))
        z_grad = z_grad + _pull(here, term, pulled, totals)
        v = 0.5 * y_grad + z_grad
        if e_grad is not None:
            v = v - 0.5 * e_grad
        pulled = [(_among(moving, v, None), inc)]
        y_grad = _among(moving, y_grad + 2.0 * z_grad, y_grad)
        z_grad = _among(moving, -z_grad, z_grad)
        if e_grad is not None:
            y_grad = y_grad + _among(moving, in_start, None)
        first = last - tape.slot_rows[j].numel()
        if g_polynomials is not None and first < last:
            read = g_polynomials[first:last, 0]
            y_grad = y_grad.index_add(0, tape.slot_rows[j], read)
        y, last, here = before, first, there
    _warn_of_drift(walk, z, here.outputs[2].detach())
    start_grad = _pull(here, term, pulled, totals, z_grad)
    return y_grad + (start_grad if own is None else torch.where(own, start_grad, 0.0))


def _slopes(
    walk: _Walk,
    clocks: Callable[[int], Tensor],
    j: int,
    z: Tensor,
    looks: set[int],
) -> _Slopes:
    """The slopes at the end of step j."""
    call = partial(walk.slopes, clocks(j), z)
    return watched(call, walk.problem, walk.captured) if j in looks else call()


def _pull(
    slopes: _Slopes,
    term: BoundSDE,
    pulled: list[tuple[Tensor, Increment]],
    totals: list[Tensor | None],
    *more: Tensor,
) -> Tensor:
    """The gradient in what slopes were made from; `more` weighs their further part."""
    weights = (*slopes.weights(term, pulled), *more)
    return vjp(slopes.outputs, weights, slopes.inputs, slopes.captured, totals)[0]


def _among(moving: Tensor | None, value: Tensor, other: Tensor | None) -> Tensor:
    """A value in rows that move, and another, or none, in those that rest."""
    if moving is None:
        return value
    return torch.where(moving, value, 0.0 if other is None else other)


def _observe(walk: _Walk, j: int, t: Step, y: Tensor, inc: Increment) -> None:
    if walk.problem.observer is not None:
        h = inc.dt if isinstance(inc.dt, float) else walk.plan.h[j]
        walk.problem.observer.replay(t, y, h)


def _warn_of_drift(walk: _Walk, found: Tensor, y0: Tensor) -> None:
    """One warning if the way back did not end where the way forward began."""
    if not y0.numel():
        return
    own = walk.plan.own
    missed = (found - y0).abs().amax(dim=1)
    size = torch.maximum(y0.abs(), walk.tape.y_end.abs()).amax(dim=1)
    limit = torch.finfo(y0.dtype).eps ** 0.5
    fine = missed <= limit * size
    if own is not None:
        fine = fine | ~own.squeeze(1)
    if not bool(fine.all()):
        worst = float((missed / size).nan_to_num(nan=torch.inf)[~fine].amax())
        warnings.warn(
            f"adjoint=Reversible() walked back to a state that misses y0 by "
            f"{worst:.1e} of its size (more than {limit:.0e}), so gradients are off: "
            "rounding grew on the way, as it does where the equation contracts; use "
            "adjoint=Recompute(), shorter intervals, or a float64 state",
            stacklevel=2,
        )
