"""Regularizers on what a solve costs."""

from nde.regularizers.adaptive_jacobian import AdaptiveJacobian
from nde.regularizers.applied import AnyRegularizer, Applied, apply
from nde.regularizers.auto_weight import (
    AutoEvaluations,
    AutoShare,
    AutoWeight,
    Measured,
    WeightState,
)
from nde.regularizers.base import Draw, Regularizer, draw
from nde.regularizers.end_time import EndTime, NormalEnd, UniformEnd
from nde.regularizers.integral import IntegralRegularizer
from nde.regularizers.kinetic import JacobianNorm, KineticEnergy
from nde.regularizers.local import (
    LocalError,
    LocalPredictedSteps,
    LocalSampling,
    LocalStiffness,
)
from nde.regularizers.measure import Measure
from nde.regularizers.solver_cost import ErrorEstimate, PredictedSteps, Stiffness
from nde.regularizers.taylor import TaylorDerivative
from nde.regularizers.weight import Exponential, Schedule, WarmUp, Weight, weight_at
from nde.regularizers.weight_text import weight_of

__all__ = [
    "AdaptiveJacobian",
    "AnyRegularizer",
    "Applied",
    "AutoEvaluations",
    "AutoShare",
    "AutoWeight",
    "Draw",
    "EndTime",
    "ErrorEstimate",
    "Exponential",
    "IntegralRegularizer",
    "JacobianNorm",
    "KineticEnergy",
    "LocalError",
    "LocalPredictedSteps",
    "LocalSampling",
    "LocalStiffness",
    "Measure",
    "Measured",
    "NormalEnd",
    "PredictedSteps",
    "Regularizer",
    "Schedule",
    "Stiffness",
    "TaylorDerivative",
    "UniformEnd",
    "WarmUp",
    "Weight",
    "WeightState",
    "apply",
    "draw",
    "weight_at",
    "weight_of",
]
