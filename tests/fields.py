"""The plainest fields and tensors, for tests that are about something else."""

from collections.abc import Callable

import torch
from torch import Tensor


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def ones(**kind: torch.dtype | torch.device) -> Tensor:
    return torch.ones(4, 2, **kind)


def times(*values: float, **kind: torch.dtype | torch.device) -> Tensor:
    return torch.tensor(values, **kind)


def after_half(value: float) -> Callable[[Tensor, Tensor], Tensor]:
    def field(t: Tensor, y: Tensor) -> Tensor:
        late = (t > 0.5).reshape(-1, 1)
        return torch.where(late, torch.full_like(y, value), -y)

    return field
