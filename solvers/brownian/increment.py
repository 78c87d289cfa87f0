"""What a Brownian motion hands to a step: its increment and Levy areas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

# How much of a step's Brownian path its method reads beyond the increment.
Levy = Literal["none", "space-time", "area"]


@dataclass(frozen=True)
class BrownianIncrement:
    """Increment and Levy areas of a Brownian motion over [s, s + h].

    `w (..., batch, m)`: W(s+h) - W(s), of law N(0, h).

    `levy (..., batch, m)`: the space-time Levy area, the mean over the interval of
    W(r) - W(s) - (r-s)/h w; N(0, h/12), independent of `w`.

    `area (..., batch, m, m)`: the Levy area A_ij, half the integral of
    (W_i - W_i(s)) dW_j - (W_j - W_j(s)) dW_i; antisymmetric, of variance h^2/4.
    """

    w: Tensor
    levy: Tensor | None = None
    area: Tensor | None = None
