"""The Brownian motion over the steps of a loop, gathered for their replay."""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.brownian import BrownianIncrement
from nde.solvers.types import Increment


class Motions:
    """W, H and A of one step after another, as far as there are any.

    `add` only keeps references; `pack` drops those of steps that were rejected.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._steps: list[tuple[Tensor, ...]] = []
        self._shapes: list[torch.Size] = []
        self._chunks: list[tuple[Tensor, ...]] = []

    def add(self, inc: Increment) -> None:
        """What drove one step of all rows."""
        if inc.w is None:
            return
        parts = tuple(x for x in (inc.w, inc.levy, inc.area) if x is not None)
        self._shapes = [part.shape for part in parts]
        self._steps.append(parts)

    def all(self) -> BrownianIncrement | None:
        """Of every step that was added: leading axis `steps`."""
        if not self._steps:
            return None
        columns = zip(*self._steps, strict=True)
        return BrownianIncrement(*(torch.stack(column) for column in columns))

    def pack(self, picked: Tensor) -> None:
        """Keep entries of what was added since the last time, counted step by step."""
        if not (self._steps and self._rows):
            return
        # Where the batch is one row, the motions of its samples are of that row.
        count = len(self._steps) * self._rows
        self._chunks.append(
            tuple(
                torch.stack(part).view(count, -1).index_select(0, picked)
                for part in zip(*self._steps, strict=True)
            )
        )
        self._steps = []

    def finish(
        self, order: Tensor, step: Tensor, row: Tensor
    ) -> BrownianIncrement | None:
        """Of each step of each row, zero where there is none: leading axis `steps`.

        `step`, `row` of the entries as they were packed; `order` sorts them.
        """
        if not self._chunks:
            return None
        steps = int(step[order[-1]]) + 1 if len(order) else 0
        cell = step * self._rows + row
        grids = []
        for chunk in zip(*self._chunks, strict=True):
            values = torch.cat(chunk)
            grid = values.new_zeros(steps * self._rows, values.shape[1])
            grids.append(grid.index_copy_(0, cell, values))
        shaped = zip(grids, self._shapes, strict=True)
        return BrownianIncrement(*(grid.view(steps, *shape) for grid, shape in shaped))
