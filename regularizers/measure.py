"""What the estimate of a step counts for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measure:
    """What the estimate x of a step of length h counts for: x**power, its log, times h.

    `power` 1 or 2. `log` takes the logarithm, whose gradient is the relative one: then
    a penalty needs no scale, and its weight does not follow tolerance and order; x
    below the rounding unit of its dtype counts as that. `with_h` multiplies by h, which
    is a constant.

    Raises ValueError naming the field.
    """

    power: Literal[1, 2] = 1
    with_h: bool = True
    log: bool = False

    def __post_init__(self) -> None:
        if self.power not in (1, 2) or isinstance(self.power, bool):
            raise ValueError(f"power must be 1 or 2, got {self.power!r}")
        for name in ("with_h", "log"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name} must be True or False, got {getattr(self, name)!r}"
                )

    def of(self, estimate: Tensor, h: Tensor) -> Tensor:
        """What each step counts for, of the shape of both."""
        if self.log:
            value = self.power * at_least_rounding(estimate).log()
        else:
            value = estimate.square() if self.power == 2 else estimate
        return value * h.to(value.dtype) if self.with_h else value


def at_least_rounding(estimate: Tensor) -> Tensor:
    """An estimate where logarithms and roots of it have finite slopes."""
    return estimate.clamp_min(torch.finfo(estimate.dtype).eps)


def steps_of(error: Tensor, order: float) -> Tensor:
    """Steps at the tolerance that one with such an error is worth: E^(1 / order)."""
    return at_least_rounding(error) ** (1.0 / order)
