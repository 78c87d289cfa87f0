"""How far the rows of a masked loop are, and how each ended."""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.driving import resolution_of
from nde.solvers.problem import Problem
from nde.solvers.rejected import RejectedEnds
from nde.solvers.schedule import restarted
from nde.solvers.types import Status

# A step this many units in the last place of t cannot be told from none.
RESOLUTION = 8.0


def resolution(t: Tensor, far: Tensor) -> Tensor:
    """The shortest step that moves time from `t`, in an interval that reaches `far`.

    Near zero, time is as fine as its rounding, but no finer than that of its rounding.
    """
    eps = torch.finfo(t.dtype).eps
    return RESOLUTION * eps * torch.maximum(t.abs(), eps * far)


class Progress:
    """The time of every row, all `(rows,)`.

    `fresh` marks rows whose next step begins anew after a jump of the field, None
    without jumps. Nothing here asks the device anything, but for jumps.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._stops = problem, problem.stops
        self._segment = torch.zeros(
            problem.rows, dtype=torch.int64, device=problem.y0.device
        )
        self._t, self._goal = problem.t0, problem.t1
        self.fresh: Tensor | None = None
        if self._stops is not None:
            self._t, self._goal = self._stops.begins[:, 0], self._stops.ends[:, 0]
            if self._stops.jumps:
                self.fresh = self._stops.restarts[:, 0]
        self._remaining = self._goal - self._t
        self._end, self._landed = self._goal, self._remaining > 0
        self._rejected = None if problem.noise is None else RejectedEnds(self._t)
        self.t_end = problem.t1.clone()
        self.status = torch.full_like(self._segment, int(Status.SUCCESS))
        self._least = resolution_of(problem)
        self._far = torch.maximum(problem.t0.abs(), problem.t1.abs())

    def begin(self, y: Tensor, carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The first carry: taken anew in rows that begin at a jump."""
        if self.fresh is None or not carry:
            return carry
        return restarted(self._problem, self._t, y, carry, self.fresh)

    def enter(self, y: Tensor, carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Let rows that reached a stop enter their next segment; the carry there."""
        stops = self._stops
        if stops is None:
            return carry
        arrived = (self._remaining <= 0) & (self._segment < stops.last)
        self._segment = self._segment + arrived
        column = self._segment.unsqueeze(1)
        begin = stops.begins.gather(1, column).squeeze(1)
        self._t = torch.where(arrived, begin, self._t)
        self._goal = torch.where(
            arrived, stops.ends.gather(1, column).squeeze(1), self._goal
        )
        self._remaining = self._goal - self._t
        if self.fresh is None:
            return carry
        again = stops.restarts.gather(1, column).squeeze(1)
        self.fresh = torch.where(arrived, again, self.fresh)
        again = arrived & again
        if carry and bool(again.any()):
            carry = restarted(self._problem, begin, y, carry, again)
        return carry

    def next_step(self, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Start, length and end of a step of about the length wanted."""
        goal, rest = self._goal, self._remaining
        if self._rejected is not None:
            goal = self._rejected.before(goal)
            rest = goal - self._t
        # Halving what remains, rather than leaving a sliver, costs no step.
        self._landed = wanted >= rest
        soft = torch.minimum(wanted, 0.5 * rest)
        h = torch.where(self._landed, rest, soft)
        # A last step ends at its goal, however the sum rounds.
        self._end = torch.where(self._landed, goal, self._t + h)
        return self._t, h, self._end

    def recovered(
        self, h_next: Tensor, wanted: Tensor, h: Tensor, accept: Tensor
    ) -> Tensor:
        """The next step wanted, where a stop had cut the one before short.

        That says nothing against longer ones after the stop.
        """
        if self._stops is None and self._rejected is None:
            return h_next
        cut = accept & (h < wanted)
        return torch.where(cut, torch.maximum(h_next, wanted), h_next)

    def advance(self, accept: Tensor) -> None:
        """Move the rows whose step was accepted."""
        self._t = torch.where(accept, self._end, self._t)
        if self._rejected is not None:
            self._rejected.judge(self._end, self._landed, accept)
        self._remaining = self._goal - self._t
        if self.fresh is not None:
            self.fresh = self.fresh & ~accept

    def end(self, rows: Tensor, cause: Status | Tensor) -> None:
        """End rows where they are."""
        why = cause if isinstance(cause, Tensor) else int(cause)
        self.status = torch.where(rows, why, self.status)
        self.t_end = torch.where(rows, self._t, self.t_end)
        self._goal = torch.where(rows, self._t, self._goal)
        self._remaining = torch.where(rows, 0.0, self._remaining)
        if self._stops is not None:
            self._segment = torch.where(rows, self._stops.last, self._segment)

    def lost(self, h_next: Tensor) -> Tensor:
        """Rows whose next step is lost in the rounding of their time, or in what their
        Brownian motion tells apart."""
        short = h_next <= resolution(self._t, self._far)
        if self._rejected is not None:
            short = short | (h_next <= self._least)
        return (self._remaining > 0) & short

    def running(self) -> Tensor:
        """Positive for rows that have a way to go."""
        if self._stops is None:
            return self._remaining
        return self._remaining + (self._stops.last - self._segment)
