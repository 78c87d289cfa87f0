"""Runge-Kutta methods on W and its space-time area H, for Stratonovich equations.

From Foster, dos Reis and Strange, *High order splitting methods for SDEs satisfying a
commutativity condition* (2023), and Foster and Jelincic, *On the convergence of
adaptive approximations for SDEs* (2024). Equations with additive noise are Ito and
Stratonovich at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.estimate import Corrections, Estimate, own, unseen
from nde.solvers.stochastic.method import (
    ADDITIVE,
    COMMUTATIVE,
    EVERY,
    ITO,
    STRATONOVICH,
    StochasticMethod,
    Take,
    root,
    stage_time,
    stepped,
)
from nde.solvers.types import Increment, Step, StepOut


def _shark(estimate: Estimate) -> Take:
    """Two stages from y + g H; corrections: the drift less that of the first stage,
    and what the change of the diffusion in time adds."""

    def take(
        term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
    ) -> StepOut:
        assert inc.w is not None and inc.levy is not None
        h, w, area = inc.dt, inc.w, inc.levy
        now = clock(t, y)
        g0, g1 = term.g(now, y), term.g(clock(later(t, h), y), y)
        moved, tilted = term.product(g0, w), term.moved(y, g0, area)
        k1 = term.f(now, tilted)
        inner = along(tilted, k1, h * (5 / 6)).add(moved, alpha=5 / 6)
        k2 = term.f(stage_time(t, h, 5 / 6, y), inner)
        drifted = (k2 - k1) * h * 0.6
        y1 = along(y, k1, h) + drifted + moved
        turned = _turned(term, g0, g1, w, area)

        def sizes() -> Sequence[Tensor]:
            return (term.spread(g1 - g0) * math.sqrt(1 / 3),)

        added = Corrections(drifted, turned, sizes, tilted, k1, g0)
        return stepped(y1 + turned, estimate(term, t, inc, added))

    return take


def _sea(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """Euler's step with the drift at y + g (W / 2 + H), the mean of y + g W."""
    assert inc.w is not None and inc.levy is not None
    h, w, area = inc.dt, inc.w, inc.levy
    g0 = term.g(clock(t, y), y)
    g1 = term.g(clock(later(t, h), y), y)
    mean = term.moved(y, g0, area.add(w, alpha=0.5))
    k = term.f(stage_time(t, h, 0.5, y), mean)
    y1 = term.moved(along(y, k, h), g0, w)
    return stepped(y1 + _turned(term, g0, g1, w, area))


def _turned(term: BoundSDE, g0: Tensor, g1: Tensor, w: Tensor, area: Tensor) -> Tensor:
    """(g1 - g0)(W / 2 - H): what a diffusion linear in time adds to g0 W."""
    return term.product(g1 - g0, (0.5 * w).sub(area))


def _general_shark(estimate: Estimate) -> Take:
    """ShARK with the diffusion at each stage; corrections: less the first
    stage's step."""

    def take(
        term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
    ) -> StepOut:
        assert inc.w is not None and inc.levy is not None
        h, w, area = inc.dt, inc.w, inc.levy
        now, ahead = clock(t, y), stage_time(t, h, 5 / 6, y)
        tilted = term.moved(y, term.g(now, y), area)
        k1, g1 = term.f(now, tilted), term.g(now, tilted)
        inner = term.moved(along(tilted, k1, h * (5 / 6)), g1, (5 / 6) * w)
        k2, g2 = term.f(ahead, inner), term.g(ahead, inner)
        turn = (0.6 * w).sub(area, alpha=1.2)
        change = g2 - g1
        drift, noise = (k2 - k1) * (h * 0.6), term.product(change, turn)

        def sizes() -> Sequence[Tensor]:
            return (term.spread(change) * math.sqrt(0.48),)

        added = Corrections(drift, noise, sizes, tilted, k1, g1)
        y1 = term.moved(along(y, k1, h), g1, w) + drift + noise
        return stepped(y1, estimate(term, t, inc, added))

    return take


_SPARK = (3.0 - math.sqrt(3.0)) / 6.0


