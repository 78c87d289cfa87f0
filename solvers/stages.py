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

    def error_coarse(self, h: Step) -> Tensor:
        """h sum_j b_error_coarse[j] k_j."""

    def load(self, k: Tensor) -> None:
        """Take over the stages of a step from what `all` gave."""

    def last(self) -> Tensor:
        """The newest stage derivative, valid until the next step."""

    def stage(self, i: int) -> Tensor:
        """k_i, valid until the next step."""

    def all(self) -> Tensor:
        """Every stage derivative of the step, safe to keep: `(stages, rows, dim)`."""


# A matrix-vector product treats the last few elements of a row apart, and rounds them
# differently. Rows padded to whole blocks have no such rest, so that a sample's numbers
# do not depend on how many others there are.
_BLOCK = 64


class StageBuffer:
    """Stages in one preallocated buffer."""

    def __init__(self, tableau: ButcherTableau, y: Tensor) -> None:
        stages, size = tableau.stages + len(tableau.extra_c), y.numel()
        self._stages = tableau.stages
        self._numbers: TableauTensors = on_device(tableau, y.device, y.dtype)
        self._shape, self._size = y.shape, size
        padded = y.new_zeros((stages, _padded(size)))
        self._buffer = padded[:, :size].view(stages, *y.shape)
        self._rows = self._buffer.unbind(0)
        # Contracting over the stage axis as a transposed matrix-vector product reads
        # each stage contiguously. Views are made when first asked for: a short solve
        # would feel each one.
        self._padded = padded
        self._blocks: dict[int, Tensor] = {}
        self._prefix: dict[int, Tensor] = {}
        self._count = 0
        self._base = y
        self._base_flat = y.view(-1)

    def begin(self, k: Tensor) -> None:
        self._rows[0].copy_(k)
        self._count = 1

    def append(self, k: Tensor) -> None:
        self._rows[self._count].copy_(k)
        self._count += 1

    def input(self, y: Tensor, h: Step, stage: int) -> Tensor:
        return self._sum(y, h, stage, self._numbers.a[stage - 1])

    def solution(self, y: Tensor, h: Step) -> Tensor:
        return self._sum(y, h, self._count, self._numbers.b)

    def error(self, h: Step) -> Tensor:
        weights = self._numbers.b_error
        assert weights is not None
        return self._weighted(self._count, weights).mul_(h)

    def error_coarse(self, h: Step) -> Tensor:
        weights = self._numbers.b_error_coarse
        assert weights is not None
        return self._weighted(self._count, weights).mul_(h)

    def load(self, k: Tensor) -> None:
        self._buffer.copy_(k)
        self._count = self._stages

    def last(self) -> Tensor:
        return self._rows[self._count - 1]

    def stage(self, i: int) -> Tensor:
        return self._rows[i]

    def all(self) -> Tensor:
        return self._buffer.clone(memory_format=torch.contiguous_format)

    def _sum(self, y: Tensor, h: Step, count: int, weights: Tensor) -> Tensor:
        if isinstance(h, float):
            # All stages of a step start from the same y.
            if y is not self._base:
                self._base, self._base_flat = y, y.view(-1)
            stages = self._prefix.get(count)
            if stages is None:
                stages = self._padded[:count, : self._size].t()
                self._prefix[count] = stages
            moved = torch.addmv(self._base_flat, stages, weights, alpha=h)
            return moved.view(self._shape)
        return torch.addcmul(y, h, self._weighted(count, weights))

    def _weighted(self, count: int, weights: Tensor) -> Tensor:
        block = self._blocks.get(count)
        if block is None:
            block = self._blocks[count] = self._padded[:count].t()
        total = torch.mv(block, weights)
        return total[: self._size].view(self._shape)


class StageStack:
    """Stages as separate tensors, stacked anew for every sum."""

    def __init__(self, tableau: ButcherTableau, y: Tensor) -> None:
        self._numbers: TableauTensors = on_device(tableau, y.device, y.dtype)
        self._shape, self._size = y.shape, y.numel()
        self._rest = _padded(self._size) - self._size
        self._k: list[Tensor] = []
        self._flat: list[Tensor] = []
        self._stacked: Tensor | None = None

    def begin(self, k: Tensor) -> None:
        self._k, self._flat = [], []
        self.append(k)

    def append(self, k: Tensor) -> None:
        flat = k.reshape(-1)
        if self._rest:
            flat = torch.nn.functional.pad(flat, (0, self._rest))
        self._k.append(k)
        self._flat.append(flat)
        self._stacked = None

    def input(self, y: Tensor, h: Step, stage: int) -> Tensor:
        return self._sum(y, h, self._numbers.a[stage - 1])

    def solution(self, y: Tensor, h: Step) -> Tensor:
        return self._sum(y, h, self._numbers.b)

    def error(self, h: Step) -> Tensor:
        weights = self._numbers.b_error
        assert weights is not None
        return self._weighted(weights) * h

    def error_coarse(self, h: Step) -> Tensor:
        weights = self._numbers.b_error_coarse
        assert weights is not None
        return self._weighted(weights) * h

    def load(self, k: Tensor) -> None:
        self._k, self._flat = [], []
        for stage in k:
            self.append(stage)

    def last(self) -> Tensor:
        return self._k[-1]

    def stage(self, i: int) -> Tensor:
        return self._k[i]

    def all(self) -> Tensor:
        return torch.stack(self._k)

    def _stack(self) -> Tensor:
        if self._stacked is None:
            self._stacked = torch.stack(self._flat).t()
        return self._stacked

    def _sum(self, y: Tensor, h: Step, weights: Tensor) -> Tensor:
        if isinstance(h, float):
            stages = self._cut(self._stack())
            moved = torch.addmv(y.view(-1), stages, weights, alpha=h)
            return moved.view(self._shape)
        return torch.addcmul(y, h, self._weighted(weights))

    def _weighted(self, weights: Tensor) -> Tensor:
        return self._cut(torch.mv(self._stack(), weights)).view(self._shape)

    def _cut(self, padded: Tensor) -> Tensor:
        # A view of everything would be one more node on the way back.
        return padded[: self._size] if self._rest else padded


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
