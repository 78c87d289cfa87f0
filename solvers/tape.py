"""The tape: what the accepted steps of a solve were.

An *entry* is one accepted step of one row. Entries are ragged, so rows that needed few
steps pay for few; they are sorted by step number, then row. A *slot* is an entry that
keeps its interpolant, because something is read inside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nde.solvers.brownian import BrownianIncrement

# What channels of events whose condition was not finite count down from.
NOT_FINITE = -2


@dataclass(frozen=True)
class Tape:
    """Accepted steps, found without a graph.

    Per entry: `step` its number in its row, `row`, start `t` and length `h` (float64),
    `error`, `stiffness`, `fresh` where it began anew after a jump of the field (None if
    none did); where kept, the state `y (n, dim)` and the `carry` it started from, of
    entries whose step is a multiple of `spacing`. `polynomials (m, 1 + degree, dim)`
    belong to entries `slots (m,)`. Per row: the end state, its carry, the time reached,
    counts and status, and `channel (rows,)` of the event that ended it, -1 without one,
    `NOT_FINITE` less the channel of a condition that was no number.
    `common` if all rows share their times.
    """

    step: Tensor
    row: Tensor
    t: Tensor
    h: Tensor
    fresh: Tensor | None
    error: Tensor
    stiffness: Tensor
    y: Tensor | None
    carry: tuple[Tensor, ...]
    slots: Tensor
    polynomials: Tensor
    y_end: Tensor
    carry_end: tuple[Tensor, ...]
    t_end: Tensor
    accepted: Tensor
    rejected: Tensor
    status: Tensor
    noise: BrownianIncrement | None = None
    common: bool = False
    channel: Tensor | None = None
    spacing: int = 1

    @cached_property
    def steps(self) -> int:
        """Most accepted steps of any row."""
        return int(self.step[-1]) + 1 if self.step.numel() else 0

    @cached_property
    def index(self) -> Tensor:
        """Entry of each step of each row `(steps, rows)`; 0 where there is none."""
        return self.grid(torch.arange(self.step.numel(), device=self.step.device))

    @cached_property
    def _cell(self) -> Tensor:
        """Where each entry stands in a flattened grid."""
        return self.step * self.accepted.shape[0] + self.row

    @cached_property
    def valid(self) -> Tensor:
        """Which steps exist `(steps, rows)`."""
        steps = torch.arange(self.steps, device=self.step.device)
        return steps.unsqueeze(1) < self.accepted.unsqueeze(0)

    @cached_property
    def slot(self) -> Tensor:
        """Position among the slots of each entry; -1 where it has none."""
        slot = torch.full_like(self.step, -1)
        slot[self.slots] = torch.arange(self.slots.numel(), device=slot.device)
        return slot

    @cached_property
    def slot_rows(self) -> tuple[Tensor, ...]:
        """For each step, the rows that own a slot."""
        if not self.slots.numel():
            return (self.row[:0],) * self.steps
        counts = torch.bincount(self.step[self.slots], minlength=self.steps).tolist()
        return tuple(torch.split(self.row[self.slots], counts))

    def grid(self, values: Tensor) -> Tensor:
        """Values per entry `(n,)` as `(steps, rows)`, zero where there is none."""
        rows = self.accepted.shape[0]
        flat = values.new_zeros(self.steps * rows).scatter(0, self._cell, values)
        return flat.view(self.steps, rows)

    @cached_property
    def _shown(self) -> Tensor:
        """Entry whose start each row shows the field in each step `(steps, rows)`.

        That of its last step where it rests, of another row's first one if it has none;
        with common times, of the first row that moves.
        """
        if self.common:
            first = self.valid.long().argmax(dim=1, keepdim=True)
            return torch.where(self.valid, self.index, self.index.gather(1, first))
        last = self.index.gather(0, (self.accepted - 1).clamp_min(0).unsqueeze(0))
        other = self.index[0][(self.accepted > 0).long().argmax()]
        rest = torch.where(self.accepted > 0, last, other)
        return torch.where(self.valid, self.index, rest)

    @cached_property
    def _place(self) -> Tensor:
        """Where among the kept states that of each entry is, or of one before."""
        return (self.step % self.spacing == 0).cumsum(0) - 1

    def detached(self) -> Tape:
        """The same without a graph."""
        return replace(
            self,
            error=self.error.detach(),
            stiffness=self.stiffness.detach(),
            polynomials=self.polynomials.detach(),
            y_end=self.y_end.detach(),
            carry_end=tuple(part.detach() for part in self.carry_end),
        )

    def states(self, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """State and carry that every row shows the field in a step.

        Those kept: of rows that rest they are others if only some steps are kept.
        """
        assert self.y is not None
        entries = self._shown[step]
        if self.spacing > 1:
            entries = self._place[entries]
        return self.y[entries], tuple(kept[entries] for kept in self.carry)