def _spark(estimate: Estimate) -> Take:
    """Three stages; corrections: by their second differences."""

    def take(
        term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
    ) -> StepOut:
        assert inc.w is not None and inc.levy is not None
        h, w, area = inc.dt, inc.w, inc.levy
        now, middle, then = clock(t, y), stage_time(t, h, 0.5, y), clock(later(t, h), y)
        f1, g1 = term.f(now, y), term.g(now, y)
        half = (0.5 * w).add(area, alpha=math.sqrt(3.0))
        u = term.moved(along(y, f1, h * 0.5), g1, half)
        f2, g2 = term.f(middle, u), term.g(middle, u)
        v = term.moved(along(y, f2, h), g2, w)
        f3, g3 = term.f(then, v), term.g(then, v)
        # The weights (a - 1/2, b, a - 1/2) are multiples of (1, -2, 1).
        least = _SPARK - 0.5
        fall, both, second = g1 - g3, g1 + g3, f1 + f3
        bend = both.sub(g2, alpha=2.0)
        noise = term.product(fall, area) + term.product(bend, least * w)
        drift = second.sub(f2, alpha=2.0) * (h * least)
        y1 = term.moved(along(y, second, h * 0.5), both, 0.5 * w) + noise + drift

        def sizes() -> Sequence[Tensor]:
            return term.spread(fall) * math.sqrt(1 / 12), term.spread(bend) * least

        added = Corrections(drift, noise, sizes, y, f1, g1)
        return stepped(y1, estimate(term, t, inc, added))

    return take


def _slow_rk(estimate: Estimate) -> Take:
    """Two drift and five diffusion stages; corrections: less f1 h and the
    midpoint's g W."""

    def take(
        term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
    ) -> StepOut:
        assert inc.w is not None and inc.levy is not None
        h, w, area = inc.dt, inc.w, inc.levy
        now, middle, then = clock(t, y), stage_time(t, h, 0.5, y), clock(later(t, h), y)
        f1 = term.f(now, y)
        halfway = along(y, f1, h * 0.5)
        half = 0.5 * w
        g2 = term.g(middle, halfway)
        g3 = term.g(middle, term.moved(halfway, g2, half))
        moved3 = term.product(g3, half)
        g4 = term.g(middle, term.moved(halfway, g3, half))
        g5 = term.g(middle, term.moved(halfway, g4, w))
        slanted = (0.75 * w).add(area, alpha=1.5)
        inner = term.moved(along(y, f1, h * 0.75), g4, slanted)
        f6 = term.f(stage_time(t, h, 0.75, y), inner)
        drifted = along(y, f1, h)
        g7 = term.g(then, drifted + moved3)
        spread = (g2 + g5).add(g4, alpha=2.0).sub(g3, alpha=4.0)
        fall = g4 - g7
        noise = term.moved(term.product(spread, w / 6.0), fall, 2.0 * area)
        drift = (f6 - f1) * (h * (2 / 3))

        def sizes() -> Sequence[Tensor]:
            # The spread is all of W^2, and so what it gives of W^3: of size sqrt(15).
            normal = (w / root(h)).square().clamp_min(0.1)
            bend = term.product(spread, normal.reciprocal())
            return bend * (math.sqrt(15.0) / 6.0), term.spread(fall) * math.sqrt(1 / 3)

        added = Corrections(drift, noise, sizes, y, f1, g2)
        y1 = drifted.add(moved3, alpha=2.0) + noise + drift
        return stepped(y1, estimate(term, t, inc, added))

    return take


SHARK = StochasticMethod(
    name="shark",
    take=_shark(own),
    adapting=_shark(unseen),
    interpretations=(*ITO, *STRATONOVICH),
    noises=ADDITIVE,
    orders={"additive": 1.5},
    levy="space-time",
    drift_evaluations=2,
    diffusion_evaluations=2,
    error_order=1.5,
)

SEA = StochasticMethod(
    name="sea",
    take=_sea,
    interpretations=(*ITO, *STRATONOVICH),
    noises=ADDITIVE,
    orders={"additive": 1.0},
    levy="space-time",
    diffusion_evaluations=2,
)

GENERAL_SHARK = StochasticMethod(
    name="general_shark",
    take=_general_shark(own),
    adapting=_general_shark(unseen),
    adapting_noises=ADDITIVE,
    interpretations=STRATONOVICH,
    noises=EVERY,
    orders={"diagonal": 1.0, "scalar": 1.0, "additive": 1.5, "general": 0.5},
    levy="space-time",
    drift_evaluations=2,
    diffusion_evaluations=3,
    error_order=1.0,
)

SPARK = StochasticMethod(
    name="spark",
    take=_spark(own),
    adapting=_spark(unseen),
    adapting_noises=ADDITIVE,
    interpretations=STRATONOVICH,
    noises=EVERY,
    orders={"diagonal": 1.0, "scalar": 1.0, "additive": 1.5, "general": 0.5},
    levy="space-time",
    drift_evaluations=3,
    diffusion_evaluations=3,
    error_order=1.5,
)

SLOW_RK = StochasticMethod(
    name="slow_rk",
    take=_slow_rk(own),
    adapting=_slow_rk(unseen),
    interpretations=STRATONOVICH,
    noises=COMMUTATIVE,
    orders={"diagonal": 1.5, "scalar": 1.5, "additive": 1.5},
    levy="space-time",
    drift_evaluations=2,
    diffusion_evaluations=5,
    error_order=1.5,
    own_noise=STRATONOVICH,
)
