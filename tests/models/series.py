"""Paths, series and stand-in networks that several model tests use."""

import math

import torch
from torch import Tensor, nn

from nde.solvers.control import HermiteCubic


class Pull(nn.Module):
    """The linear drift rate * z in place of a network."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return self.rate * z


class Matrix(nn.Module):
    """The linear drift A z in place of a network."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return z @ self.matrix.to(z).T


class Flat(nn.Module):
    """The constant drift `rate` in place of a network."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return torch.full_like(z, self.rate)


class Constant(nn.Module):
    """A noise size that does not change."""

    def __init__(self, size: float, outputs: int) -> None:
        super().__init__()
        self.size, self.outputs = size, outputs

    def forward(self, t: Tensor) -> Tensor:
        return t.new_full((*t.shape, self.outputs), self.size)


def constant_path(value: Tensor, end: float) -> HermiteCubic:
    """A path that stays at `value` `(batch, channels)` on [0, end]."""
    times = torch.tensor([0.0, end], dtype=value.dtype, device=value.device)
    return HermiteCubic(times, value.unsqueeze(1).expand(-1, 2, -1))


def random_path(
    batch: int, channels: int, *, device: torch.device, seed: int = 0
) -> HermiteCubic:
    """A float64 path through six random knots on [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    values = torch.randn(batch, 6, channels, generator=generator, dtype=torch.float64)
    return HermiteCubic(times.to(device), values.to(device))


def ragged_batch(device: torch.device) -> tuple[Tensor, Tensor]:
    """Times `(4, 9)` padded, values `(4, 9, 3)` with gaps; lengths 9, 4, 6, 2."""
    generator = torch.Generator().manual_seed(5)
    gaps = 0.05 + 0.3 * torch.rand(4, 9, generator=generator)
    last = torch.tensor([9, 4, 6, 2]).unsqueeze(1) - 1
    index = torch.arange(9)
    times = gaps.cumsum(1).gather(1, index.minimum(last))
    values = torch.randn(4, 9, 3, generator=generator)
    values[torch.rand(4, 9, 3, generator=generator) < 0.3] = math.nan
    values[index > last] = math.nan
    return times.to(device), values.to(device)
