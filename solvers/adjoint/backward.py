"""What backward passes share: one pull-back, and what could spoil it unseen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from nde.solvers.adjoint.captured import Captured, stray_leaf
from nde.solvers.adjoint.node import Grads
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule

Result = TypeVar("Result")

# Of the interval: what may be missing at the end of a grid by rounding.
_ROUNDING = 1e-9


def vjp(
    outputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    inputs: tuple[Tensor, ...],
    captured: tuple[Tensor, ...],
    totals: list[Tensor | None],
) -> list[Tensor]:
    """Gradients to `inputs`; those to `captured` are added to `totals`."""
    pairs = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(value) for value in inputs]
    grads = torch.autograd.grad(
        [output for output, _ in pairs],
        (*inputs, *captured),
        [weight for _, weight in pairs],
        allow_unused=True,
    )
    _add(totals, grads[len(inputs) :])
    return [
        torch.zeros_like(value) if grad is None else grad
        for value, grad in zip(inputs, grads[: len(inputs)], strict=True)
    ]


def _add(totals: list[Tensor | None], grads: Sequence[Tensor | None]) -> None:
    """Add gradients to totals, all in one go where there are both."""
    places, old, new = [], [], []
    for index, grad in enumerate(grads):
        total = totals[index]
        if total is None:
            totals[index] = grad
        elif grad is not None:
            places.append(index)
            old.append(total)
            new.append(grad)
    if places:
        summed = torch._foreach_add(old, new)
        for index, total in zip(places, summed, strict=True):
            totals[index] = total


def of_states(grads: Grads) -> tuple[Tensor | None, Tensor | None]:
    """Gradients in the end state and polynomials; RuntimeError if there are others."""
    g_end, g_polynomials, g_error, g_stiffness = grads
    if g_error is not None or g_stiffness is not None:
        raise RuntimeError(
            "a gradient was asked of error or stiffness estimates, but "
            "adjoint=Backsolve() solves the continuous adjoint equation, of which "
            "statistics of the solver are no part; use adjoint=Recompute()"
        )
    return g_end, g_polynomials


def looks_at(steps: int, captured: Captured) -> set[int]:
    """Steps to watch for tensors that were not captured.

    A look costs as much as a step, so few are taken: late, where what the first call
    left out may be used.
    """
    if captured.chosen:
        return set()
    return {steps - 1} if steps < 8 else {steps // 2, steps - 1}


def watched(call: Callable[[], Result], problem: Problem, captured: Captured) -> Result:
    """A call's result; RuntimeError where the gradient of a tensor would be lost."""
    result, stray = stray_leaf(call, (problem.y0, *captured.tensors))
    if stray is not None:
        raise RuntimeError(
            f"the term uses a tensor of shape {tuple(stray.shape)} that requires grad "
            "and was neither used in its first call nor found in what it holds on to, "
            "so that its gradient would be lost; pass it through args, or solve with "
            "adjoint=Direct()"
        )
    return result


def ended_early(problem: Problem, plan: Schedule) -> bool:
    """Whether some row of a plan stops short of its end, because it failed."""
    t0, t1 = problem.t0, problem.t1
    end = t0
    if plan.steps:
        taken = torch.where(plan.h > 0, plan.t + plan.h, -torch.inf)
        end = torch.maximum(t0, taken.amax(dim=0))
    eps = torch.finfo(t1.dtype).eps
    slack = _ROUNDING * (t1 - t0) + 4.0 * eps * torch.maximum(t0.abs(), t1.abs())
    return bool((t1 - end > slack).any())


def ends(plan: Schedule, dtype: torch.dtype) -> Tensor:
    """Where each row stands after each step `(steps, rows)`, for at least one step.

    A row that rests stands at the end of its last step.
    """
    moves = plan.h > 0
    after = plan.t + plan.h.to(dtype)
    last = (moves.sum(dim=0) - 1).clamp_min(0)
    return torch.where(moves, after, after.gather(0, last.unsqueeze(0)))
