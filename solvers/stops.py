"""Stops: times inside the interval that a solve lands on.

They cut a row's interval into segments. At a jump of the field the segment before ends
one unit in the last place early and the next begins one late, so that neither side sees
the other's values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.controller import Controller
from nde.solvers.term import Layout


@dataclass(frozen=True)
class Stops:
    """Segments of every row, all `(rows, segments)`, in engine time.

    `begins`, `ends` float64; `restarts` where a segment begins at a jump. Rows with
    fewer repeat the end; `last (rows,)` numbers each row's last segment.
    """

    begins: Tensor
    ends: Tensor
    restarts: Tensor
    last: Tensor

    @property
    def jumps(self) -> bool:
        """Whether any segment begins at a jump."""
        return bool(self.restarts.any())


def stops_of(
    controller: Controller,
    layout: Layout,
    t0: Tensor,
    t1: Tensor,
    gap: torch.dtype | None,
) -> Stops | None:
    """The stops that a controller asks for between `t0` and `t1` `(rows,)`.

    `gap` is the precision in which the field sees time; None leaves no gap at jumps.
    Raises TypeError or ValueError if the times do not fit. None without any.
    """
    jump = engine_times("jump_t", controller.jump_t, layout, t0)
    plain = engine_times("step_t", controller.step_t, layout, t0)
    if not jump.shape[1] + plain.shape[1]:
        return None
    before, after = jump, jump
    if gap is not None:
        seen, far = jump.to(gap), torch.full_like(jump, torch.inf, dtype=gap)
        before = torch.nextafter(seen, -far).to(t0.dtype)
        after = torch.nextafter(seen, far).to(t0.dtype)
    # A jump comes first among equals, and is the one that counts.
    times = torch.cat([jump, plain], dim=1)
    ends, begins = torch.cat([before, plain], 1), torch.cat([after, plain], 1)
    restarts = torch.zeros_like(times, dtype=torch.bool)
    restarts[:, : jump.shape[1]] = True
    inside = (ends > t0.unsqueeze(1)) & (begins < t1.unsqueeze(1))
    times, order = times.masked_fill(~inside, torch.inf).sort(dim=1, stable=True)
    again = torch.zeros_like(inside)
    again[:, 1:] = times[:, 1:] == times[:, :-1]
    keep = torch.isfinite(times) & ~again
    rank = torch.where(keep, 0, 1).argsort(dim=1, stable=True)
    keep, order = keep.gather(1, rank), order.gather(1, rank)
    end = t1.unsqueeze(1)
    ends = torch.cat([torch.where(keep, ends.gather(1, order), end), end], dim=1)
    begins = torch.where(keep, begins.gather(1, order), end)
    restarts = restarts.gather(1, order) & keep
    return Stops(
        begins=torch.cat([t0.unsqueeze(1), begins], dim=1),
        ends=ends,
        restarts=torch.cat([torch.zeros_like(restarts[:, :1]), restarts], dim=1),
        last=keep.sum(dim=1),
    )


def engine_times(name: str, times: object, layout: Layout, like: Tensor) -> Tensor:
    """User times `(k,)` or `(batch, k)` as engine times `(rows, k)`; None is none.

    NaN entries stay NaN. Raises TypeError or ValueError naming the argument.
    """
    if times is None:
        return like.new_zeros((layout.rows, 0))
    if not isinstance(times, Tensor) or not times.is_floating_point():
        shown = times.dtype if isinstance(times, Tensor) else type(times).__name__
        raise TypeError(f"{name} must be a floating tensor, got {shown}")
    if times.ndim not in (1, 2) or (times.ndim == 2 and times.shape[0] != layout.rows):
        raise ValueError(
            f"{name} has shape {tuple(times.shape)}; pass (k,) for all samples"
            + ("" if layout.shared else f", or ({layout.rows}, k)")
        )
    table = times.detach().to(device=like.device, dtype=like.dtype)
    table = -table if layout.reverse else table
    return table.expand(layout.rows, -1) if table.ndim == 1 else table
