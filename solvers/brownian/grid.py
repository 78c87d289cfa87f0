"""Brownian increments on a grid, drawn in one call."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.brownian.area import levy_area
from nde.solvers.brownian.increment import BrownianIncrement, Levy
from nde.solvers.brownian.seed import Seed, check_seed
from nde.solvers.transforms import outside, transformed


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
        check_seed(self.seed)

    def increments(
        self,
        h: Tensor,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        levy: Levy = "none",
    ) -> BrownianIncrement:
        """The motion over each step.

        `h (steps,)` or `(steps, batch)`, in units of time, zero for a step not taken;
        `shape (batch, m)`. Tensors have the leading axis `steps`. W is the same
        whatever `levy` asks for.
        """
        root = h.sqrt().to(dtype)
        wide = root[:, None, None] if h.ndim == 1 else root[:, :, None]
        w = _scaled(self._normal(h, 0, shape, dtype), wide)
        if levy == "none":
            return BrownianIncrement(w)
        area = _scaled(self._normal(h, 1, shape, dtype), wide / math.sqrt(12.0))
        if levy == "space-time":
            return BrownianIncrement(w, area)
        batch, m = shape
        normal = self._normal(h, 2, (batch, m * (m - 1) // 2), dtype)
        length = (h.unsqueeze(1) if h.ndim == 1 else h).to(dtype)
        return BrownianIncrement(w, area, levy_area(length, w, area, normal))

    def _normal(
        self, h: Tensor, stream: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """Standard normal numbers `(steps, *shape)`, others for each stream."""
        generator = torch.Generator(device=h.device)
        with outside():
            if isinstance(self.seed, Tensor):
                seeds = [_streamed(seed, stream) for seed in self.seed.tolist()]
                return _apart(seeds, h.shape[0], shape, dtype, generator)
            return torch.randn(
                (h.shape[0], *shape),
                generator=generator.manual_seed(_streamed(self.seed, stream)),
                dtype=dtype,
                device=h.device,
            )


def _scaled(normal: Tensor, root: Tensor) -> Tensor:
    """Their product."""
    if transformed():
        return normal * root
    # In place: a second buffer of that size would be memory fresh from the system.
    return normal.mul_(root)


def _streamed(seed: int, stream: int) -> int:
    """The seed of another stream of numbers: of the areas beside W."""
    return (seed ^ (stream * _STREAM)) % 2**63


# Odd, with bits all over.
_STREAM = 0x1E3779B97F4A7C15

# A draw of another multiple of this length begins with the same numbers.
_DRAW = 16


def _apart(
    seeds: list[int],
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
        for seed in seeds
    ]
    drawn = torch.stack(rows) if rows else torch.zeros(0, used, dtype=dtype)
    return drawn.view(batch, steps, noise).transpose(0, 1).to(generator.device)


def fresh_seed() -> int:
    """A seed from torch's global generator, so that `manual_seed` covers it.

    One for all members of a vmapped ensemble.
    """
    with outside():
        return int(torch.randint(2**62, ()).item())
