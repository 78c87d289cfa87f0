"""Milstein's method: the noise to first order, with derivatives or differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.method import (
    COMMUTATIVE,
    EVERY,
    ITO,
    STRATONOVICH,
    StochasticMethod,
    Take,
    root,
    started_by_drift,
    stepped,
)
from nde.solvers.types import Increment, Step, StepOut

# (term, t, y, increment, drift, diffusion, correction, judged by) to the step taken.
Finish = Callable[..., StepOut]


def _milstein(finish: Finish) -> Take:
    """Euler's step and sum_ij (dg_i/dy) g_j I_ji.

    Diagonal noise of an Ito equation takes what lies off the diagonal of dg/dy as if
    it belonged to the entry's own motion: of mean zero, it does not bias the limit.
    """

    def take(
        term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
    ) -> StepOut:
        assert inc.w is not None
        h, w = inc.dt, inc.w
        now = clock(t, y)
        ito = term.interpretation == "ito"
        correction: Tensor | None = None
        # What inference mode makes has no derivative in reverse mode.
        if ito and term.noise == "diagonal" and not torch.is_inference_mode_enabled():
            g, dg = term.own_slope(now, y)
            correction = term.product(dg, 0.5 * (w.square() - h))
            return finish(term, t, y, inc, carry[0], g, correction)
        g = term.g(now, y)
        if term.noise == "additive":
            pass
        elif term.noise == "general":
            correction = _iterated(term, now, y, inc, g)
        elif ito:
            _, dg = term.slope(now, y, g)
            correction = term.product(dg, 0.5 * (w.square() - h))
        else:
            _, dg = term.slope(now, y, term.product(g, w))
            correction = term.product(dg, 0.5 * w)
        return finish(term, t, y, inc, carry[0], g, correction)

    return take


def _iterated(
    term: BoundSDE, now: Tensor, y: Tensor, inc: Increment, g: Tensor
) -> Tensor:
    """sum_ij (dg_i/dy) g_j I_ji with I_ji = (W_j W_i - [i = j, Ito] h) / 2 + A_ji."""
    h, w = inc.dt, inc.w
    assert w is not None and inc.area is not None
    integral = torch.baddbmm(
        inc.area, w.unsqueeze(2), w.unsqueeze(1), alpha=0.5
    )  # (batch, m, m), indexed [j, i]
    if term.interpretation == "ito":
        size = h if isinstance(h, float) else h.unsqueeze(2)
        one = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
        integral = integral - (0.5 * size) * one
    directions = torch.bmm(g, integral)
    columns = []
    for i in range(w.shape[1]):
        _, dg = term.slope(now, y, term.column(directions, i))
        columns.append(term.column(dg, i))
    return torch.stack(columns).sum(dim=0)


def _milstein_grad_free(finish: Finish) -> Take:
    """Milstein's method with (g(K + v) - g(y)) for the derivative, K = y + f h.

    v = sqrt(h) g for an Ito equation. For a Stratonovich one v = g W: along sqrt(h) g
    a diffusion whose entries depend on each other would converge to another equation.

    Along sqrt(h) g the difference holds more than g'g, of order h^(3/2) (W^2 - h): an
    Ito step is judged by the standard deviation of the correction, for steps chosen by
    W^2 - h itself would give that a mean.
    """

    def take(
        term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
    ) -> StepOut:
        assert inc.w is not None
        h, w = inc.dt, inc.w
        now = clock(t, y)
        g, drifted = term.g(now, y), along(y, carry[0], h)
        judged: Tensor | None = None
        if term.noise == "additive":
            correction = None
        elif term.interpretation == "ito":
            width = root(h)
            dg = term.g(now, along(drifted, g, width)) - g
            correction = term.product(dg, (w.square() - h) * (0.5 / width))
            judged = term.product(dg, torch.ones_like(w) * (width * math.sqrt(0.5)))
        else:
            dg = term.g(now, term.moved(drifted, g, w)) - g
            correction = term.product(dg, 0.5 * w)
        return finish(term, t, y, inc, carry[0], g, correction, judged)

    return take


def _on_a_grid(
    term: BoundSDE,
    t: Step,
    y: Tensor,
    inc: Increment,
    f0: Tensor,
    g: Tensor,
    correction: Tensor | None,
    judged: Tensor | None = None,
) -> StepOut:
    """Euler's step and a correction.

    The estimate is the correction, by which Euler's step errs, or what that is `judged`
    by, and half the change of the drift, which the next step begins with. The first is
    even in W, the other odd, and they are added in size: a step is not to be taken for
    the sign of its W.
    """
    assert inc.w is not None
    h = inc.dt
    y1 = term.moved(along(y, f0, h), g, inc.w)
    if correction is not None:
        y1 = y1 + correction
    f1 = term.f(clock(later(t, h), y), y1)
    error = (f1 - f0).abs() * (0.5 * h)
    judged = correction if judged is None else judged
    error = error if judged is None else error + judged.abs()
    return stepped(y1, error, carry=(f1,))


def _in_time(
    term: BoundSDE,
    t: Step,
    y: Tensor,
    inc: Increment,
    f0: Tensor,
    g: Tensor,
    correction: Tensor | None,
    judged: Tensor | None = None,
) -> StepOut:
    """The same, and in the estimate half the change of the diffusion in time, which
    costs a call of it."""
    assert inc.w is not None
    out = _on_a_grid(term, t, y, inc, f0, g, correction, judged)
    assert out.error is not None
    change = term.g(clock(later(t, inc.dt), y), y) - g
    return replace(out, error=out.error + term.product(change, 0.5 * inc.w).abs())


# Milstein (1974); Kloeden and Platen, *Numerical Solution of SDEs*, 10.3.
MILSTEIN = StochasticMethod(
    name="milstein",
    take=_milstein(_on_a_grid),
    adapting=_milstein(_in_time),
    adapting_calls=(0, 1),
    interpretations=(*ITO, *STRATONOVICH),
    noises=EVERY,
    orders={"diagonal": 1.0, "scalar": 1.0, "additive": 1.0, "general": 1.0},
    levy="area",
    levy_noises=("general",),
    diffusion_evaluations=2,
    error_order=1.0,
    own_noise=ITO,
    first=started_by_drift,
)

# Kloeden and Platen, *Numerical Solution of SDEs*, 11.1.
MILSTEIN_GRAD_FREE = StochasticMethod(
    name="milstein_grad_free",
    take=_milstein_grad_free(_on_a_grid),
    adapting=_milstein_grad_free(_in_time),
    adapting_calls=(0, 1),
    interpretations=(*ITO, *STRATONOVICH),
    noises=COMMUTATIVE,
    orders={"diagonal": 1.0, "scalar": 1.0, "additive": 1.0},
    diffusion_evaluations=2,
    error_order=1.0,
    own_noise=ITO,
    first=started_by_drift,
)
