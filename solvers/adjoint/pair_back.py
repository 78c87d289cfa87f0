"""The way back along the reversible pair of an explicit Runge-Kutta method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nde.solvers.adjoint.backward import ends, looks_at, vjp, watched
from nde.solvers.adjoint.node import Grads
from nde.solvers.adjoint.walk import Walk, among, missed
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


@dataclass(frozen=True)
class _Undone:
    """A step undone: the pair it began from, and what it moved by.

    `off (rows,)` how far that pair was from a known one; None without one.
    """

    y: Tensor
    z: Tensor
    behind: _Psi
    ahead: _Psi
    off: Tensor | None


def back_along_pair(walk: Walk, grads: Grads, totals: list[Tensor | None]) -> Tensor:
    """The gradient in y0; those of captured tensors are added to `totals`."""
    g_end, g_polynomials, g_error, g_stiffness = grads
    problem, tape, plan = walk.problem, walk.tape, walk.plan
    y_grad = torch.zeros_like(tape.y_end) if g_end is None else g_end
    if not plan.steps:
        return y_grad
    y, z, own = tape.y_end, tape.carry_end[-1], plan.own
    if own is not None:
        # Rows without a step show where their donors begin: nothing is known of f
        # where they are.
        lent = plan.lent(problem).y0.detach()
        y, z = torch.where(own, y, lent), torch.where(own, z, lent)
    z_grad, off = torch.zeros_like(y), y.new_zeros(problem.rows)
    begins, looks = _begins(walk), looks_at(plan.steps, walk.captured)
    last = tape.slots.numel()
    for j in range(plan.steps - 1, -1, -1):
        t, inc = begins(j)
        step = _undo(walk, j, (t, inc), (y, z), j in looks)
        if step.off is not None:
            off = torch.maximum(off, step.off)
        walk.observe(j, t, step.y, inc)
        estimates = (
            None if g_error is None else g_error[j],
            None if g_stiffness is None else g_stiffness[j],
        )
        y_grad, z_grad = _pulled(walk, j, y, step, (y_grad, z_grad), estimates, totals)
        last, y_grad = walk.reads(j, last, g_polynomials, y_grad)
        y, z = step.y, step.z
    walk.warn_of_drift(off)
    return y_grad + z_grad


def _undo(
    walk: Walk,
    j: int,
    begun: tuple[Step, Increment],
    pair: tuple[Tensor, Tensor],
    look: bool,
) -> _Undone:
    """Step j undone from its end `pair`; what is known of its start counts."""
    method, moving, (t, inc), (y, z) = _method(walk), walk.plan.moving(j), begun, pair
    behind = _watched(partial(_behind, walk, t, y, inc), walk, look)
    z0 = z + among(moving, behind.moved.detach(), None)
    known, off = _known(walk, j, moving, pair), None
    if known is not None:
        off, z0 = missed(z0, known[1]), known[1]
    ahead = _watched(partial(_ahead, walk, t, z0, inc), walk, look)
    y0 = among(moving, method.parted(y, z0, ahead.moved.detach()), y)
    if known is not None and off is not None:
        off, y0 = torch.maximum(off, missed(y0, known[0])), known[0]
    return _Undone(y0, z0, behind, ahead, off)


def _known(
    walk: Walk, j: int, moving: Tensor | None, pair: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """The pair that step j began from, where stored; rows at rest keep theirs."""
    spacing = _method(walk).spacing
    if j == 0:
        y0 = walk.plan.lent(walk.problem).y0.detach()
        return y0, y0
    if spacing is None or j % spacing:
        return None
    y, carry = walk.tape.states(j)
    return among(moving, y, pair[0]), among(moving, carry[-1], pair[1])


def _pulled(
    walk: Walk,
    j: int,
    y1: Tensor,
    step: _Undone,
    grads: tuple[Tensor, Tensor],
    estimates: tuple[Tensor | None, Tensor | None],
    totals: list[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Gradients in y and z of the start of step j from those of its end, y1 and z1.

    Psi(-h; y1) takes from the gradient in y1 what it pulls back of that in z1. Then y0
    gets L times it, and z0 the rest, besides that in z1, and what Psi(h; z0) pulls
    back. `estimates`: gradients in the error and stiffness of the step.
    """
    method, moving = _method(walk), walk.plan.moving(j)
    ahead, behind, (y_grad, z_grad) = step.ahead, step.behind, grads
    assert ahead.out is not None
    outputs: list[Tensor] = []
    weights: list[Tensor] = []
    pull, push = among(moving, -z_grad, None), torch.zeros_like(y_grad)
    in_start: Tensor | None = None
    in_error, in_stiffness = (
        part if part is None or moving is None else part * moving.squeeze(1)
        for part in estimates
    )
    error, coarse = ahead.out.error, ahead.out.error_coarse
    if in_error is not None and error is not None:
        whole = method.error(error, ahead.moved, behind.moved)
        errors = (whole,) if coarse is None else (whole, coarse)
        in_start, in_end, push, *rest = (
            among(moving, part, None)
            for part in walk.ratio_grads(step.y, y1, errors, in_error)
        )
        y_grad, pull = y_grad + in_end, pull + push
        outputs.extend((error,) if coarse is None else (error, coarse))
        weights.extend((push, *rest))
    if in_stiffness is not None and ahead.out.stiffness is not None:
        outputs.append(ahead.out.stiffness)
        weights.append(in_stiffness)
    (in_y,) = vjp((behind.moved,), (pull,), (behind.state,), behind.captured, totals)
    y_grad = y_grad + among(moving, in_y, None)
    outputs.append(ahead.moved)
    weights.append(among(moving, y_grad, None) + push)
    (in_z,) = vjp(outputs, weights, (ahead.state,), ahead.captured, totals)
    rest_grad = z_grad + (1.0 - method.coupling) * y_grad + in_z
    z_grad = among(moving, rest_grad, z_grad)
    y_grad = among(moving, method.coupling * y_grad, y_grad)
    return (y_grad if in_start is None else y_grad + in_start), z_grad


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
