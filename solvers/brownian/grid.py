"""Brownian increments on a grid, drawn in one call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Of a batch as a whole, or `(batch,)` one per sample.
Seed = int | Tensor


@dataclass(frozen=True)
class BrownianGrid:
    """Brownian motion on the steps of a fixed grid, a function of `seed` alone.

    Same seed, grid, batch, shape, dtype and device: same paths, whatever the state of
    torch's global generators. An int seeds the batch as a whole, in one draw; a tensor
    `(batch,)` of ints seeds each sample, whose path is then the same in any company (on
    the CPU).

    Raises TypeError if seed is no integer, ValueError outside [0, 2**63).
    """

    seed: Seed

    def __post_init__(self) -> None:
        if isinstance(self.seed, Tensor):
            if self.seed.dtype != torch.int64 or self.seed.ndim != 1:
                raise TypeError(
                    "seeds of samples must be an int64 tensor (batch,), got "
                    f"{self.seed.dtype} of shape {tuple(self.seed.shape)}"
                )
            if bool((self.seed < 0).any()):
                raise ValueError("seeds must lie in [0, 2**63), got a negative one")
            return
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
        generator = torch.Generator(device=h.device)
        if isinstance(self.seed, Tensor):
            normal = _apart(self.seed, h.shape[0], shape, dtype, generator)
        else:
            normal = torch.randn(
                (h.shape[0], *shape),
                generator=generator.manual_seed(self.seed),
                dtype=dtype,
                device=h.device,
            )
        root = h.sqrt().to(dtype)
        return normal * (root[:, None, None] if h.ndim == 1 else root[:, :, None])


# A draw of another multiple of this length begins with the same numbers.
_DRAW = 16


def _apart(
    seeds: Tensor,
    steps: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    generator: torch.Generator,
) -> Tensor:
    """Normal numbers `(steps, batch, noise)`, each sample's from its own seed."""
    batch, noise = shape
    if len(seeds) != batch:
        raise ValueError(f"{len(seeds)} seeds were given for a batch of {batch}")
    used = steps * noise
    size = max(-(-used // _DRAW) * _DRAW, _DRAW)
    rows = [
        torch.randn(
            size,
            generator=generator.manual_seed(seed),
            dtype=dtype,
            device=generator.device,
        )[:used]
        for seed in seeds.tolist()
    ]
    drawn = torch.stack(rows) if rows else torch.zeros(0, used, dtype=dtype)
    return drawn.view(batch, steps, noise).transpose(0, 1).to(generator.device)


def fresh_seed() -> int:
    """A seed from torch's global generator, so that `manual_seed` covers it."""
    return int(torch.randint(2**62, ()).item())
