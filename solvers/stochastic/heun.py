"""Heun's, the midpoint and the reversible Heun method for Stratonovich equations."""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.estimate import crossed
from nde.solvers.stochastic.method import (
    EVERY,
    STRATONOVICH,
    StochasticMethod,
    stage_time,
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
    f0, g0 = term.f(now, y), term.g(now, y)
    predicted = term.moved(along(y, f0, h), g0, w)
    f1, change = term.f(then, predicted), term.g(then, predicted) - g0
    error = along(term.product(change, 0.5 * w), f1 - f0, 0.5 * h)
    return stepped(predicted + error, crossed(term, change, t, inc, error))


def _midpoint(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """A whole step with the slopes half an Euler step ahead; error: less that step."""
    assert inc.w is not None
    h, w = inc.dt, inc.w
    now, middle = clock(t, y), stage_time(t, h, 0.5, y)
    f0, g0 = term.f(now, y), term.g(now, y)
    halfway = term.moved(along(y, f0, h * 0.5), g0, 0.5 * w)
    f1, g1 = term.f(middle, halfway), term.g(middle, halfway)
    y1 = term.moved(along(y, f1, h), g1, w)
    change = g1 - g0
    error = along(term.product(change, w), f1 - f0, h)
    return stepped(y1, crossed(term, change, t, inc, error))


def _twin(term: BoundSDE, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Slopes at the second state, which begins as the first, and that state."""
    g = term.g(t, y)
    width = g.numel() // max(y.shape[0], 1)
    return term.f(t, y), g.reshape(y.shape[0], width), y.clone()


def unflattened(term: BoundSDE, flat: Tensor) -> Tensor:
    """The diffusion from the form in which the reversible Heun method carries it."""
    if not term.term.matrix:
        return flat
    batch, motions = term.noise_shape
    return flat.reshape(batch, term.layout.structure.width, motions)


def _reversible_heun(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """Heun's method about a second state that leaps over the first.

    The estimate e of the error is what the step adds to their distance: this was
    d = y - z and becomes e - d. So no step, however short, makes it smaller than it is,
    and steps cannot be judged by it.
    """
    assert inc.w is not None
    h, w = inc.dt, inc.w
    f0, flat, twin = carry
    then = clock(later(t, h), y)
    g0 = unflattened(term, flat)
    leap = term.moved(along(torch.sub(2.0 * y, twin), f0, h), g0, w)
    if not isinstance(h, float):
        # A row at rest does not leap.
        leap = torch.where(h > 0.0, leap, twin)
    f1, g1 = term.f(then, leap), term.g(then, leap)
    y1 = term.moved(along(y, f0 + f1, h * 0.5), g0 + g1, 0.5 * w)
    change = g1 - g0
    error = along(term.product(change, 0.5 * w), f1 - f0, h * 0.5)
    error = crossed(term, change, t, inc, error)
    return stepped(y1, error, carry=(f1, g1.reshape(flat.shape), leap))


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

# The midpoint rule among the Runge-Kutta methods of Rumelin (1982).
MIDPOINT = StochasticMethod(
    name="midpoint",
    take=_midpoint,
    interpretations=STRATONOVICH,
    noises=EVERY,
    orders={"diagonal": 1.0, "scalar": 1.0, "additive": 1.0, "general": 0.5},
    drift_evaluations=2,
    diffusion_evaluations=2,
    error_order=1.0,
)

# Kidger, Foster, Li and Lyons, *Efficient and accurate gradients for neural SDEs*
# (2021), algorithm 1.
REVERSIBLE_HEUN = StochasticMethod(
    name="reversible_heun",
    take=_reversible_heun,
    interpretations=STRATONOVICH,
    noises=EVERY,
    orders={"diagonal": 1.0, "scalar": 1.0, "additive": 1.0, "general": 0.5},
    error_order=1.0,
    reads_between=False,
    first=_twin,
    if_apart=(
        "where the equation contracts they come apart as fast, in steps of any length; "
        "use method 'heun' with adjoint=Recompute(), or solve shorter intervals; lower "
        "tolerances or shorter steps only make them part later"
    ),
    start_evaluations=1,
)
