"""Rossler's stochastic Runge-Kutta methods for Ito equations, of strong order 1.5."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from nde.solvers.arithmetic import slope_size
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.estimate import Corrections, Estimate, own, unseen
from nde.solvers.stochastic.method import (
    ADDITIVE,
    COMMUTATIVE,
    ITO,
    STRATONOVICH,
    StochasticMethod,
    Take,
    root,
    shifted,
    stage_time,
    stepped,
    weighted,
)
from nde.solvers.stochastic.rossler_tableaus import (
    SOSRA2,
    SOSRI2,
    SRA1,
    SRIW1,
    SRATableau,
    SRITableau,
)
from nde.solvers.types import Increment, Step, StepOut


def _sri(tableau: SRITableau, estimate: Estimate) -> Take:
    """The step of a method for diagonal and scalar noise.

    Corrections: the drift's difference to Euler's step, unless the tableau has other
    weights, and the noise that X2 and X3 weigh (Rackauckas and Nie 2017).
    """

    def take(
        term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
    ) -> StepOut:
        assert inc.w is not None and inc.levy is not None
        h, w = inc.dt, inc.w
        width = root(h)
        square = w.square()
        x1 = (square - h) * (0.5 / width)
        x2 = inc.levy.add(w, alpha=0.5)
        x3 = w * (square - 3.0 * h) * ((1.0 / 6.0) / (width * width))
        at = _times(t, h, y)
        inputs: list[Tensor] = []
        f: list[Tensor] = []
        g: list[Tensor] = []

        for i, a1 in enumerate(tableau.a1):
            if i < len(tableau.a0):
                point = shifted(y, f, tableau.a0[i][: len(f)], h)
                if i:
                    point = term.moved(point, weighted(g, tableau.b0[i]), x2)
                inputs.append(point)
            inner = shifted(shifted(y, f, a1[: len(f)], h), g, tableau.b1[i], width)
            if i < len(tableau.a0):
                f.append(term.f(at(tableau.c0[i]), inputs[i]))
            g.append(term.g(at(tableau.c1[i]), inner))
        noise = _driven(term, None, g, (x2, x3), (tableau.beta3, tableau.beta4))
        y1 = shifted(y, f, tableau.alpha, h) + noise
        y1 = _driven(term, y1, g, (x1, w), (tableau.beta2, tableau.beta1))

        def sizes() -> Sequence[Tensor]:
            # X2 and X3 have variances h / 3 and h / 6.
            by_x2, by_x3 = weighted(g, tableau.beta3), weighted(g, tableau.beta4)
            third, sixth = math.sqrt(1 / 3), math.sqrt(1 / 6)
            return term.spread(by_x2) * third, term.spread(by_x3) * sixth

        drift = weighted(f, tableau.drift_error) * h
        added = Corrections(drift, noise, sizes, y, f[0], g[0])
        error = estimate(term, t, inc, added)
        return stepped(y1, error, _stiffness(tableau.stiff, term, f, inputs, y))

    return take


def _sra(tableau: SRATableau, estimate: Estimate) -> Take:
    """The step of a method for additive noise; corrections as for the others."""

    def take(
        term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
    ) -> StepOut:
        assert inc.w is not None and inc.levy is not None
        h, w = inc.dt, inc.w
        x2 = inc.levy.add(w, alpha=0.5)
        at = _times(t, h, y)
        inputs: list[Tensor] = []
        f: list[Tensor] = []
        g: list[Tensor] = []
        for i, row in enumerate(tableau.a):
            point = shifted(y, f, row, h)
            if i:
                point = term.moved(point, weighted(g, tableau.b[i]), x2)
            inputs.append(point)
            f.append(term.f(at(tableau.c0[i]), point))
            g.append(term.g(at(tableau.c1[i]), y))
        turned = weighted(g, tableau.beta2)
        noise = term.product(turned, x2)
        y1 = term.moved(shifted(y, f, tableau.alpha, h), weighted(g, tableau.beta1), w)
        y1 = y1 + noise
        drift = weighted(f, tableau.drift_error) * h

        def sizes() -> Sequence[Tensor]:
            return (term.spread(turned) * math.sqrt(1 / 3),)

        added = Corrections(drift, noise, sizes, y, f[0], g[0])
        error = estimate(term, t, inc, added)
        return stepped(y1, error, _stiffness(tableau.stiff, term, f, inputs, y))

    return take


def _times(t: Step, h: Step, y: Tensor) -> Callable[[float], Tensor]:
    """Engine time of a node, made once for each."""
    made: dict[float, Tensor] = {}

    def at(node: float) -> Tensor:
        if node not in made:
            made[node] = stage_time(t, h, node, y)
        return made[node]

    return at


def _driven(
    term: BoundSDE,
    y: Tensor | None,
    g: list[Tensor],
    motions: tuple[Tensor, Tensor],
    weights: tuple[tuple[float, ...], tuple[float, ...]],
) -> Tensor:
    """y + sum_i g_i (a_i motion_1 + b_i motion_2), with y = 0 by default."""
    for part, *pair in zip(g, *weights, strict=True):
        if any(pair):
            motion = weighted(motions, pair)
            y = term.product(part, motion) if y is None else term.moved(y, part, motion)
    assert y is not None
    return y


def _stiffness(
    stiff: bool, term: BoundSDE, f: list[Tensor], inputs: list[Tensor], y: Tensor
) -> Tensor | None:
    """Size of df/dy, from the last two drift stages."""
    if not stiff:
        return None
    seen = term.layout.visible
    return slope_size(seen(f[-1] - f[-2]), seen(inputs[-1] - inputs[-2]), y.dtype)


def _srk(estimate: Estimate) -> Take:
    """SRIW1, or SRA1 where the noise is additive."""
    sriw1, sra1 = _sri(SRIW1, estimate), _sra(SRA1, estimate)

    def take(
        term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
    ) -> StepOut:
        chosen = sra1 if term.noise == "additive" else sriw1
        return chosen(term, t, y, inc, carry)

    return take


# Of weak order 1.5 too, and 2 where noise is additive or, SRIW1, linear in y. The
# diffusion is taken at points sqrt(h) away: a step's variance has terms of size
# h^(5/2), one with (d^3 g / dy^3) g^4 sum_i beta1_i (sum_j b1_ij)^3, and this sum is
# -1/2 (SRIW1) and -0.53 (SOSRI2).
SRK = StochasticMethod(
    name="srk",
    take=_srk(own),
    adapting=_srk(unseen),
    interpretations=ITO,
    noises=COMMUTATIVE,
    orders={"diagonal": 1.5, "scalar": 1.5, "additive": 1.5},
    levy="space-time",
    drift_evaluations=2,
    diffusion_evaluations=4,
    error_order=1.5,
    own_noise=ITO,
)

# Extents of the drift's stability region on the negative real axis, from the tableaus.
SOSRI2_METHOD = StochasticMethod(
    name="sosri2",
    take=_sri(SOSRI2, own),
    adapting=_sri(SOSRI2, unseen),
    interpretations=ITO,
    noises=("diagonal", "scalar"),
    orders={"diagonal": 1.5, "scalar": 1.5},
    levy="space-time",
    drift_evaluations=4,
    diffusion_evaluations=4,
    error_order=1.5,
    own_noise=ITO,
    has_stiffness=True,
    stability=10.45,
)

# The estimate of StochasticDiffEq.jl: of the drift, the sum h sum_i f_i.
SOSRI2_SUM = replace(
    SOSRI2_METHOD,
    name="sosri2_sum",
    take=_sri(replace(SOSRI2, drift_error=(1.0, 1.0, 1.0, 1.0)), own),
    adapting=None,
    error_order=1.0,
)

SOSRA2_METHOD = StochasticMethod(
    name="sosra2",
    take=_sra(SOSRA2, own),
    adapting=_sra(SOSRA2, unseen),
    interpretations=(*ITO, *STRATONOVICH),
    noises=ADDITIVE,
    orders={"additive": 1.5},
    levy="space-time",
    drift_evaluations=3,
    diffusion_evaluations=3,
    error_order=1.5,
    has_stiffness=True,
    stability=5.34,
)
