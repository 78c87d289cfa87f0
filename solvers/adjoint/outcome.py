"""What every adjoint returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nde.solvers.tape import Tape


@dataclass(frozen=True)
class Outcome:
    """A finished solve in engine layout.

    `tape` holds plain values. `y_end (rows, dim)`, `polynomials (m, 1 + degree, dim)`,
    `error` and `stiffness` `(steps, rows)` carry gradients where these were asked for.
    `evaluations (rows,)`.
    """

    tape: Tape
    y_end: Tensor
    polynomials: Tensor
    error: Tensor
    stiffness: Tensor
    evaluations: Tensor
