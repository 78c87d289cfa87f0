"""Ends of rejected steps along a Brownian motion, to be landed on later.

A step that is rejected has shown where its end would lie. Never to look there again
would prefer some paths to others, and the solution might converge to that of another
equation: Gaines and Lyons, *Variable step size control in the numerical solution of
stochastic differential equations* (1997); Foster and Jelincic, *On the convergence of
adaptive approximations for SDEs* (2023). So every later step ends at the nearest of
these times, or before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Each end is at most half as far away as the one before, so no more fit in an interval
# of float64.
_DEEPEST = 64


class RejectedEnds:
    """A stack of times for every row, the nearest on top, from `t (rows,)` on."""

    def __init__(self, t: Tensor) -> None:
        # Below the bottom stands a time that is never reached.
        self._times = t.new_full((t.shape[0], _DEEPEST + 1), torch.inf)
        self._height = torch.zeros_like(t, dtype=torch.int64)

    def before(self, goal: Tensor) -> Tensor:
        """The nearest time to land on, `goal` where none is nearer."""
        top = self._times.gather(1, self._height.unsqueeze(1)).squeeze(1)
        return torch.minimum(goal, top)

    def judge(self, end: Tensor, landed: Tensor, accept: Tensor) -> None:
        """Put the ends of rejected steps on the stack; take off those arrived at.

        `landed` where a step ends at a time that was on the stack, or at a stop.
        """
        arrived = accept & landed & (self._height > 0)
        new = ~accept & ~landed
        self._height = self._height + new.long() - arrived.long()
        place = torch.where(new, self._height, 0).unsqueeze(1)
        value = torch.where(new, end, torch.inf).unsqueeze(1)
        self._times = self._times.scatter(1, place, value)
