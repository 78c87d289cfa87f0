"""Regularizers on what a solve costs."""

from nde.regularizers.base import Draw, Regularizer, draw
from nde.regularizers.local import (
    LocalError,
    LocalPredictedSteps,
    LocalSampling,
    LocalStiffness,
)
from nde.regularizers.measure import Measure
from nde.regularizers.solver_cost import ErrorEstimate, PredictedSteps, Stiffness
from nde.regularizers.weight import Exponential, Weight, weight_at

__all__ = [
    "Draw",
    "ErrorEstimate",
    "Exponential",
    "LocalError",
    "LocalPredictedSteps",
    "LocalSampling",
    "LocalStiffness",
    "Measure",
    "PredictedSteps",
    "Regularizer",
    "Stiffness",
    "Weight",
    "draw",
    "weight_at",
]
