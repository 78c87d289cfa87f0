"""Levy areas of Brownian motions, given what is known of the path."""

from __future__ import annotations

import torch
from torch import Tensor


def levy_area(h: Tensor, w: Tensor, levy: Tensor, normal: Tensor) -> Tensor:
    """A_ij = H_i W_j - W_i H_j + b_ij: the Levy area given W and H, nearly.

    `h (...)` lengths of the intervals, broadcast against `w.shape[:-1]`; `w, levy
    (..., m)` the increment W and the space-time Levy area H; `normal (..., m(m-1)/2)`
    standard normals, for the pairs i < j in the order of `torch.triu_indices`. Returns
    `(..., m, m)`, antisymmetric.

    The first two terms are the mean of A given (W, H). Of the rest, b has the right
    variance given H, h^2/20 + h/5 (H_i^2 + H_j^2), but is taken as normal, and as
    independent between pairs (Foster 2020, *Numerical approximations for stochastic
    differential equations*; Jelincic, Foster, Kidger 2024).
    """
    m = w.shape[-1]
    lead = levy.unsqueeze(-1) * w.unsqueeze(-2)
    i, j = torch.triu_indices(m, m, 1, device=w.device)
    length = h.to(w.dtype).unsqueeze(-1)
    square = levy.square()
    spread = length * (length / 20 + (square[..., i] + square[..., j]) / 5)
    upper = torch.zeros_like(lead)
    upper[..., i, j] = normal.to(w.dtype) * spread.sqrt()
    lead = lead + upper
    return lead - lead.transpose(-1, -2)
