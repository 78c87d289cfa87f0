"""t + h and y + h k, for steps that are one number or one per row, and stand-ins."""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.types import Step


def clock(t: Step, y: Tensor) -> Tensor:
    """Engine time as the field takes it: 0-dim or `(rows,)`, in y's dtype."""
    if isinstance(t, float):
        return torch.full((), t, dtype=y.dtype, device=y.device)
    return t.to(y.dtype)


def later(t: Step, h: Step) -> Step:
    """Engine time t + h."""
    return t + (h if isinstance(h, float) else h.squeeze(1))


def along(y: Tensor, k: Tensor, h: Step) -> Tensor:
    """y + h k."""
    if isinstance(h, float):
        return torch.add(y, k, alpha=h)
    return torch.addcmul(y, h, k)


def slope_size(dk: Tensor, dg: Tensor, dtype: torch.dtype) -> Tensor:
    """|dk| / |dg| per row; 0 where the inputs coincide."""
    floor = torch.finfo(dtype).tiny
    size = torch.linalg.vector_norm(dg, dim=-1).clamp_min(floor)
    return torch.div(torch.linalg.vector_norm(dk, dim=-1), size)


def standing_in(rows: Tensor) -> Tensor:
    """Row numbers `(rows,)` in which one of the given rows stands in for the others.

    What a user's function makes of the others is not used, but its derivative there
    may be infinite, and zero times that is no number.
    """
    place = torch.arange(rows.shape[0], device=rows.device)
    return torch.where(rows, place, rows.long().argmax())
