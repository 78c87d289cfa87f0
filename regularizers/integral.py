"""Regularizers that are integrals along the solution of an ODE.

They are solved beside the state and move neither its steps nor its values, with noise
that is fixed over a solve, and with gradients by whatever adjoint the solve has. To
write your own, give a class the members of `IntegralRegularizer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nde.regularizers.weight import Weight
from nde.solvers import Integrand, ODETerm, Solution
from nde.solvers.term import Field, Term
from nde.solvers.transforms import load_forward_mode


@runtime_checkable
class IntegralRegularizer(Protocol):
    """A penalty that is the integral of a rate over the time of a solve."""

    @property
    def name(self) -> str:
        """As it appears in logs and on the command line."""

    @property
    def weight(self) -> Weight:
        """Factor of the penalty in the loss."""

    def noise(self, like: Tensor) -> Tensor | None:
        """Random numbers for one solve of a state `like (batch, dim)`, or None."""

    def rate(
        self, field: Field, t: Tensor, y: Tensor, slope: Tensor, noise: Tensor | None
    ) -> Tensor:
        """What is integrated, `(batch,)`.

        `y (batch, dim)` is the state, all of it in one row for each sample, `slope` its
        derivative, `field(t, y)` the vector field for such states, and `t`, 0-dim or
        `(batch,)`, the time.
        """


@dataclass(frozen=True)
class Integrals:
    """Integrals of one solve, with their noise."""

    regularizers: tuple[IntegralRegularizer, ...]
    noises: tuple[Tensor | None, ...]

    def beside(self, term: Term) -> ODETerm:
        """The term that integrates them too. Raises ValueError for an SDE."""
        if not isinstance(term, ODETerm):
            names = [regularizer.name for regularizer in self.regularizers]
            raise ValueError(
                f"regularizers {names} are integrals along the solution of an ODE, "
                "and this layer solves an SDE; use 'error', 'local-error', 'stiffness' "
                "or 'local-stiffness'"
            )
        return replace(term, integrand=Integrand(self._rates, len(self.regularizers)))

    def penalties(self, solution: Solution) -> dict[str, Tensor]:
        """Each integral over the whole solve, the mean over the batch, by name.

        Time counts as positive also where it runs backward.
        """
        assert solution.integral is not None
        ts = solution.ts.detach()
        sign = (ts[..., -1] - ts[..., 0]).sign().to(solution.integral.dtype)
        values = (solution.integral[:, -1] * sign.unsqueeze(-1)).mean(dim=0)
        names = [regularizer.name for regularizer in self.regularizers]
        return dict(zip(names, values.unbind(0), strict=True))

    def _rates(self, field: Field, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        rates = [
            regularizer.rate(field, t, y, slope, noise)
            for regularizer, noise in zip(self.regularizers, self.noises, strict=True)
        ]
        return torch.stack(rates, dim=1)


def rademacher(like: Tensor) -> Tensor:
    """Signs +1 and -1 with equal chances, from torch's global generator."""
    return torch.empty_like(like).bernoulli_(0.5).mul_(2.0).sub_(1.0)


def jacobian_product(field: Field, t: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """(df/dy) v, `(batch, dim)`, in forward mode: one call of the field."""
    load_forward_mode()
    product: Tensor = torch.func.jvp(lambda z: field(t, z), (y,), (v,))[1]
    return product


def second_derivative(field: Field, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """d^2 y / dt^2 where y' = field(t, y) = slope: df/dt + (df/dy) f, forward mode."""
    load_forward_mode()
    change: Tensor = torch.func.jvp(field, (t, y), (torch.ones_like(t), slope))[1]
    return change


def third_derivative(field: Field, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """d^3 y / dt^3 where y' = field(t, y) = slope.

    By two reverse passes around the forward one, as a product with a Jacobian is the
    derivative of one with its transpose. Not by forward mode inside of forward mode,
    for which torch lacks derivatives (of silu, where no graph is recorded), and which
    takes longer.
    """

    def second(t: Tensor, y: Tensor) -> Tensor:
        return second_derivative(field, t, y, field(t, y))

    with torch.enable_grad():
        transposed = torch.func.vjp(second, t, y)[1]
        product = torch.func.vjp(transposed, torch.zeros_like(y))[1]
        change: Tensor = product((torch.ones_like(t), slope))[0]
    return change if torch.is_grad_enabled() else change.detach()
