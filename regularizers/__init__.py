"""Regularizers on what a solve costs."""

from nde.regularizers.base import Draw, Regularizer, draw
from nde.regularizers.local import LocalError, LocalSampling, LocalStiffness
from nde.regularizers.solver_cost import ErrorEstimate, Stiffness
from nde.regularizers.weight import Exponential, Weight, weight_at

__all__ = [
    "Draw",
    "ErrorEstimate",
    "Exponential",
    "LocalError",
    "LocalSampling",
    "LocalStiffness",
    "Regularizer",
    "Stiffness",
    "Weight",
    "draw",
    "weight_at",
]
