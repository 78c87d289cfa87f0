"""One solve in engine layout: what every loop and adjoint reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.controller import Controller
from nde.solvers.stepper import Stepper
from nde.solvers.term import Bound
from nde.solvers.types import StepOut


@dataclass(frozen=True)
class Problem:
    """Term, method and times of one solve.

    Rows are samples, or the whole batch as one row. Engine time increases:
    `t0 (rows,)` to `t1 (rows,)`, float64. `reads (rows, reads)` are the times where the
    solution is wanted; `y0 (rows, dim)`. `dense` keeps the interpolant of every step;
    `keep` keeps the states of accepted steps, which any replay needs.
    """

    term: Bound
    stepper: Stepper
    controller: Controller
    t0: Tensor
    t1: Tensor
    y0: Tensor
    reads: Tensor
    dense: bool
    keep: bool
    max_steps: int

    @property
    def rows(self) -> int:
        """Rows of the engine's state."""
        return self.y0.shape[0]

    @property
    def interior(self) -> Tensor:
        """Which reads lie strictly inside the interval: `(rows, reads)`."""
        t0, t1 = self.t0.unsqueeze(1), self.t1.unsqueeze(1)
        return (self.reads > t0) & (self.reads < t1)

    @property
    def interpolates(self) -> bool:
        """Whether reads fall inside steps, not on their starts."""
        return self.stepper.has_interpolant

    def error_ratio(self, y: Tensor, out: StepOut) -> Tensor:
        """Tolerance-normalised RMS of a step's error estimate: `(rows,)`."""
        if out.error is None:
            return y.new_full((y.shape[0],), torch.nan)
        return self.controller.tolerances.ratio(out.error, y, out.y1)

    def stiffness(self, y: Tensor, out: StepOut) -> Tensor:
        """A step's stiffness estimate: `(rows,)`."""
        if out.stiffness is None:
            return y.new_full((y.shape[0],), torch.nan)
        return out.stiffness

    def polynomial(self, y: Tensor, out: StepOut) -> Tensor:
        """How a step is read: `(rows, 1 + degree, dim)`, see `dense.py`."""
        if not self.interpolates:
            return y.unsqueeze(1)
        assert out.stages is not None
        powers = out.stages.interpolant().transpose(0, 1)
        return torch.cat([y.unsqueeze(1), powers], dim=1)
