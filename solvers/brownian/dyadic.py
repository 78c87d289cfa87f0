"""Brownian paths as sums over dyadic intervals, each with normals of its own.

Jelincic, Foster, Kidger 2024 (*Single-seed generation of Brownian paths and integrals*)
split the increment W and the space-time Levy area H of an interval of length h, with
z ~ N(0, h/16) and n ~ N(0, h/12), into those of its halves:

    W_l = W/2 + 3H/2 + z,  H_l = H/4 - z/2 + n/2,
    W_r = W/2 - 3H/2 - z,  H_r = H/4 - z/2 - n/2.

The split is linear, and so is the mean path given (W, H), x W + 6 x (1-x) H at the
fraction x: a path and its integral are sums of the normals times polynomials. What an
interval adds of its own ends in zero at both its ends, and its integral too, so only
one interval of each level counts at a time t, and all levels are had at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dyadic:
    """The dyadic intervals of [0, span], `depth` levels of them.

    `counts (depth + 1,)` float64: intervals of each level; `scales (4, depth)`: the
    standard deviations that go with `weights`, for each level that is split.
    """

    span: float
    depth: int
    counts: Tensor
    scales: Tensor

    @classmethod
    def of(cls, span: float, depth: int, device: torch.device) -> Dyadic:
        counts = torch.arange(depth + 1, dtype=torch.float64, device=device).exp2()
        h = span / counts[:-1]
        z, n = (h / 16).sqrt(), (h / 12).sqrt()
        scales = torch.stack((z, 3 * n, -z * h / 2, n * h / 2))
        return cls(span, depth, counts, scales)

    @property
    def terms(self) -> int:
        """Pairs of normals that make a path at a time: root, levels, leaf."""
        return self.depth + 2

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The nodes that make W and its integral K at `x (n,)`, and their weights.

        `x` in [0, 1], the fraction of the span. Nodes `(n, terms)` int64 are numbered
        as a heap, whatever the depth: 0 is the root's own (W, H), 1 its split, 2 and 3
        those of its halves; the last of a row is the leaf. Weights `(n, 2, 2, terms)`
        float64: of W and of K, on the first and on the second normal of a node.
        """
        at = x.unsqueeze(-1) * self.counts
        # The end of the span belongs to the last interval of each level.
        node = at.floor().minimum(self.counts - 1)
        at -= node
        nodes = torch.zeros(len(x), self.terms, dtype=torch.int64, device=x.device)
        nodes[:, 1:] = node.add_(self.counts)
        weights = x.new_empty(len(x), 2, 2, self.terms)
        self._root(x, weights[..., 0])
        self._splits(at[:, :-1], weights[..., 1:-1])
        self._leaf(at[:, -1], weights[..., -1])
        return nodes, weights

    def _root(self, x: Tensor, out: Tensor) -> None:
        unit, root = math.sqrt(self.span), math.sqrt(self.span / 12)
        square = x * x
        torch.mul(x, unit, out=out[:, 0, 0])
        torch.mul(x - square, 6 * root, out=out[:, 0, 1])
        torch.mul(square, self.span * unit / 2, out=out[:, 1, 0])
        torch.mul(square * (3 - 2 * x), self.span * root, out=out[:, 1, 1])

    def _splits(self, at: Tensor, out: Tensor) -> None:
        """With s the fraction of the half that holds x, counted from the outer end.

        W: s (3s - 2) z and 3 s d n, with d = 1 - 2x = +-(1 - s); its integral:
        -h/2 s^2 d z and h/2 s^2 (3/2 - s) n.
        """
        z, n, integral_z, integral_n = self.scales
        d = 1 - 2 * at
        s = 1 - d.abs()
        square = s * s
        torch.mul(3 * square - 2 * s, z, out=out[:, 0, 0])
        torch.mul(s * d, n, out=out[:, 0, 1])
        torch.mul(square * d, integral_z, out=out[:, 1, 0])
        torch.mul(square * (1.5 - s), integral_n, out=out[:, 1, 1])

    def _leaf(self, at: Tensor, out: Tensor) -> None:
        """The law of (W, K) at x given (W, H) of the leaf, about its mean.

        With p = x (1-x) on a unit leaf: var W = p (1 - 3p), var K = p^3/3, and
        cov(W, K) = p^2 (1 - 2x)/2, of determinant p^4/12.
        """
        h = self.span / 2**self.depth
        p = at * (1 - at)
        root = p.sqrt()
        torch.mul(root * (1 - 2 * at), math.sqrt(3 * h) / 2, out=out[:, 0, 0])
        torch.mul(root, math.sqrt(h) / 2, out=out[:, 0, 1])
        torch.mul(root * p, h * math.sqrt(h / 3), out=out[:, 1, 0])
        out[:, 1, 1].zero_()
