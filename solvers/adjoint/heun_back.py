"""The way back along the reversible Heun method of an SDE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from nde.solvers.adjoint.backward import ends, looks_at, vjp, watched
from nde.solvers.adjoint.forward import start
from nde.solvers.adjoint.node import Grads
from nde.solvers.adjoint.walk import Walk, among, missed
from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.estimate import other_motion
from nde.solvers.stochastic.heun import unflattened
from nde.solvers.types import Increment, Step


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


def back_along_heun(walk: Walk, grads: Grads, totals: list[Tensor | None]) -> Tensor:
    """The gradient in y0; those of captured tensors are added to `totals`.

    With v = y_grad / 2 + z_grad, both of a step's end, a step from y, z to y', z' pulls
    v back to its slopes f h + g w at the start, and y_grad' / 2 to those at the end;
    y_grad = y_grad' + 2 z_grad', z_grad = -z_grad' + what the slopes at z pull.
    """
    g_end, g_polynomials, g_error, _ = grads
    problem, tape, plan, term = walk.problem, walk.tape, walk.plan, _term(walk)
    y_grad = torch.zeros_like(tape.y_end) if g_end is None else g_end
    if not plan.steps:
        return y_grad
    y, z, own = tape.y_end, tape.carry_end[-1], plan.own
    if own is not None:
        z = torch.where(own, z, plan.lent(problem).y0.detach())
    z_grad = torch.zeros_like(y)
    clocks, looks = _clocks(walk), looks_at(plan.steps, walk.captured)
    here = _slopes(walk, clocks, plan.steps - 1, z, looks)
    pulled: list[tuple[Tensor, Increment]] = []
    last = tape.slots.numel()
    for j in range(plan.steps - 1, -1, -1):
        t, inc = plan.step(j, y.dtype)
        moving = plan.moving(j)
        # The step backward: its start, and the slopes there.
        slope = here.moved(term, inc)
        z = among(moving, 2.0 * y - z - slope, z)
        there = _begin(walk) if j == 0 else _slopes(walk, clocks, j - 1, z, looks)
        slope_before = there.moved(term, inc)
        before = among(moving, y - 0.5 * (slope + slope_before), y)
        if j == 0:
            before = problem.y0.detach()
        walk.observe(j, t, before, inc)
        # The gradients backward; of the error estimate too.
        judged: list[tuple[Tensor, Increment]] = []
        if g_error is not None:
            weight = g_error[j] if moving is None else g_error[j] * moving.squeeze(1)
            parts = _estimate(term, t, inc, here, there)
            size = parts[0][0]
            if len(parts) > 1:
                size = torch.stack([part.abs() for part, _ in parts]).sum(dim=0)
            in_start, in_end, e_grad = walk.ratio_grads(before, y, (size,), weight)
            y_grad = y_grad + among(moving, in_end, None)
            e_grad = 0.5 * among(moving, e_grad, None)
            for part, motion in parts:
                sign = 1.0 if len(parts) == 1 else part.sign()
                judged.append((e_grad * sign, motion))
        pulled.append((among(moving, 0.5 * y_grad, None), inc))
        z_grad = z_grad + _pull(here, term, [*pulled, *judged], totals)
        pulled = [(among(moving, 0.5 * y_grad + z_grad, None), inc)]
        pulled += [(-part, motion) for part, motion in judged]
        y_grad = among(moving, y_grad + 2.0 * z_grad, y_grad)
        z_grad = among(moving, -z_grad, z_grad)
        if judged:
            y_grad = y_grad + among(moving, in_start, None)
        last, y_grad = walk.reads(j, last, g_polynomials, y_grad)
        y, here = before, there
    walk.warn_of_drift(missed(z, here.outputs[2].detach()))
    start_grad = _pull(here, term, pulled, totals, z_grad)
    return y_grad + (start_grad if own is None else torch.where(own, start_grad, 0.0))


def _estimate(
    term: BoundSDE, t: Step, inc: Increment, here: _Slopes, there: _Slopes
) -> list[tuple[Tensor, Increment]]:
    """The parts whose sizes make the error estimate of a step, each with its motion."""
    motions = [inc]
    other = other_motion(term, t, inc)
    if other is not None:
        still = 0.0 if isinstance(inc.dt, float) else torch.zeros_like(inc.dt)
        motions.append(replace(inc, dt=still, w=other))
    return [(0.5 * (here.moved(term, m) - there.moved(term, m)), m) for m in motions]


def _at(walk: Walk, now: Tensor, z: Tensor) -> _Slopes:
    """Drift and diffusion at the second state."""
    term = _term(walk)
    z = z.detach().requires_grad_()
    context, captured = walk.captured.replay()
    with torch.enable_grad(), context:
        outputs = term.f(now, z), term.g(now, z)
    return _Slopes(outputs, (z,), captured)


def _begin(walk: Walk) -> _Slopes:
    """What the first step set out with, from y0 itself."""
    begun = walk.plan.lent(walk.problem)
    y = begun.y0.detach().requires_grad_()
    context, captured = walk.captured.replay()
    with torch.enable_grad(), context:
        f, flat, z = start(replace(begun, y0=y))
        g = unflattened(_term(walk), flat)
    return _Slopes((f, g, z), (y,), captured)


def _clocks(walk: Walk) -> Callable[[int], Tensor]:
    """The time of the slopes at the end of a step, as the forward pass had it."""
    plan, y = walk.plan, walk.problem.y0
    if plan.shared is not None:
        shared = plan.shared
        return lambda j: clock(later(*shared[j]), y)
    table = ends(plan, y.dtype)
    return lambda j: clock(table[j], y)


def _term(walk: Walk) -> BoundSDE:
    term = walk.problem.term
    assert isinstance(term, BoundSDE)
    return term


def _slopes(
    walk: Walk,
    clocks: Callable[[int], Tensor],
    j: int,
    z: Tensor,
    looks: set[int],
) -> _Slopes:
    """The slopes at the end of step j."""
    call = partial(_at, walk, clocks(j), z)
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
