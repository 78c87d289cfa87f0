"""Differential equations as layers, and classifiers of irregular series on them."""

from nde.models.build import ModelName, build_classifier
from nde.models.classifier import (
    ClassifierOutput,
    SeriesClassifier,
    control_channels,
    control_path,
)
from nde.models.geometric import GeometricSDE
from nde.models.langevin import LangevinSDE
from nde.models.linear_noise import LinearNoiseSDE
from nde.models.neural_ode import ControlledODE, NeuralODE
from nde.models.neural_sde import NeuralSDE
from nde.models.output import LayerOutput
from nde.models.series_layer import SeriesLayer
from nde.models.settings import SolverSettings
from nde.models.stability import StabilityReport

__all__ = [
    "ClassifierOutput",
    "ControlledODE",
    "GeometricSDE",
    "LangevinSDE",
    "LayerOutput",
    "LinearNoiseSDE",
    "ModelName",
    "NeuralODE",
    "NeuralSDE",
    "SeriesClassifier",
    "SeriesLayer",
    "SolverSettings",
    "StabilityReport",
    "build_classifier",
    "control_channels",
    "control_path",
]
