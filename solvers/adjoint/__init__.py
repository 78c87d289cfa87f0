"""How gradients of a solve are taken."""

from nde.solvers.adjoint.backsolve import Backsolve
from nde.solvers.adjoint.direct import Direct
from nde.solvers.adjoint.recompute import Recompute
from nde.solvers.adjoint.reversible import Reversible

Adjoint = Direct | Recompute | Reversible | Backsolve

__all__ = ["Adjoint", "Backsolve", "Direct", "Recompute", "Reversible"]
