"""What every adjoint returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from nde.solvers.tape import Tape


@dataclass(frozen=True)
class Outcome:
    """A finished solve in engine layout.

    `tape` holds plain values. `y_end (rows, dim)`, `polynomials (m, 1 + degree, dim)`,
    `graph` (error and stiffness, `(steps, rows)`) carry gradients where these were
    asked for; `graph` is None where the tape's own values do. `evaluations (rows,)`.
    """

    tape: Tape
    y_end: Tensor
    polynomials: Tensor
    evaluations: Tensor
    graph: tuple[Tensor, Tensor] | None = None

    @cached_property
    def error(self) -> Tensor:
        """Error estimates of the accepted steps: `(steps, rows)`."""
        return self.tape.grid(self.tape.error) if self.graph is None else self.graph[0]

    @cached_property
    def stiffness(self) -> Tensor:
        """Stiffness estimates of the accepted steps: `(steps, rows)`."""
        if self.graph is None:
            return self.tape.grid(self.tape.stiffness)
        return self.graph[1]
