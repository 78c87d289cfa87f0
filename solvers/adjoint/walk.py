"""What the ways back along reversible methods share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.adjoint.captured import Captured
from nde.solvers.adjoint.node import Grads
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule
from nde.solvers.tape import Tape
from nde.solvers.types import Increment, Step, StepOut


@dataclass(frozen=True)
class Walk:
    """A solve to be walked back: its steps and where they ended.

    `along` is the way back of its method; it takes the walk.
    """

    problem: Problem
    tape: Tape
    plan: Schedule
    captured: Captured
    along: Callable[[Walk, Grads, list[Tensor | None]], Tensor]

    def back(self, grads: Grads, totals: list[Tensor | None]) -> Tensor:
        """The gradient in y0; those of captured tensors are added to `totals`."""
        return self.along(self, grads, totals)

    def observe(self, j: int, t: Step, y: Tensor, inc: Increment) -> None:
        """Tell the observer of a step that is repeated."""
        if self.problem.observer is not None:
            h = inc.dt if isinstance(inc.dt, float) else self.plan.h[j]
            self.problem.observer.replay(t, y, h)

    def ratio_grads(
        self, y0: Tensor, y1: Tensor, errors: tuple[Tensor, ...], weight: Tensor
    ) -> tuple[Tensor, ...]:
        """Gradients of error ratios in a step's start, end and error estimates.

        `errors` the estimate, and the coarse one where the method has two.
        """
        leaves = [part.detach().requires_grad_() for part in (y0, y1, *errors)]
        with torch.enable_grad():
            coarse = leaves[3] if len(errors) > 1 else None
            out = StepOut(leaves[1], leaves[2], None, (), None, coarse)
            ratio = self.problem.error_ratio(leaves[0], out)
        return torch.autograd.grad(ratio, leaves, weight, materialize_grads=True)

    def reads(
        self, j: int, last: int, g_polynomials: Tensor | None, y_grad: Tensor
    ) -> tuple[int, Tensor]:
        """Add the gradients of what was read at the start of step j.

        `last` counts the slots up to its end; returns those up to its start.
        """
        rows = self.tape.slot_rows[j]
        first = last - rows.numel()
        if g_polynomials is not None and first < last:
            y_grad = y_grad.index_add(0, rows, g_polynomials[first:last, 0])
        return first, y_grad

    def warn_of_drift(self, missed: Tensor) -> None:
        """One warning if the way back missed states of the way forward.

        `missed (rows,)` is the largest difference from one.
        """
        y0, own = self.problem.y0.detach(), self.plan.own
        if not y0.numel():
            return
        size = torch.maximum(y0.abs(), self.tape.y_end.abs()).amax(dim=1)
        limit = torch.finfo(y0.dtype).eps ** 0.5
        fine = missed <= limit * size
        if own is not None:
            fine = fine | ~own.squeeze(1)
        if bool(fine.all()):
            return
        worst = float((missed / size).nan_to_num(nan=torch.inf)[~fine].amax())
        warnings.warn(
            "adjoint=Reversible() walked back to a state that misses that of the way "
            f"forward by {worst:.1e} of its size (more than {limit:.0e}), so gradients "
            "are off: "
            "rounding grew on the way, as it does where the equation contracts; use "
            "adjoint=Recompute(), shorter intervals, or a float64 state",
            stacklevel=2,
        )


def among(moving: Tensor | None, value: Tensor, other: Tensor | None) -> Tensor:
    """A value in rows that move, and another, or none, in those that rest."""
    if moving is None:
        return value
    return torch.where(moving, value, 0.0 if other is None else other)


def missed(found: Tensor, known: Tensor) -> Tensor:
    """How far a state walked back to is from the one it should be: `(rows,)`."""
    if not known.numel():
        return known.new_zeros(known.shape[0])
    return (found - known).abs().amax(dim=1)
