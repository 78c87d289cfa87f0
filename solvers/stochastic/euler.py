"""Euler methods: Euler-Maruyama for Ito, Euler-Heun for Stratonovich equations."""

from __future__ import annotations

import math

from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.estimate import crossed, generic
from nde.solvers.stochastic.method import (
    EVERY,
    ITO,
    STRATONOVICH,
    StochasticMethod,
    root,
    started_by_drift,
    stepped,
)
from nde.solvers.term import Noise
from nde.solvers.types import Increment, Step, StepOut

_HALF_OR_ONE: dict[Noise, float] = {
    "diagonal": 0.5,
    "scalar": 0.5,
    "additive": 1.0,
    "general": 0.5,
}
_ONE_OR_HALF: dict[Noise, float] = {
    "diagonal": 1.0,
    "scalar": 1.0,
    "additive": 1.0,
    "general": 0.5,
}


def _euler(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """y + f h + g W."""
    assert inc.w is not None
    now = clock(t, y)
    drifted = along(y, term.f(now, y), inc.dt)
    return stepped(term.moved(drifted, term.g(now, y), inc.w))


def _euler_heun(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """y + f h + (g(y) + g(y + g W)) W / 2.

    The drift at the end belongs to the next step, and to the error estimate here. Its
    part and that of the noise are added in size: see `crossed`.
    """
    assert inc.w is not None
    h, half = inc.dt, 0.5 * inc.w
    (f0,) = carry
    now, then = clock(t, y), clock(later(t, h), y)
    g0 = term.g(now, y)
    g1 = term.g(then, term.moved(y, g0, inc.w))
    y1 = term.moved(along(y, f0, h), g0 + g1, half)
    f1 = term.f(then, y1)
    change = g1 - g0
    error = along(term.product(change, half).abs(), (f1 - f0).abs(), h * 0.5)
    return stepped(y1, crossed(term, change, t, inc, error), carry=(f1,))


def _lamba_em(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """Euler-Maruyama with estimates of what it neglects.

    Of the drift h (f(K) - f(y)) / 2 with K = y + f h, of the noise the standard
    deviation of what Milstein's method adds, by a difference along sqrt(h) g, with
    motions weighed apart.

    Not, as is common, of the W at hand: steps chosen by their own W are steps whose
    sum of W^2 is no longer the time they take, and the limit is not the solution.
    """
    assert inc.w is not None
    h, w = inc.dt, inc.w
    now, then = clock(t, y), clock(later(t, h), y)
    f0, g0 = term.f(now, y), term.g(now, y)
    drifted = along(y, f0, h)
    y1 = term.moved(drifted, g0, w)
    width = root(h)
    apart = (generic(t, h, w) * width).expand_as(w)
    dg = term.g(then, term.moved(drifted, g0, apart)) - g0
    noise = term.spread(dg) * (width * math.sqrt(0.5))
    f1 = term.f(then, drifted)
    return stepped(y1, along(noise, f1 - f0, h * 0.5))


def _lamba_euler_heun(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """Euler-Heun with the drift's error from K = y + f h, as for Euler-Maruyama."""
    assert inc.w is not None
    h, half = inc.dt, 0.5 * inc.w
    now, then = clock(t, y), clock(later(t, h), y)
    f0, g0 = term.f(now, y), term.g(now, y)
    drifted = along(y, f0, h)
    g1 = term.g(then, term.moved(drifted, g0, inc.w))
    y1 = term.moved(drifted, g0 + g1, half)
    f1 = term.f(then, drifted)
    change = g1 - g0
    error = along(term.product(change, half).abs(), (f1 - f0).abs(), h * 0.5)
    return stepped(y1, crossed(term, change, t, inc, error))


# Kloeden and Platen, *Numerical Solution of SDEs*, eq. 10.2.4.
EULER = StochasticMethod(
    name="euler",
    take=_euler,
    interpretations=ITO,
    noises=EVERY,
    orders=_HALF_OR_ONE,
)

# Heun's method (Rumelin 1982) for the noise, Euler's for the drift.
EULER_HEUN = StochasticMethod(
    name="euler_heun",
    take=_euler_heun,
    interpretations=STRATONOVICH,
    noises=EVERY,
    orders=_ONE_OR_HALF,
    diffusion_evaluations=2,
    error_order=1.0,
    first=started_by_drift,
)

# Lamba, *An adaptive timestepping algorithm for stochastic differential equations*
# (2003).
LAMBA_EM = StochasticMethod(
    name="lamba_em",
    take=_lamba_em,
    interpretations=ITO,
    noises=EVERY,
    orders=_HALF_OR_ONE,
    drift_evaluations=2,
    diffusion_evaluations=2,
    error_order=1.0,
)

LAMBA_EULER_HEUN = StochasticMethod(
    name="lamba_euler_heun",
    take=_lamba_euler_heun,
    interpretations=STRATONOVICH,
    noises=EVERY,
    orders=_ONE_OR_HALF,
    drift_evaluations=2,
    diffusion_evaluations=2,
    error_order=1.0,
)
