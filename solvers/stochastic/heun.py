"""Heun's method for Stratonovich equations."""

from __future__ import annotations

from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.method import (
    EVERY,
    STRATONOVICH,
    StochasticMethod,
    stepped,
)
from nde.solvers.types import Increment, Step, StepOut


def _heun(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """Predictor and corrector; the error estimate is their difference."""
    assert inc.w is not None
    h, w = inc.dt, inc.w
    now, then = clock(t, y), clock(later(t, h), y)
    f0, moved0 = term.f(now, y), term.product(term.g(now, y), w)
    predicted = along(y, f0, h) + moved0
    f1, moved1 = term.f(then, predicted), term.product(term.g(then, predicted), w)
    error = along(0.5 * (moved1 - moved0), f1 - f0, 0.5 * h)
    return stepped(predicted + error, error)


# Rumelin, *Numerical treatment of stochastic differential equations* (1982).
HEUN = StochasticMethod(
    name="heun",
    take=_heun,
    interpretations=STRATONOVICH,
    noises=EVERY,
    orders={"diagonal": 1.0, "scalar": 1.0, "additive": 1.0, "general": 0.5},
    drift_evaluations=2,
    diffusion_evaluations=2,
    error_order=1.0,
)
