"""`extra`: what the reversible Heun method carries from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic import StochasticMethod
from nde.solvers.types import Increment, Step, StepOut

NAME = "reversible_heun"


@dataclass
class Carried:
    """Slopes f and g and the second state of a reversible Heun solve.

    `begin` are those that it sets out with, f and state `(batch, d)` and g as the
    diffusion returns it, None for its own; `end` the last ones, in the engine's layout.
    """

    begin: tuple[Tensor, ...] | None
    end: tuple[Tensor, ...] = field(default=())

    def on(self, method: StochasticMethod) -> StochasticMethod:
        """The method, whose carry begins and ends here."""
        first, take = method.first, method.take
        assert first is not None

        def begun(term: BoundSDE, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            if self.begin is None:
                self.end = first(term, t, y)
            else:
                f, g, z = self.begin
                flat = g.reshape(len(y), -1)
                self.end = f.reshape(y.shape), flat, z.reshape(y.shape)
            return self.end

        def taken(
            term: BoundSDE,
            t: Step,
            y: Tensor,
            inc: Increment,
            carry: tuple[Tensor, ...],
        ) -> StepOut:
            out = take(term, t, y, inc, carry)
            self.end = out.carry
            return out

        return replace(method, first=begun, take=taken)


def carried(
    method: StochasticMethod,
    given: Sequence[Tensor] | None,
    y0: Tensor,
    g_shape: tuple[int, ...],
) -> Carried | None:
    """Where a method carries something, with what is given of it.

    Raises ValueError for what it does not carry, or has another shape.
    """
    state = None if given is None else tuple(given)
    if method.name != NAME:
        if state:
            raise ValueError(
                f"extra_solver_state is given, but method {method.name} carries none; "
                f"only {NAME} does"
            )
        return None
    if state is None:
        return Carried(None)
    wanted = (tuple(y0.shape), g_shape, tuple(y0.shape))
    shapes = tuple(
        tuple(part.shape) if isinstance(part, Tensor) else None for part in state
    )
    if shapes != wanted:
        raise ValueError(
            f"extra_solver_state has shapes {shapes}, but must be f, g and z of shapes "
            f"{wanted}"
        )
    return Carried(tuple(part.to(y0) for part in state))
