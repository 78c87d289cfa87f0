"""How much a regularizer counts, over the course of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Exponential:
    """A weight that falls or rises geometrically from `start` to `end`.

    Raises ValueError unless both are finite and > 0.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be finite and > 0, got {value}")

    def at(self, progress: float) -> float:
        """The weight when `progress` in [0, 1] of the training is done."""
        progress = min(max(progress, 0.0), 1.0)
        return float(self.start * (self.end / self.start) ** progress)


Weight = float | Exponential


def weight_at(weight: Weight, progress: float) -> float:
    """The weight when `progress` in [0, 1] of the training is done."""
    return weight.at(progress) if isinstance(weight, Exponential) else weight


def check_weight(weight: object) -> None:
    """ValueError or TypeError unless a schedule or a finite number >= 0."""
    if isinstance(weight, Exponential):
        return
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise TypeError(
            f"weight must be a number or Exponential(start, end), got {weight!r}"
        )
    if not 0.0 <= weight < math.inf:
        raise ValueError(f"weight must be finite and >= 0, got {weight}")
