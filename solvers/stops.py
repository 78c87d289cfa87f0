"""Stops: times inside the interval that a solve lands on.

They cut a row's interval into segments. At a jump of the field the segment before ends
early by what rounding may add to the times of a step's stages, and the next begins one
unit in the last place late, so that neither side sees the other's values.
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
    reads: Tensor | None = None,
) -> Stops | None:
    """The stops that a controller asks for between `t0` and `t1` `(rows,)`.

    `gap` is the precision in which the field sees time; None leaves no gap at jumps.
    `reads (rows, k)` are further times to land on.
    Raises TypeError or ValueError if the times do not fit. None without any.
    """
    jump = engine_times("jump_t", controller.jump_t, layout, t0)
    plain = engine_times("step_t", controller.step_t, layout, t0)
    if reads is not None:
        plain = torch.cat([plain, reads], dim=1)
    if not jump.shape[1] + plain.shape[1]:
        return None
    start, end = t0.unsqueeze(1), t1.unsqueeze(1)
    first, last = start, end
    if gap is not None:
        # Of times that the field cannot tell apart, a jump is the one that counts.
        seen = jump.to(gap)
        if jump.shape[1]:
            same = (plain.to(gap).unsqueeze(2) == seen.unsqueeze(1)).any(dim=2)
            plain = plain.masked_fill(same, torch.nan)
        at_start, at_end = seen == start.to(gap), seen == end.to(gap)
        jump = jump.masked_fill(at_start | at_end, torch.nan)
        moves = t1 > t0
        early, _ = _around(end, start, gap)
        _, late = _around(start, start, gap)
        first = torch.where((at_start.any(1) & moves).unsqueeze(1), late, start)
        last = torch.where((at_end.any(1) & moves).unsqueeze(1), early, end)
    times = torch.cat([jump, plain], dim=1)
    jumps = torch.zeros_like(times, dtype=torch.bool)
    jumps[:, : jump.shape[1]] = True
    inside = (times > start) & (times < end)
    times, order = times.masked_fill(~inside, torch.inf).sort(dim=1, stable=True)
    again = torch.zeros_like(inside)
    again[:, 1:] = times[:, 1:] == times[:, :-1]
    keep = torch.isfinite(times) & ~again
    rank = torch.where(keep, 0, 1).argsort(dim=1, stable=True)
    times, keep, order = (x.gather(1, rank) for x in (times, keep, order))
    jumps = jumps.gather(1, order) & keep
    ends, begins = times, times
    if gap is not None:
        before, after = _around(times, start, gap)
        ends = torch.where(jumps, before, times)
        begins = torch.where(jumps, after, times)
    begins = torch.cat([first, torch.where(keep, begins, last)], dim=1)
    ends = torch.cat([torch.where(keep, ends, last), last], dim=1)
    return Stops(
        begins=begins,
        # Between jumps that are all but equal there is nothing.
        ends=torch.maximum(ends, begins),
        restarts=torch.cat([first > start, jumps], dim=1),
        last=keep.sum(dim=1),
    )


def _around(times: Tensor, start: Tensor, gap: torch.dtype) -> tuple[Tensor, Tensor]:
    """Where to stop before times and to go on after them.

    A stage of a step from t over h <= time - t is at the sum of two rounded numbers,
    rounded; `start` is the least t.
    """
    seen = times.to(gap)
    far = torch.full_like(seen, torch.inf)
    reach = times.abs() + times + 2.0 * (-start).clamp_min(0.0)
    rounding = 0.5 * torch.finfo(gap).eps * reach
    before = torch.nextafter((seen.to(times.dtype) - rounding).to(gap), -far)
    after = torch.nextafter(seen, far)
    return before.to(times.dtype), after.to(times.dtype)


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
