"""RNODE: paths that are short and straight, for few steps of the solver.

Finlay, Jacobsen, Nurbekyan, Oberman, *How to Train Your Neural ODE: the World of
Jacobian and Kinetic Regularization*, ICML 2020. As in their program, squares are means
over the entries of the state. They weigh both with 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nde.regularizers.integral import jacobian_product, rademacher
from nde.regularizers.weight import Weight, check_weight
from nde.solvers.term import Field


@dataclass(frozen=True)
class KineticEnergy:
    """int |f|^2 / (2 dim) dt, the mean over the batch. Calls the field no more often.

    Raises TypeError or ValueError for a weight that is none.
    """

    weight: Weight = 1.0
    name: str = "kinetic"

    def __post_init__(self) -> None:
        check_weight(self.weight)

    def noise(self, like: Tensor) -> None:
        return None

    def rate(
        self, field: Field, t: Tensor, y: Tensor, slope: Tensor, noise: Tensor | None
    ) -> Tensor:
        return 0.5 * slope.square().mean(dim=1)


@dataclass(frozen=True)
class JacobianNorm:
    """int |J eps|^2 / dim dt, the mean over the batch, with J = df/dy.

    eps are random signs, drawn for each solve and entry, so that the expectation is
    that of the squared Frobenius norm of J over dim (Hutchinson's estimator). The paper
    takes eps^T J, which a normalizing flow needs anyway and whose norm has the same
    expectation; J eps needs no graph, but one call of the field in forward mode. A
    training step of a small network (64-100-64, batch 256) took 5 times as long on a
    CPU.

    Raises TypeError or ValueError for a weight that is none.
    """

    weight: Weight = 1.0
    name: str = "jacobian"

    def __post_init__(self) -> None:
        check_weight(self.weight)

    def noise(self, like: Tensor) -> Tensor:
        return rademacher(like)

    def rate(
        self, field: Field, t: Tensor, y: Tensor, slope: Tensor, noise: Tensor | None
    ) -> Tensor:
        assert noise is not None
        return jacobian_product(field, t, y, noise).square().mean(dim=1)
