"""Both sides of the torchdiffeq interface, and fields to call them with."""

from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

import nde.compat.torchdiffeq as compat

SIDES = {"theirs": torchdiffeq, "ours": compat}


class Field(nn.Module):
    """A smooth field with parameters, dependent on time, that counts its calls."""

    def __init__(self, dim: int = 3, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(dim, dim, generator=generator, dtype=dtype)
        self.weight = nn.Parameter(weight / dim**0.5)
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(y @ self.weight) - y * torch.sin(3.0 * t)


def start(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """An initial state, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def times(*values: float, **kwargs: Any) -> Tensor:
    """Output times in float64."""
    return torch.tensor(values, dtype=torch.float64, **kwargs)


def both(function: str, make: Callable[[], tuple[Any, ...]], **kwargs: Any) -> Any:
    """What torchdiffeq's function and ours return for the same call."""
    return tuple(getattr(side, function)(*make(), **kwargs) for side in SIDES.values())
