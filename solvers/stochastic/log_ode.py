"""The log-ODE method: the noise of a step as one field, brackets included."""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.arithmetic import along, clock
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.method import (
    EVERY,
    STRATONOVICH,
    StochasticMethod,
    stage_time,
    stepped,
)
from nde.solvers.types import Increment, Step, StepOut


def _log_ode(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """A midpoint step along f h + g W + sum_ij A_ij (dg_j/dy) g_i.

    The last term is the sum over i < j of A_ij [g_i, g_j]. The predictor does without:
    that changes the step by terms of mean zero and order 1.5.
    """
    assert inc.w is not None
    h, w = inc.dt, inc.w
    now, middle = clock(t, y), stage_time(t, h, 0.5, y)
    f0, g0 = term.f(now, y), term.g(now, y)
    halfway = term.moved(along(y, f0, h * 0.5), g0, 0.5 * w)
    f1, g1 = term.f(middle, halfway), term.g(middle, halfway)
    y1 = term.moved(along(y, f1, h), g1, w)
    error = along(term.product(g1 - g0, w), f1 - f0, h)
    if term.noise != "general":
        return stepped(y1, error)
    assert inc.area is not None
    directions = torch.bmm(g1, inc.area)
    columns = []
    for j in range(w.shape[1]):
        _, dg = term.slope(middle, halfway, term.column(directions, j))
        columns.append(term.column(dg, j))
    bracket = torch.stack(columns).sum(dim=0)
    return stepped(y1 + bracket, error + bracket)


# Castell and Gaines, *The ordinary differential equation approach to asymptotically
# efficient schemes for solution of stochastic differential equations* (1996).
LOG_ODE = StochasticMethod(
    name="log_ode",
    take=_log_ode,
    interpretations=STRATONOVICH,
    noises=EVERY,
    orders={"diagonal": 1.0, "scalar": 1.0, "additive": 1.0, "general": 1.0},
    levy="area",
    levy_noises=("general",),
    drift_evaluations=2,
    diffusion_evaluations=2,
    error_order=1.0,
)
