"""Global regularizers: what the solver estimated along the whole solve.

Pal, Ma, Shah, Rackauckas, *Opening the Blackbox*, ICML 2021. They differentiate through
the solver, so they need an adjoint that gives gradients of its statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nde.regularizers.measure import Measure, steps_of
from nde.regularizers.serving import (
    check_scale,
    require_error,
    require_recorded,
    require_stiffness,
    warn_of_rounding,
)
from nde.regularizers.weight import Weight, check_weight
from nde.solvers import Solution, Stats
from nde.solvers.controller import ErrorScale
from nde.solvers.state import State

Reduce = Literal["mean", "sum", "max"]
Per = Literal["sample", "batch"]


@dataclass(frozen=True)
class ErrorEstimate:
    """Local error along the solve: by default R_E = mean_j E_j h_j over accepted steps.

    E_j is the tolerance-normalised error estimate of step j, h_j its length, a
    constant. Warns where E is mostly rounding.

    Args:
        weight: factor in the loss.
        reduce: "mean" (the published code), "sum" (the published formula) or "max" over
            steps.
        measure: what a step counts for. `Measure(power=2, with_h=False)` is the squared
            variant of the paper, `Measure(log=True, with_h=False)` a scale-free one
            whose weight, about 0.01 to 0.1, holds for any tolerance.
        per: "sample" reduces over the steps of each sample, and takes the mean of
            samples; "batch" over the steps of all of them at once, so that samples
            with many steps count more. The sum is the same.
        scale: "detached" takes atol + rtol |y|, by which errors are divided, for a
            constant; "attached" lets the penalty also fall by growing states, as the
            published code. None is as the solve recorded it, which is "attached"
            without `error_scale` of its controller; a layer sets that.

    Raises:
        ValueError, TypeError: naming the argument; ValueError when applied to a method
            without an error estimate, to a solve that another solver did, or that
            recorded another `scale`.
    """

    weight: Weight = 1.0
    reduce: Reduce = "mean"
    name: str = "error"
    measure: Measure = Measure()
    per: Per = "sample"
    scale: ErrorScale | None = None

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_reduction(self.reduce, self.per)
        check_scale(self.scale)

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        return None

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        stats = _errors(solution, self.scale)
        values = self.measure.of(stats.error_estimate, stats.step)
        return _reduced(values, stats, self.reduce, self.per)


@dataclass(frozen=True)
class Stiffness:
    """Stiffness along the solve: by default R_S = mean_j S_j / s over accepted steps.

    S_j estimates the largest eigenvalue of the Jacobian in step j, s is the method's
    extent of stability on the negative real axis. `reduce`, `per` as for
    `ErrorEstimate`; the published code takes the maximum. `measure` of S / s;
    `Measure()`, with h, is the published formula. Raises ValueError or TypeError naming
    the argument, and ValueError for a method without the estimate, or a solve that
    another solver did.
    """

    weight: Weight = 1.0
    reduce: Reduce = "mean"
    name: str = "stiffness"
    measure: Measure = Measure(with_h=False)
    per: Per = "sample"

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_reduction(self.reduce, self.per)

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        return None

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        size = require_stiffness(solution)
        require_recorded(solution)
        stats = solution.stats
        values = self.measure.of(stats.stiffness / size, stats.step)
        return _reduced(values, stats, self.reduce, self.per)


@dataclass(frozen=True)
class PredictedSteps:
    """Steps of a solve at the tolerance: sum_j E_j^(1/q), the mean of samples.

    With q the power of h in the error estimate, a step of h E^(-1/q) has an error of
    1, so that E^(1/q) / h is the number of steps per time, and each accepted step
    counts for E_j^(1/q) of them. Unlike E h it is what a solve costs, in units of
    steps, at any tolerance. h is a constant; E below the rounding unit counts as that.
    `scale` and errors raised as for `ErrorEstimate`.
    """

    weight: Weight = 1.0
    name: str = "predicted-steps"
    scale: ErrorScale | None = None

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_scale(self.scale)

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        return None

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        order = require_error(solution)
        stats = _errors(solution, self.scale)
        counts = steps_of(stats.error_estimate, order)
        return _reduced(counts, stats, "sum", "sample")


def check_reduction(reduce: object, per: object) -> None:
    """ValueError unless known."""
    if reduce not in ("mean", "sum", "max"):
        raise ValueError(f"reduce must be 'mean', 'sum' or 'max', got {reduce!r}")
    if per not in ("sample", "batch"):
        raise ValueError(f"per must be 'sample' or 'batch', got {per!r}")


def _errors(solution: Solution, scale: ErrorScale | None) -> Stats:
    """The statistics of a solve whose errors are as asked for."""
    require_error(solution)
    require_recorded(solution)
    detached = any(run.problem.tolerances.detached for run in solution.runs)
    if scale is not None and (scale == "detached") != detached:
        raise ValueError(
            f"scale={scale!r}, but the errors of this solve were recorded with a scale "
            f"that is {'detached' if detached else 'attached'}; solve with "
            f"controller=PID(error_scale={scale!r}), or leave scale out"
        )
    warn_of_rounding(solution)
    return solution.stats


def _reduced(values: Tensor, stats: Stats, reduce: Reduce, per: Per) -> Tensor:
    if values.shape[0] == 0:
        return values.sum()
    real = stats.valid
    if reduce == "max":
        least = torch.where(real, values, -torch.inf)
        top = least.amax(dim=0) if per == "sample" else least.amax().reshape(1)
        moved = real.any(dim=0) if per == "sample" else real.any().reshape(1)
        return torch.where(moved, top, 0.0).mean()
    total = torch.where(real, values, 0.0).sum(dim=0)
    if reduce == "sum":
        return total.mean()
    if per == "sample":
        return (total / stats.accepted.clamp_min(1)).mean()
    return total.sum() / stats.accepted.sum().clamp_min(1)
