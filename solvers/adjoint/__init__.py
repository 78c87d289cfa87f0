"""How gradients of a solve are taken."""

from nde.solvers.adjoint.direct import Direct
from nde.solvers.adjoint.recompute import Recompute

Adjoint = Direct | Recompute

__all__ = ["Adjoint", "Direct", "Recompute"]
