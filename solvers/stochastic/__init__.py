"""Methods for stochastic differential equations, by name."""

from __future__ import annotations

from collections.abc import Mapping

from nde.solvers.stochastic.euler import EULER, EULER_HEUN, LAMBA_EM, LAMBA_EULER_HEUN
from nde.solvers.stochastic.foster import GENERAL_SHARK, SEA, SHARK, SLOW_RK, SPARK
from nde.solvers.stochastic.heun import HEUN, MIDPOINT, REVERSIBLE_HEUN
from nde.solvers.stochastic.log_ode import LOG_ODE
from nde.solvers.stochastic.method import StochasticMethod
from nde.solvers.stochastic.milstein import MILSTEIN, MILSTEIN_GRAD_FREE
from nde.solvers.stochastic.rossler import (
    SOSRA2_METHOD,
    SOSRI2_METHOD,
    SOSRI2_SUM,
    SRK,
)
from nde.solvers.stochastic.splitting import LINEAR_SPLITTING

STOCHASTIC: Mapping[str, StochasticMethod] = {
    method.name: method
    for method in (
        EULER,
        HEUN,
        EULER_HEUN,
        MIDPOINT,
        REVERSIBLE_HEUN,
        MILSTEIN,
        MILSTEIN_GRAD_FREE,
        SRK,
        SOSRI2_METHOD,
        SOSRI2_SUM,
        SOSRA2_METHOD,
        SHARK,
        SEA,
        GENERAL_SHARK,
        SPARK,
        SLOW_RK,
        LOG_ODE,
        LAMBA_EM,
        LAMBA_EULER_HEUN,
        LINEAR_SPLITTING,
    )
}

__all__ = ["STOCHASTIC", "StochasticMethod"]
