"""A Brownian tree for samples whose spans differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.brownian.increment import BrownianIncrement, Levy
from nde.solvers.brownian.tree import BrownianTree, Position


@dataclass(frozen=True, eq=False)
class StretchedTree:
    """Brownian motion of each sample on its own [begin, begin + span], from one seed.

    `tree` is one on [0, 1], whose paths are stretched: a sample's is the same whatever
    the spans of others. `begin`, `span` `(batch,)` or `(1,)` float64, spans positive.
    `fine` serves the samples `close (batch,)` or `(1,)` in place of `tree`: with leaves
    so short that their times are told apart.
    """

    tree: BrownianTree
    begin: Tensor
    span: Tensor
    fine: BrownianTree | None = None
    close: Tensor | None = None

    @property
    def t0(self) -> float:
        """The earliest begin."""
        return float(self.begin.min())

    @property
    def t1(self) -> float:
        """The latest end."""
        return float((self.begin + self.span).max())

    @property
    def size(self) -> tuple[int, int]:
        """(batch, m)."""
        return self.tree.size

    @property
    def resolution(self) -> Tensor:
        """Length of the leaves `(batch,)` or `(1,)`."""
        least = torch.full_like(self.span, self.tree.resolution)
        if self.fine is not None and self.close is not None:
            least = torch.where(self.close, self.fine.resolution, least)
        return self.span * least

    def at(self, t: Tensor) -> Position:
        """As `BrownianTree.at`, for `t (batch,)` or `(1,)`; of the stretched path."""
        x = (t - self.begin) / self.span
        here = self.tree.at(x)
        if self.fine is None or self.close is None:
            return here
        return self.fine.at(x).where(self.close, here)

    def between(self, a: Position, b: Position, levy: Levy) -> BrownianIncrement:
        """As `BrownianTree.between`."""
        return self._stretched(self.tree.between(a, b, levy))

    def increment(
        self, ta: float | Tensor, tb: float | Tensor, levy: Levy = "none"
    ) -> BrownianIncrement:
        """As `BrownianTree.increment`, but for the check of times."""
        start, end = (
            torch.as_tensor(t, dtype=torch.float64, device=self.begin.device)
            for t in (ta, tb)
        )
        return self.between(self.at(start), self.at(end), levy)

    def _stretched(self, moved: BrownianIncrement) -> BrownianIncrement:
        span = self.span.to(moved.w.dtype).unsqueeze(-1)
        root = span.sqrt()
        levy, area = moved.levy, moved.area
        return BrownianIncrement(
            moved.w * root,
            None if levy is None else levy * root,
            None if area is None else area * span.unsqueeze(-1),
        )
