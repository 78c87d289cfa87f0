"""Whose fault a number is that is not finite: the vector field's, or the state's.

The first value of the field that is not finite is held against the field where it was
asked at a state of moderate size, and against the state where that had grown beyond:
|y| > max^(1/4), so that powers and products of the state may overflow with nothing
wrong in the field. Adaptive steps shrink before they give up, so there the state asked
at is the last accepted one.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nde.solvers.bound import Bound, BoundSDE
from nde.solvers.term import Field
from nde.solvers.types import Status


def grown(y: Tensor) -> Tensor:
    """Rows of `y (rows, dim)` beyond moderate size, or not finite."""
    most = math.sqrt(math.sqrt(torch.finfo(y.dtype).max))
    return ~(y.abs() <= most).all(dim=1)


def judged(status: Tensor, y: Tensor) -> Tensor:
    """Statuses of an adaptive solve whose last accepted states are `y (rows, dim)`."""
    lost = status == Status.NON_FINITE_FIELD
    if not bool(lost.any()):
        return status
    return torch.where(lost & grown(y), int(Status.NON_FINITE_STATE), status)


class Blame:
    """Notes the first value of every row that is not finite, and where it was asked.

    `status (rows,)` is `NON_FINITE_FIELD` or `NON_FINITE_STATE` as the rule has it; the
    latter also where every value of the field is finite.
    """

    def __init__(self, rows: int, like: Tensor) -> None:
        self._seen = torch.zeros(rows, dtype=torch.bool, device=like.device)
        self._field = torch.zeros_like(self._seen)

    @property
    def status(self) -> Tensor:
        """Why each row is not finite, if it is not."""
        return torch.where(
            self._field, int(Status.NON_FINITE_FIELD), int(Status.NON_FINITE_STATE)
        )

    def watching(self, term: Bound) -> Bound:
        """A term whose functions are watched."""
        watched = replace(term)
        # They are cached properties: what stands in the instance is what is called.
        vars(watched)["f"] = self._watched(term.f)
        if isinstance(term, BoundSDE):
            vars(watched)["g"] = self._watched(term.g)
        return watched

    def _watched(self, field: Field) -> Field:
        def watched(t: Tensor, y: Tensor) -> Tensor:
            value = field(t, y)
            finite = torch.isfinite(value.reshape(y.shape[0], -1)).all(dim=1)
            self._field = self._field | (~finite & ~self._seen & ~grown(y))
            self._seen = self._seen | ~finite
            return value

        return watched
