"""How far the rows of a masked loop are, and how each ended."""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.problem import Problem
from nde.solvers.schedule import restarted
from nde.solvers.types import Status

# A step this many units in the last place of t cannot be told from none.
RESOLUTION = 8.0


class Progress:
    """The time of every row, all `(rows,)`.

    Time is kept as what `remaining` of the row's segment: a last step of exactly that
    leaves exactly zero. `fresh` marks rows whose next step begins anew after a jump of
    the field, None without jumps. Nothing here asks the device anything, but for jumps.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._stops = problem, problem.stops
        self._segment = torch.zeros(
            problem.rows, dtype=torch.int64, device=problem.y0.device
        )
        self._begin, self._goal = problem.t0, problem.t1
        self.fresh: Tensor | None = None
        if self._stops is not None:
            self._begin, self._goal = self._stops.begins[:, 0], self._stops.ends[:, 0]
            if self._stops.jumps:
                self.fresh = self._stops.restarts[:, 0]
        self._whole = self.remaining = self._goal - self._begin
        self.t_end = problem.t1.clone()
        self.status = torch.full_like(self._segment, int(Status.SUCCESS))

    def begin(self, y: Tensor, carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The first carry: taken anew in rows that begin at a jump."""
        if self.fresh is None or not carry:
            return carry
        return restarted(self._problem, self._begin, y, carry, self.fresh)

    def enter(self, y: Tensor, carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Let rows that reached a stop enter their next segment; the carry there."""
        stops = self._stops
        if stops is None:
            return carry
        arrived = (self.remaining <= 0) & (self._segment < stops.last)
        self._segment = self._segment + arrived
        column = self._segment.unsqueeze(1)
        self._begin = stops.begins.gather(1, column).squeeze(1)
        self._goal = stops.ends.gather(1, column).squeeze(1)
        self._whole = self._goal - self._begin
        self.remaining = torch.where(arrived, self._whole, self.remaining)
        if self.fresh is None:
            return carry
        again = stops.restarts.gather(1, column).squeeze(1)
        self.fresh = torch.where(arrived, again, self.fresh)
        again = arrived & again
        if carry and bool(again.any()):
            carry = restarted(self._problem, self._begin, y, carry, again)
        return carry

    def next_step(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Start and length of a step of about the length wanted."""
        # Halving what remains, rather than leaving a sliver, costs no step.
        soft = torch.minimum(wanted, 0.5 * self.remaining)
        h = torch.where(wanted < self.remaining, soft, self.remaining)
        t = self._goal - self.remaining
        if self._stops is not None:
            # The difference would round the beginning of a segment away.
            t = torch.where(self.remaining < self._whole, t, self._begin)
        return t, h

    def recovered(
        self, h_next: Tensor, wanted: Tensor, h: Tensor, accept: Tensor
    ) -> Tensor:
        """The next step wanted, where a stop had cut the one before short.

        That says nothing against longer ones after the stop.
        """
        if self._stops is None:
            return h_next
        cut = accept & (h < wanted)
        return torch.where(cut, torch.maximum(h_next, wanted), h_next)

    def advance(self, h: Tensor, accept: Tensor) -> None:
        """Move the rows whose step was accepted."""
        self.remaining = torch.where(accept, self.remaining - h, self.remaining)
        if self.fresh is not None:
            self.fresh = self.fresh & ~accept

    def end(self, rows: Tensor, cause: Status | Tensor) -> None:
        """End rows where they are."""
        why = cause if isinstance(cause, Tensor) else int(cause)
        self.status = torch.where(rows, why, self.status)
        self.t_end = torch.where(rows, self._goal - self.remaining, self.t_end)
        self.remaining = torch.where(rows, 0.0, self.remaining)
        if self._stops is not None:
            self._segment = torch.where(rows, self._stops.last, self._segment)

    def lost(self, h_next: Tensor) -> Tensor:
        """Rows whose next step is lost in the rounding of their time."""
        t = self._goal - self.remaining
        ulp = torch.finfo(t.dtype).eps * torch.maximum(t.abs(), self._problem.t1.abs())
        return (self.remaining > 0) & (h_next <= RESOLUTION * ulp)

    def running(self) -> Tensor:
        """Positive for rows that have a way to go."""
        if self._stops is None:
            return self.remaining
        return self.remaining + (self._stops.last - self._segment)
