"""Brownian paths on fine grids, for solves with coarser steps along them."""

import torch
from problems import KIND, normal
from torch import Tensor

from nde.solvers import BrownianGrid, BrownianTree
from nde.solvers.brownian import BrownianIncrement, Levy


class FinePath(BrownianGrid):
    """The path whose increments over equal steps are `fine (steps, batch, m)`.

    Serves grids of equal steps whose number divides that of `fine`.
    """

    def __init__(self, fine: Tensor) -> None:
        super().__init__(0)
        object.__setattr__(self, "fine", fine)

    def increments(
        self,
        h: Tensor,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        levy: Levy = "none",
    ) -> BrownianIncrement:
        """Sums of the fine increments over each step."""
        assert levy == "none", "only W is read on coarser grids"
        fine: Tensor = vars(self)["fine"]
        together = fine.view(len(h), len(fine) // len(h), *shape).sum(1)
        return BrownianIncrement(together.to(dtype))


def fine_increments(
    steps: int, batch: int, m: int, seed: int, **kind: torch.dtype | torch.device
) -> Tensor:
    """Increments on [0, 1], `(steps, batch, m)`, the same on every device."""
    return normal((steps, batch, m), seed, **kind) / steps**0.5


def tree(
    batch: int, m: int, kind: KIND, seed: int = 3, t1: float = 1.0
) -> BrownianTree:
    """A path on [0, t1], exact to times much closer than any steps."""
    return BrownianTree(seed, 0.0, t1, (batch, m), tol=t1 * 2.0**-20, **kind)
