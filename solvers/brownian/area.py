"""The Levy area between components of a Brownian motion, given what is known of it."""

from __future__ import annotations

from torch import Tensor


def levy_area(h: Tensor, w: Tensor, levy: Tensor, normal: Tensor) -> Tensor:
    """A_ij = (1/2) int (W_i dW_j - W_j dW_i) over steps, `(..., m, m)`.

    H_i W_j - W_i H_j plus a normal number of the variance that A has given W and H,
    h^2 / 20 + (h / 5)(H_i^2 + H_j^2). Its mean and covariance given W and H are exact;
    the law is not (Foster, *Numerical approximations for stochastic differential
    equations*, 2020; Davie 2014). `h` broadcasts with `w (..., m)`; of
    `normal (..., m, m)` the part above the diagonal is used.
    """
    outer = levy.unsqueeze(-1) * w.unsqueeze(-2)
    square = levy.square()
    both = square.unsqueeze(-1) + square.unsqueeze(-2)
    length = h.unsqueeze(-1)
    deviation = (length.square() / 20.0 + (length / 5.0) * both).sqrt()
    upper = (deviation * normal).triu(1)
    return outer - outer.mT + upper - upper.mT
