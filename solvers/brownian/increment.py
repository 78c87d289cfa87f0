"""What a Brownian motion does over an interval: increment and Levy areas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# How much of a path a method needs: W; W and H; W, H and A.
Levy = Literal["none", "space-time", "area"]


@dataclass(frozen=True)
class BrownianIncrement:
    """W, H and A of intervals, each with the same leading axes.

    `w (..., batch, m)` is W_t - W_s, of variance h = t - s. `levy`, as `w`, is the
    space-time Levy area H, the mean over the interval of W_r - W_s less its chord,
    which is N(0, h / 12) and independent of W. `area (..., batch, m, m)` is the
    antisymmetric A_ij = (1/2) int (W_i dW_j - W_j dW_i) with W from 0 at s.
    """

    w: Tensor
    levy: Tensor | None = None
    area: Tensor | None = None

    def map(self, act: Callable[[Tensor], Tensor]) -> BrownianIncrement:
        """The same function of every tensor."""
        return BrownianIncrement(
            act(self.w),
            None if self.levy is None else act(self.levy),
            None if self.area is None else act(self.area),
        )


def stacked(parts: Sequence[BrownianIncrement]) -> BrownianIncrement:
    """Increments, at least one, under one more leading axis."""
    given = zip(*((part.w, part.levy, part.area) for part in parts), strict=True)
    w, levy, area = (
        None if column[0] is None else torch.stack(column) for column in given
    )
    assert w is not None
    return BrownianIncrement(w, levy, area)
