"""Global regularizers: what the solver estimated along the whole solve.

Pal, Ma, Shah, Rackauckas, *Opening the Blackbox*, ICML 2021. They differentiate through
the solver, so they need an adjoint that gives gradients of its statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nde.regularizers.weight import Weight, check_weight
from nde.solvers import Solution, Stats
from nde.solvers.methods import ODE_METHODS, SDE_METHODS
from nde.solvers.state import State
from nde.solvers.stepper import Stepper

Reduce = Literal["mean", "sum", "max"]


@dataclass(frozen=True)
class ErrorEstimate:
    """Local error along the solve: R_E = mean_j E_j h_j over accepted steps j.

    E_j is the tolerance-normalised error estimate, h_j the step, a constant. `reduce`
    "mean" (the published code), "sum" (the published formula) or "max" over the steps
    of a sample; then the mean over samples. Raises ValueError for a method without an
    error estimate.
    """

    weight: Weight = 1.0
    reduce: Reduce = "mean"
    name: str = "error"

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_reduce(self.reduce)

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        return None

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        require_error(solution)
        stats = solution.stats
        weighted = stats.error_estimate * stats.step.to(stats.error_estimate.dtype)
        return _reduced(weighted, stats, self.reduce)


@dataclass(frozen=True)
class Stiffness:
    """Stiffness along the solve: R_S = mean_j S_j / s over accepted steps j.

    S_j estimates the largest eigenvalue of the Jacobian, s is the method's extent of
    stability on the negative real axis. `reduce` as for `ErrorEstimate`; the published
    code takes the maximum. Raises ValueError for a method without the estimate.
    """

    weight: Weight = 1.0
    reduce: Reduce = "mean"
    name: str = "stiffness"

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_reduce(self.reduce)

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        return None

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        size = require_stiffness(solution)
        return _reduced(solution.stats.stiffness, solution.stats, self.reduce) / size


def require_error(solution: Solution) -> None:
    """ValueError unless the solve's method estimates its error."""
    stepper = solution.record.problem.stepper
    if stepper.error_order is None:
        raise ValueError(
            f"method {stepper.name!r} has no error estimate to regularize; use "
            + _names(lambda method: method.error_order is not None)
        )


def require_stiffness(solution: Solution) -> float:
    """The method's stability size; ValueError unless it estimates stiffness."""
    stepper = solution.record.problem.stepper
    if not stepper.has_stiffness or stepper.stability is None:
        raise ValueError(
            f"method {stepper.name!r} has no stiffness estimate (no two stages at "
            "equal time) to regularize; use "
            + _names(lambda method: method.has_stiffness)
        )
    return stepper.stability


def check_reduce(reduce: object) -> None:
    """ValueError unless a known reduction."""
    if reduce not in ("mean", "sum", "max"):
        raise ValueError(f"reduce must be 'mean', 'sum' or 'max', got {reduce!r}")


def _reduced(values: Tensor, stats: Stats, reduce: Reduce) -> Tensor:
    if values.shape[0] == 0:
        return values.sum()
    if reduce == "max":
        return values.amax(dim=0).mean()
    total = values.sum(dim=0)
    if reduce == "mean":
        total = total / stats.accepted.clamp_min(1)
    return total.mean()


def _names(fits: Callable[[Stepper], bool]) -> str:
    ode = [name for name, method in ODE_METHODS.items() if fits(method)]
    sde = [f"{name} (SDE)" for name, method in SDE_METHODS.items() if fits(method)]
    return ", ".join([*ode, *sde])
