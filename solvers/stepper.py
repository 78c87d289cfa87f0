"""What a method is to the loops: capabilities, and one pure step.

To add a family of methods, write a frozen dataclass with these members and enter it in
`methods.py`. A step must be the identity where its length is zero.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from nde.solvers.bound import Bound
from nde.solvers.stages import Stages
from nde.solvers.types import Increment, Step, StepOut


class Stepper(Protocol):
    """A method, which may remember its last steps in its carry."""

    @property
    def name(self) -> str:
        """As users write it."""

    @property
    def error_order(self) -> float | None:
        """Power of h in the error estimate; None without one."""

    @property
    def has_stiffness(self) -> bool:
        """Whether steps estimate stiffness."""

    @property
    def stability(self) -> float | None:
        """Extent of the stability region on the negative real axis, where known."""

    @property
    def has_interpolant(self) -> bool:
        """Whether steps can be read in between."""

    @property
    def gains(self) -> tuple[float, float, float]:
        """Proportional, integral and derivative gain it is usually controlled with."""

    @property
    def noise(self) -> float:
        """How much its error estimate magnifies the rounding of its stages."""

    @property
    def extra_evaluations(self) -> int:
        """Vector-field calls more for a step that is read inside."""

    @property
    def if_apart(self) -> str | None:
        """What parts the state from a second one, which is the last of its carry, and
        what helps then: words for a warning. None without a second state."""

    @property
    def start_evaluations(self) -> int:
        """Vector-field calls before the first step."""

    def evaluations(self, steps: Tensor) -> Tensor:
        """Vector-field calls of so many attempted steps, the first ones of a row."""

    def interpolant(self, k: Tensor) -> Tensor:
        """Polynomials of steps from their stages.

        `k (m, stages, dim)` to `(m, degree, dim)`, as `dense.py` reads them.
        """

    def extend(
        self, term: Bound, t: Step, y: Tensor, inc: Increment, stages: Stages | None
    ) -> None:
        """Add the stages that only the interpolant needs to those of a step."""

    def workspace(self, y: Tensor, graph: bool) -> Stages | None:
        """Where a run of steps keeps its stages; `graph` if autograd records them."""

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """What the first step starts from."""

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        """One step from `y (rows, dim)` at engine time `t`.

        `t` and `inc.dt` are floats together, or `t (rows,)` float64 and
        `inc.dt (rows, 1)` in y's dtype.
        """
