"""A Brownian motion whose increment, or area, over its whole span is given."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nde.solvers.brownian.increment import BrownianIncrement, Levy
from nde.solvers.brownian.tree import BrownianTree, Position


@dataclass(frozen=True, eq=False)
class BrownianBridge:
    """The motion of `tree` given its W, or its H, over [t0, t1].

    Both are linear in the path, W and H are independent, and the path is Gaussian; so
    B(t) + x (w - W) + 6 x (1 - x) (h - H), with x the fraction of the span at t, has
    the law of B under the condition, exactly. What `w` and `h` depend on gets gradients
    through it.

    `w`, `h (batch, m)`: increment and space-time Levy area over the span; None leaves
    that of the tree.

    Raises ValueError if one has another shape.
    """

    tree: BrownianTree
    w: Tensor | None = None
    h: Tensor | None = None
    _moved: Tensor = field(init=False, repr=False)
    _bent: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("w", self.w), ("h", self.h)):
            if value is not None and tuple(value.shape) != tuple(self.tree.size):
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, the motion has size "
                    f"{tuple(self.tree.size)}"
                )
        tree = self.tree
        end = tree.at(tree.ends(tree.t0, tree.t1)[1])
        none = torch.zeros_like(end.w)
        moved = none if self.w is None else self.w.to(end.w) - end.w
        area = end.k / (tree.t1 - tree.t0) - end.w / 2
        bent = none if self.h is None else self.h.to(end.w) - area
        object.__setattr__(self, "_moved", moved)
        object.__setattr__(self, "_bent", bent)

    @property
    def t0(self) -> float:
        """Begin of the span."""
        return self.tree.t0

    @property
    def t1(self) -> float:
        """End of the span."""
        return self.tree.t1

    @property
    def size(self) -> tuple[int, int]:
        """(batch, m)."""
        return self.tree.size

    def at(self, t: Tensor) -> Position:
        """As `BrownianTree.at`."""
        free = self.tree.at(t)
        x, span = free.x.unsqueeze(-1), self.t1 - self.t0
        square = x.square()
        w = free.w + x * self._moved + 6.0 * (x - square) * self._bent
        shift = square / 2 * self._moved + square * (3.0 - 2.0 * x) * self._bent
        return Position(free.x, w, free.k + span * shift)

    def between(self, a: Position, b: Position, levy: Levy) -> BrownianIncrement:
        """As `BrownianTree.between`."""
        return self.tree.between(a, b, levy)

    def increment(
        self, ta: float | Tensor, tb: float | Tensor, levy: Levy = "none"
    ) -> BrownianIncrement:
        """As `BrownianTree.increment`."""
        start, end = self.tree.ends(ta, tb)
        return self.between(self.at(start), self.at(end), levy)
