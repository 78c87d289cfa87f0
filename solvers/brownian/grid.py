"""Brownian increments on a grid, drawn in one call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BrownianGrid:
    """Brownian motion on the steps of a fixed grid, a function of `seed` alone.

    Same seed, grid, shape, dtype and device: same path, whatever the state of torch's
    global generators. Raises TypeError if seed is no integer, ValueError outside
    [0, 2**63).
    """

    seed: int

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int, got {type(self.seed).__name__}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in [0, 2**63), got {self.seed}")

    def increments(
        self, h: Tensor, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """W(t + h) - W(t) over each step.

        `h (steps,)` or `(steps, batch)`, in units of time, zero for a step not taken;
        `shape (batch, noise)`. Returns `(steps, batch, noise)`.
        """
        generator = torch.Generator(device=h.device).manual_seed(self.seed)
        normal = torch.randn(
            (h.shape[0], *shape), generator=generator, dtype=dtype, device=h.device
        )
        root = h.sqrt().to(dtype)
        return normal * (root[:, None, None] if h.ndim == 1 else root[:, :, None])


def fresh_seed() -> int:
    """A seed from torch's global generator, so that `manual_seed` covers it."""
    return int(torch.randint(2**62, ()).item())
