"""TayNODE: small high derivatives of the solution, which the solver's error is made of.

Kelly, Bettencourt, Johnson, Duvenaud, *Learning Differential Equations that are Easy to
Solve*, NeurIPS 2020. As in their program, squares are means over the entries of the
state. They weigh order 2 with 3e-4 to 1e-2 and order 3 with 6e-5 to 1e-2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nde.regularizers.integral import second_derivative, third_derivative
from nde.regularizers.weight import Weight, check_weight
from nde.solvers.term import Field


@dataclass(frozen=True)
class TaylorDerivative:
    """int |d^K y / dt^K|^2 / dim dt, the mean over the batch, for K = `order` 2 or 3.

    Time counts: of a field that depends on t, by itself or through a control path, the
    derivative is the total one. Costs for each evaluation of the field one more in
    forward mode for K = 2, and for K = 3 two, one of them in forward mode between two
    reverse passes: a training step of a small network (64-100-64, batch 256) took 5 and
    11 times as long on a CPU.

    Raises TypeError or ValueError for a weight or an order that is none.
    """

    order: Literal[2, 3] = 2
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self.weight)
        if self.order not in (2, 3):
            raise ValueError(f"order must be 2 or 3, got {self.order!r}")

    @property
    def name(self) -> str:
        """`taylor-2` or `taylor-3`."""
        return f"taylor-{self.order}"

    def noise(self, like: Tensor) -> None:
        return None

    def rate(
        self, field: Field, t: Tensor, y: Tensor, slope: Tensor, noise: Tensor | None
    ) -> Tensor:
        derivative = second_derivative if self.order == 2 else third_derivative
        return derivative(field, t, y, slope).square().mean(dim=1)
