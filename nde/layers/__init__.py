"""Networks that vector fields are made of."""

from nde.layers.diffusion import (
    RuntimeStateNoise,
    RuntimeTimeNoise,
    StateNoise,
    TimeNoise,
)
from nde.layers.drift import Drift, RuntimeDrift
from nde.layers.mlp import MLP, ScaledTanh
from nde.layers.potential import PotentialDrift

__all__ = [
    "MLP",
    "Drift",
    "PotentialDrift",
    "RuntimeDrift",
    "RuntimeStateNoise",
    "RuntimeTimeNoise",
    "ScaledTanh",
    "StateNoise",
    "TimeNoise",
]
