"""One solve in engine layout: what every loop and adjoint reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.bound import Bound
from nde.solvers.brownian import BrownianGrid, BrownianMotion
from nde.solvers.controller import Controller
from nde.solvers.stages import Stages
from nde.solvers.stepper import Stepper
from nde.solvers.stops import Stops
from nde.solvers.tolerances import Tolerances
from nde.solvers.types import Increment, Observer, Step, StepOut
from nde.solvers.watch import Watch

# The golden section, which no periods or fractions of an interval are likely to meet.
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class Problem:
    """Term, method and times of one solve.

    Rows are samples, or the whole batch as one row. Engine time increases:
    `t0 (rows,)` to `t1 (rows,)`, float64. `reads (rows, reads)` are the times where the
    solution is wanted; `y0 (rows, dim)`. `dense` keeps the interpolant of every step;
    `keep` keeps the states of accepted steps, which a replay needs, and their Brownian
    motion, of every `spacing`-th step alone the states; `keep_motion` the motion
    alone. `stops` are times inside to land on,
    `grid (rows, k)` those of `StepTo`, `watch` the events. `common` if all rows take
    the same steps, known beforehand: then the field sees one time for all. `noise` is
    the Brownian motion of an SDE; the steps of a grid have theirs in its schedule.
    `observer` is told of the steps. `first_step (rows,)` is what adaptive steps begin
    with, NaN where they have to choose.
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
    tolerances: Tolerances
    stops: Stops | None = None
    grid: Tensor | None = None
    watch: Watch | None = None
    common: bool = False
    noise: BrownianGrid | BrownianMotion | None = None
    keep_motion: bool = False
    spacing: int = 1
    observer: Observer | None = None
    first_step: Tensor | None = None

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

    @property
    def start_time(self) -> Tensor:
        """The first time, as the field sees it: `(rows,)`, or 0-dim where common."""
        return self._seen(self.t0)

    @property
    def inner_time(self) -> Tensor:
        """A time inside of the interval that stands out by nothing, likewise."""
        return self._seen(self.t0 + _GOLDEN * (self.t1 - self.t0))

    def _seen(self, t: Tensor) -> Tensor:
        return (t[0] if self.common and self.rows else t).to(self.y0.dtype)

    def error_ratio(self, y: Tensor, out: StepOut) -> Tensor:
        """Tolerance-normalised RMS of a step's error estimate: `(rows,)`."""
        if out.error is None:
            return y.new_full((y.shape[0],), torch.nan)
        tolerances = self.tolerances
        ratio = tolerances.ratio(out.error, y, out.y1)
        if out.error_coarse is None:
            return ratio
        # Hairer's combination of two estimates (DOP853): Hairer, Norsett, Wanner I,
        # II.10, eq. 10.17.
        coarse = tolerances.ratio(out.error_coarse, y, out.y1)
        floor = torch.finfo(ratio.dtype).tiny
        both = (ratio.square() + 0.01 * coarse.square()).clamp_min(floor).sqrt()
        return ratio.square() / both

    def stiffness(self, y: Tensor, out: StepOut) -> Tensor:
        """A step's stiffness estimate: `(rows,)`."""
        if out.stiffness is None:
            return y.new_full((y.shape[0],), torch.nan)
        return out.stiffness

    def polynomials(self, y: Tensor, stages: Tensor | None) -> Tensor:
        """How steps are read: `(m, 1 + degree, dim)`, see `dense.py`.

        `y (m, dim)` their starts, `stages (stages, m, dim)` their stage derivatives.
        """
        if not self.interpolates:
            return y.unsqueeze(1)
        assert stages is not None
        powers = self.stepper.interpolant(stages.transpose(0, 1))
        return torch.cat([y.unsqueeze(1).to(powers.dtype), powers], dim=1)

    def polynomials_of(
        self,
        rows: Tensor,
        t: Step,
        y: Tensor,
        inc: Increment,
        out: StepOut,
        stages: Stages | None,
    ) -> Tensor:
        """`polynomials` of some rows of one step; `stages` its workspace."""
        self.stepper.extend(self.term, t, y, inc, stages)
        k = None if out.stages is None else out.stages.all()
        if rows.numel() == self.rows:
            return self.polynomials(y, k)
        return self.polynomials(y[rows], None if k is None else k[:, rows])
