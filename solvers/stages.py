"""Stage derivatives of one step, and the weighted sums that a tableau takes of them.

Two ways to hold them. `StageBuffer` keeps one `(stages, rows * dim)` buffer, so that a
sum over stages is a single matrix-vector product; it serves where no graph is recorded.
`StageStack` keeps the tensors apart and stacks them for each sum, which autograd can
follow. Both take the same products in the same order, so a replay with a graph repeats
the numbers of the solve exactly.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nde.solvers.tableau import ButcherTableau, TableauTensors, on_device
from nde.solvers.types import Step


class Stages(Protocol):
    """Stage derivatives k_0 .. k_{i-1} of the step in progress."""

    def begin(self, k: Tensor) -> None:
        """Start a step whose first stage derivative is `k (rows, dim)`."""

    def append(self, k: Tensor) -> None:
        """Add the next stage derivative."""

    def input(self, y: Tensor, h: Step, stage: int) -> Tensor:
        """y + h sum_j a[stage][j] k_j."""

    def solution(self, y: Tensor, h: Step) -> Tensor:
        """y + h sum_j b[j] k_j."""

    def error(self, h: Step) -> Tensor:
        """h sum_j b_error[j] k_j."""

    def last(self) -> Tensor:
        """The newest stage derivative, safe to keep beyond the step."""

    def interpolant(self) -> Tensor:
        """Polynomials sum_j dense[j] k_j: `(degree, rows, dim)`."""


class StageBuffer:
    """Stages in one preallocated buffer."""

    def __init__(self, tableau: ButcherTableau, y: Tensor) -> None:
        self._numbers: TableauTensors = on_device(tableau, y.device, y.dtype)
        buffer = y.new_empty((tableau.stages, *y.shape))
        self._shape = y.shape
        self._flat = buffer.view(tableau.stages, -1)
        self._rows = buffer.unbind(0)
        # Contracting over the stage axis as a transposed matrix-vector product reads
        # each stage contiguously.
        self._prefix = [self._flat[:i].t() for i in range(tableau.stages + 1)]
        self._count = 0
        self._base = y
        self._base_row = y[0]

    def begin(self, k: Tensor) -> None:
        self._rows[0].copy_(k)
        self._count = 1

    def append(self, k: Tensor) -> None:
        self._rows[self._count].copy_(k)
        self._count += 1

    def input(self, y: Tensor, h: Step, stage: int) -> Tensor:
        return self._sum(y, h, self._prefix[stage], self._numbers.a[stage - 1])

    def solution(self, y: Tensor, h: Step) -> Tensor:
        return self._sum(y, h, self._prefix[self._count], self._numbers.b)

    def error(self, h: Step) -> Tensor:
        weights = self._numbers.b_error
        assert weights is not None
        return torch.mv(self._prefix[self._count], weights).view(self._shape).mul_(h)

    def last(self) -> Tensor:
        return self._rows[self._count - 1].clone()

    def interpolant(self) -> Tensor:
        return torch.mm(self._numbers.dense, self._flat).view(-1, *self._shape)

    def _sum(self, y: Tensor, h: Step, stages: Tensor, weights: Tensor) -> Tensor:
        if isinstance(h, float):
            # A host-known step means one row; all stages start from the same y.
            if y is not self._base:
                self._base, self._base_row = y, y[0]
            moved = torch.addmv(self._base_row, stages, weights, alpha=h)
            return moved.unsqueeze(0)
        return torch.addcmul(y, h, torch.mv(stages, weights).view(self._shape))


class StageStack:
    """Stages as separate tensors, stacked anew for every sum."""

    def __init__(self, tableau: ButcherTableau) -> None:
        self._tableau = tableau
        self._k: list[Tensor] = []
        self._stacked: Tensor | None = None

    def begin(self, k: Tensor) -> None:
        self._k, self._stacked = [k], None

    def append(self, k: Tensor) -> None:
        self._k.append(k)
        self._stacked = None

    def input(self, y: Tensor, h: Step, stage: int) -> Tensor:
        return self._sum(y, h, self._numbers(y).a[stage - 1])

    def solution(self, y: Tensor, h: Step) -> Tensor:
        return self._sum(y, h, self._numbers(y).b)

    def error(self, h: Step) -> Tensor:
        k = self._k[0]
        weights = self._numbers(k).b_error
        assert weights is not None
        return torch.mv(self._stack().t(), weights).view(k.shape) * h

    def last(self) -> Tensor:
        return self._k[-1]

    def interpolant(self) -> Tensor:
        k = self._k[0]
        return torch.mm(self._numbers(k).dense, self._stack()).view(-1, *k.shape)

    def _numbers(self, y: Tensor) -> TableauTensors:
        return on_device(self._tableau, y.device, y.dtype)

    def _stack(self) -> Tensor:
        if self._stacked is None:
            self._stacked = torch.stack(self._k).view(len(self._k), -1)
        return self._stacked

    def _sum(self, y: Tensor, h: Step, weights: Tensor) -> Tensor:
        stages = self._stack().t()
        if isinstance(h, float):
            return torch.addmv(y[0], stages, weights, alpha=h).unsqueeze(0)
        return torch.addcmul(y, h, torch.mv(stages, weights).view(y.shape))
