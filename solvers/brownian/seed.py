"""Seeds of Brownian motions."""

from __future__ import annotations

import torch
from torch import Tensor

# Of a batch as a whole, or `(batch,)` one per sample.
Seed = int | Tensor


def check_seed(seed: Seed) -> None:
    """Refuse what cannot seed a Brownian motion.

    Raises TypeError if seed is neither an int nor an int64 tensor `(batch,)`,
    ValueError outside [0, 2**63).
    """
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.ndim != 1:
            raise TypeError(
                "seeds of samples must be an int64 tensor (batch,), got "
                f"{seed.dtype} of shape {tuple(seed.shape)}"
            )
        if bool((seed < 0).any()):
            raise ValueError("seeds must lie in [0, 2**63), got a negative one")
        return
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, got {type(seed).__name__}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must lie in [0, 2**63), got {seed}")
