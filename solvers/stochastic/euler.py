"""The Euler-Maruyama method."""

from __future__ import annotations

from torch import Tensor

from nde.solvers.arithmetic import along, clock
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.method import EVERY, ITO, StochasticMethod, stepped
from nde.solvers.types import Increment, Step, StepOut


def _euler(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """y + f h + g W."""
    assert inc.w is not None
    now = clock(t, y)
    drifted = along(y, term.f(now, y), inc.dt)
    return stepped(term.moved(drifted, term.g(now, y), inc.w))


# Kloeden and Platen, *Numerical Solution of SDEs*, eq. 10.2.4.
EULER = StochasticMethod(
    name="euler",
    take=_euler,
    interpretations=ITO,
    noises=EVERY,
    orders={"diagonal": 0.5, "scalar": 0.5, "additive": 1.0, "general": 0.5},
)
