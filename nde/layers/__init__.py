"""Networks that vector fields are made of."""

from nde.layers.diffusion import (
    RuntimeStateNoise,
    RuntimeTimeNoise,
    StateNoise,
    TimeNoise,
)
from nde.layers.drift import Drift, RuntimeDrift
from nde.layers.mlp import MLP, ScaledTanh

__all__ = [
    "MLP",
    "Drift",
    "RuntimeDrift",
    "RuntimeStateNoise",
    "RuntimeTimeNoise",
    "ScaledTanh",
    "StateNoise",
    "TimeNoise",
]
