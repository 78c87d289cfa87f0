"""The way back along the reversible pair of an explicit Runge-Kutta method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nde.solvers.adjoint.backward import ends, looks_at, vjp, watched
from nde.solvers.adjoint.walk import Grads, Walk, among, missed
from nde.solvers.arithmetic import clock, later
from nde.solvers.reversible_pair import McCallumFoster
from nde.solvers.types import Increment, Step, StepOut


@dataclass(frozen=True)
class _Psi:
    """An increment of the base with a graph, back to its state and `captured`.

    `out` is the step of the method that gave it, None for one backward.
    """

    moved: Tensor
    state: Tensor
    captured: tuple[Tensor, ...]
    out: StepOut | None = None


def back_along_pair(walk: Walk, grads: Grads, totals: list[Tensor | None]) -> Tensor:
    """The gradient in y0; those of captured tensors are added to `totals`.

    A step from y, z to y', z' takes from y_grad' what z_grad' pulls back through
    Psi(-h; y'); then y_grad = L y_grad' and z_grad = z_grad' + (1 - L) y_grad' + what
    y_grad' pulls back through Psi(h; z).
    """
    g_end, g_polynomials, g_error, g_stiffness = grads
    problem, tape, plan = walk.problem, walk.tape, walk.plan
    method = _method(walk)
    y_grad = torch.zeros_like(tape.y_end) if g_end is None else g_end
    if not plan.steps:
        return y_grad
    coupling, spacing = method.coupling, method.spacing
    y, z, own = tape.y_end, tape.carry_end[-1], plan.own
    if own is not None:
        # Rows without a step show where their donors begin: nothing is known of f
        # where they are.
        lent = plan.lent(problem).y0.detach()
        y, z = torch.where(own, y, lent), torch.where(own, z, lent)
    z_grad = torch.zeros_like(y)
    off = y.new_zeros(problem.rows)
    begins, looks = _begins(walk), looks_at(plan.steps, walk.captured)
    last = tape.slots.numel()
    for j in range(plan.steps - 1, -1, -1):
        t, inc = begins(j)
        moving = plan.moving(j)
        # The step undone.
        behind = _watched(partial(_behind, walk, t, y, inc), walk, j in looks)
        z0 = z + among(moving, behind.moved.detach(), None)
        kept: tuple[Tensor, Tensor] | None = None
        if j == 0:
            known = plan.lent(problem).y0.detach()
            kept = known, known
        elif spacing is not None and j % spacing == 0:
            kept_y, kept_carry = tape.states(j)
            kept = among(moving, kept_y, y), among(moving, kept_carry[-1], z)
        if kept is not None:
            off = torch.maximum(off, missed(z0, kept[1]))
            z0 = kept[1]
        ahead = _watched(partial(_ahead, walk, t, z0, inc), walk, j in looks)
        before = among(moving, method.parted(y, z0, ahead.moved.detach()), y)
        if kept is not None:
            off = torch.maximum(off, missed(before, kept[0]))
            before = kept[0]
        walk.observe(j, t, before, inc)
        # The gradients backward.
        assert ahead.out is not None
        outputs: list[Tensor] = [ahead.moved]
        weights: list[Tensor] = []
        in_start: Tensor | None = None
        error, coarse = ahead.out.error, ahead.out.error_coarse
        if g_error is not None and error is not None:
            errors = (error,) if coarse is None else (error, coarse)
            weight = g_error[j] if moving is None else g_error[j] * moving.squeeze(1)
            in_start, in_end, *in_errors = walk.ratio_grads(before, y, errors, weight)
            y_grad = y_grad + among(moving, in_end, None)
            outputs.extend(errors)
            weights.extend(among(moving, part, None) for part in in_errors)
        stiffness = ahead.out.stiffness
        if g_stiffness is not None and stiffness is not None:
            outputs.append(stiffness)
            weight = g_stiffness[j]
            weights.append(weight if moving is None else weight * moving.squeeze(1))
        pull = among(moving, -z_grad, None)
        (in_y,) = vjp(
            (behind.moved,), (pull,), (behind.state,), behind.captured, totals
        )
        y_grad = y_grad + among(moving, in_y, None)
        weights.insert(0, among(moving, y_grad, None))
        (in_z,) = vjp(outputs, weights, (ahead.state,), ahead.captured, totals)
        z_grad = among(moving, z_grad + (1.0 - coupling) * y_grad + in_z, z_grad)
        y_grad = among(moving, coupling * y_grad, y_grad)
        if in_start is not None:
            y_grad = y_grad + among(moving, in_start, None)
        last, y_grad = walk.reads(j, last, g_polynomials, y_grad)
        y, z = before, z0
    walk.warn_of_drift(off)
    return y_grad + z_grad


def _method(walk: Walk) -> McCallumFoster:
    method = walk.problem.stepper
    assert isinstance(method, McCallumFoster)
    return method


def _begins(walk: Walk) -> Callable[[int], tuple[Step, Increment]]:
    """Start and increment of a step; rows at rest show the end of their last one."""
    plan, dtype = walk.plan, walk.problem.y0.dtype
    if plan.shared is not None:
        return lambda j: plan.step(j, dtype)
    table = ends(plan, dtype)

    def begin(j: int) -> tuple[Step, Increment]:
        t, inc = plan.step(j, dtype)
        moving = plan.moving(j)
        if moving is None:
            return t, inc
        return torch.where(moving.squeeze(1), t, table[j]), inc

    return begin


def _behind(walk: Walk, t: Step, y: Tensor, inc: Increment) -> _Psi:
    """Psi(-h) from the end of a step."""
    method, y = _method(walk), y.detach().requires_grad_()
    context, captured = walk.captured.replay()
    with torch.enable_grad(), context:
        stages = method.workspace(y, graph=True)
        then = later(t, inc.dt)
        moved = method.behind(walk.problem.term, then, y, inc.dt, stages)
    return _Psi(moved, y, captured)


def _ahead(walk: Walk, t: Step, z: Tensor, inc: Increment) -> _Psi:
    """Psi(h) from the start of a step."""
    term, method, z = walk.problem.term, _method(walk), z.detach().requires_grad_()
    context, captured = walk.captured.replay()
    with torch.enable_grad(), context:
        stages = method.workspace(z, graph=True)
        slope = term.f(clock(t, z), z)
        moved, out = method.ahead(term, t, z, inc, slope, stages)
    return _Psi(moved, z, captured, out)


def _watched(call: Callable[[], _Psi], walk: Walk, look: bool) -> _Psi:
    return watched(call, walk.problem, walk.captured) if look else call()
