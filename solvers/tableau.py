"""Butcher tableau: a method as numbers, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from nde.solvers.types import time_dtype


@dataclass(frozen=True, eq=False)
class ButcherTableau:
    """An explicit Runge-Kutta method.

    `a` holds one row per stage after the first; `b_error` the embedded difference
    b - b_hat, taken directly so that no digits cancel, and `b_error_coarse` that of a
    second, lower embedded solution, for methods that combine the two; `dense[i][j]` the
    coefficient of theta**(j + 1) in the weight of stage i, so
    y(theta) = y + h sum_i b_i(theta) k_i. `extra_c` and `extra_a` are stages that only
    `dense` needs: they follow the others, and are evaluated where a step is read
    inside. `stiffness_pair` two stages at equal time; `stability` the extent of the
    stability region on the negative real axis; `gains` the proportional, integral and
    derivative gain that the method is usually controlled with. Hairer, Norsett, Wanner,
    *Solving ODEs I*, II.4-6.

    Raises ValueError if rows and nodes, weights or the interpolant disagree.
    """

    name: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    dense: tuple[tuple[float, ...], ...]
    dense_order: int
    stability: float
    b_error: tuple[float, ...] | None = None
    error_order: int | None = None
    b_error_coarse: tuple[float, ...] | None = None
    extra_c: tuple[float, ...] = ()
    extra_a: tuple[tuple[float, ...], ...] = ()
    stiffness_pair: tuple[int, int] | None = None
    gains: tuple[float, float, float] = (0.0, 1.0, 0.0)

    def __post_init__(self) -> None:
        s = len(self.c)
        if len(self.a) != s - 1 or len(self.b) != s:
            raise ValueError(f"{self.name}: lengths of a, b, c disagree")
        nodes, rows = (*self.c, *self.extra_c), (*self.a, *self.extra_a)
        if len(rows) != len(nodes) - 1 or len(self.dense) != len(nodes):
            raise ValueError(f"{self.name}: lengths of extra_a, extra_c, dense differ")
        for i, row in enumerate(rows, start=1):
            if len(row) != i or not _close(math.fsum(row), nodes[i]):
                raise ValueError(f"{self.name}: row {i} of a does not sum to c[{i}]")
        if not _close(math.fsum(self.b), 1.0):
            raise ValueError(f"{self.name}: b does not sum to 1")
        ends = (*self.b, *(0.0 for _ in self.extra_c))
        for weight, row in zip(ends, self.dense, strict=True):
            if not _close(math.fsum(row), weight):
                raise ValueError(f"{self.name}: the interpolant does not end in b")
        if (self.b_error is None) != (self.error_order is None):
            raise ValueError(f"{self.name}: b_error and error_order go together")
        for weights in (self.b_error, self.b_error_coarse):
            if weights is None:
                continue
            if len(weights) != s or not _close(math.fsum(weights), 0.0):
                raise ValueError(f"{self.name}: an error row does not sum to 0")
        if self.stiffness_pair is not None:
            i, j = self.stiffness_pair
            if self.c[i] != self.c[j]:
                raise ValueError(f"{self.name}: stages {i}, {j} differ in time")

    @cached_property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.c)

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is the first of the next step."""
        return self.stages > 1 and self.c[-1] == 1.0 and self.a[-1] == self.b[:-1]

    @cached_property
    def noise(self) -> float:
        """How much the error estimate magnifies the rounding of the stages."""
        return math.fsum(map(abs, self.b_error or ()))

    @cached_property
    def bare(self) -> ButcherTableau:
        """The same steps without estimates of error and stiffness."""
        return replace(
            self,
            b_error=None,
            error_order=None,
            b_error_coarse=None,
            stiffness_pair=None,
        )

    @property
    def evaluations(self) -> int:
        """Vector-field calls per attempted step."""
        return self.stages - 1 if self.fsal else self.stages


@dataclass(frozen=True)
class TableauTensors:
    """A tableau on a device.

    Nodes `c (stages, 1)` in the precision of time and `c_state (stages,)` in the dtype
    of the state, one weight vector per combination, and `dense (degree, stages and
    extra stages)`; `a` goes on through the extra stages, whose nodes are `extra_c`.
    """

    c: Tensor
    c_state: Tensor
    extra_c: Tensor
    a: tuple[Tensor, ...]
    b: Tensor
    b_error: Tensor | None
    b_error_coarse: Tensor | None
    dense: Tensor


@lru_cache(maxsize=256)
def on_device(
    tableau: ButcherTableau, device: torch.device, dtype: torch.dtype
) -> TableauTensors:
    """The tableau's numbers as tensors, made once per device and dtype."""

    def tensor(row: object) -> Tensor:
        return torch.tensor(row, dtype=dtype, device=device)

    clock = time_dtype(device)
    # Also when first asked for under inference_mode, the cached tensors must stay
    # usable where gradients are recorded.
    with torch.inference_mode(False):
        return TableauTensors(
            c=torch.tensor(tableau.c, dtype=clock, device=device)[:, None],
            c_state=tensor(tableau.c),
            extra_c=torch.tensor(tableau.extra_c, dtype=clock, device=device),
            a=tuple(tensor(row) for row in (*tableau.a, *tableau.extra_a)),
            b=tensor(tableau.b),
            b_error=None if tableau.b_error is None else tensor(tableau.b_error),
            b_error_coarse=(
                None
                if tableau.b_error_coarse is None
                else tensor(tableau.b_error_coarse)
            ),
            dense=tensor(tableau.dense).t().contiguous(),
        )


def _close(x: float, y: float) -> bool:
    return abs(x - y) <= 1e-12 * (1.0 + abs(y))
