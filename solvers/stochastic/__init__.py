"""Methods for stochastic differential equations, by name."""

from __future__ import annotations

from collections.abc import Mapping

from nde.solvers.stochastic.euler import EULER
from nde.solvers.stochastic.heun import HEUN
from nde.solvers.stochastic.method import StochasticMethod
from nde.solvers.stochastic.splitting import LINEAR_SPLITTING

STOCHASTIC: Mapping[str, StochasticMethod] = {
    method.name: method for method in (EULER, HEUN, LINEAR_SPLITTING)
}

__all__ = ["STOCHASTIC", "StochasticMethod"]
