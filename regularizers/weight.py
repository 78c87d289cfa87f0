"""How much a regularizer counts, over the course of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """A weight that changes. Give your own schedule this member."""

    def at(self, progress: float) -> float:
        """The weight when `progress` in [0, 1] of the training is done."""


Weight = float | Schedule


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


@dataclass(frozen=True)
class WarmUp:
    """A weight that begins at zero and rises to another one, linearly.

    `weight` is what it rises to, a number or a schedule; `share` of the training is
    how long that takes. Raises TypeError or ValueError for a weight that is none, or a
    share outside of (0, 1].
    """

    weight: float | Exponential
    share: float = 0.1

    def __post_init__(self) -> None:
        check_weight(self.weight)
        if not 0.0 < self.share <= 1.0:
            raise ValueError(
                f"share of the warm-up must lie in (0, 1], got {self.share}"
            )

    def at(self, progress: float) -> float:
        """The weight when `progress` in [0, 1] of the training is done."""
        risen = min(max(progress, 0.0) / self.share, 1.0)
        return risen * weight_at(self.weight, progress)


def weight_at(weight: Weight, progress: float) -> float:
    """The weight when `progress` in [0, 1] of the training is done."""
    return weight.at(progress) if isinstance(weight, Schedule) else weight


def check_weight(weight: object) -> None:
    """ValueError or TypeError unless a schedule or a finite number >= 0."""
    if isinstance(weight, Schedule) and not isinstance(weight, type):
        return
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise TypeError(
            f"weight must be a number, or a schedule such as Exponential(start, end), "
            f"got {weight!r}; weight_of(text) reads the text of a configuration"
        )
    if not 0.0 <= weight < math.inf:
        raise ValueError(f"weight must be finite and >= 0, got {weight}")
