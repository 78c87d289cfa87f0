"""A second state beside the first makes any explicit Runge-Kutta method reversible."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nde.solvers.arithmetic import clock, later
from nde.solvers.bound import Bound
from nde.solvers.runge_kutta import ExplicitRungeKutta, stage_times
from nde.solvers.stages import StageBuffer, Stages, StageStack
from nde.solvers.tableaus import EXPLICIT
from nde.solvers.types import Increment, Step, StepOut

# How far rounding may grow between two states that the way back is given: e**3.
_GROWTH = 3.0


@dataclass(frozen=True)
class McCallumFoster:
    """An explicit Runge-Kutta method as a step of a pair (y, z) that can be undone.

    y1 = L y0 + (1 - L) z0 + Psi(h; t0, z0) and z1 = z0 - Psi(-h; t1, y1), where y + Psi
    is the method's step from y and L the coupling; z begins as y0, y is the solution.
    With `adjoint=Reversible()` gradients are exact without stored states. Its order is
    that of the method, its estimate of stiffness that of the step from z. A step calls
    f twice as often as there are stages, once less for methods whose last stage is the
    first of the next step. Not read inside its steps: these end at the times of output,
    so `events`, `dense` and `jump_t` are refused.

    Where the equation contracts, y and z come apart: on y' = a y with a < 0, in steps
    longer than -log(L) / |a|, their distance grows as exp(|a| t) from the size of one
    step's error. So the estimate of error is that of the method's step from z, and what
    the step adds to the distance, Psi(h; t0, z0) + Psi(-h; t1, y1), of higher order
    else: adaptive steps become as short as it takes. Steps that are given lead to wrong
    results, with a warning where y and z differ by half of their size. On y' = 1 - y
    over 20 units of time, at rtol=1e-6, tsit5 alone took 27 steps, and with couplings
    of 0.999, 0.99, 0.9 and 0.5 it took 11975, 1425, 162 and 37; on an oscillator, 87
    with any.

    A smaller coupling lets rounding grow by 1 / L in each step of the way back; see
    `Reversible` for what it stores against this. With that, over 20 to 2,000 steps in
    float64 and float32, gradients at 0.9 were at most 6 times less exact than at 0.999
    (4e-16 to 2e-13 and 2e-7 to 7e-4), and up to 17 times more where the field
    contracted, at about a tenth of the error (examples/benchmarks/couplings.py). So 0.9
    is the default. A coupling near 1 stores hardly a state, and keeps oscillators in
    phase for longer on fixed steps.

    McCallum and Foster, *Efficient, accurate and stable gradients for neural ODEs*
    (2024), section 3; the estimate of error is our own.

    Args:
        base: name of an explicit Runge-Kutta method.
        coupling: L, above 0 and at most 1.

    Raises:
        ValueError: another base, or a coupling outside of (0, 1].
    """

    base: str = "tsit5"
    coupling: float = 0.9

    def __post_init__(self) -> None:
        if not isinstance(self.base, str) or self.base not in EXPLICIT:
            near = difflib.get_close_matches(str(self.base), EXPLICIT, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"base must name an explicit Runge-Kutta method, got {self.base!r}"
                f"{hint} (methods: {', '.join(EXPLICIT)})"
            )
        coupling = self.coupling
        number = isinstance(coupling, (int, float)) and not isinstance(coupling, bool)
        if not (number and 0.0 < coupling <= 1.0):
            raise ValueError(
                "coupling must be a number above 0 and at most 1 (0.9 by default; "
                f"less pulls y and z together), got {coupling!r}"
            )

    @cached_property
    def inner(self) -> ExplicitRungeKutta:
        """The method that it makes reversible."""
        return ExplicitRungeKutta(EXPLICIT[self.base])

    @property
    def name(self) -> str:
        return f"mccallum_foster({self.base})"

    @property
    def spacing(self) -> int | None:
        """Steps after which the way back needs a stored pair; None if never.

        Rounding then grows by at most e**3 between two of them.
        """
        if self.coupling == 1.0:
            return None
        return max(1, int(_GROWTH / -math.log(self.coupling)))

    @property
    def error_order(self) -> int | None:
        return self.inner.error_order

    @property
    def has_stiffness(self) -> bool:
        return self.inner.has_stiffness

    @property
    def stability(self) -> float | None:
        # With R the method's stability function, the eigenvalues of a step have product
        # L, and sum 1 + L - (R(-x) - 1) (R(x) - L): stable while R(x) > L, for x < 0.
        return min(self.inner.stability, self.reach) or None

    @property
    def reach(self) -> float:
        """The step, over the rate of contraction, in which y and z stay together."""
        return abs(math.log(self.coupling))

    @property
    def has_interpolant(self) -> bool:
        return False

    @property
    def gains(self) -> tuple[float, float, float]:
        return self.inner.gains

    @property
    def noise(self) -> float:
        b, rounding = self.inner.tableau.b, self.inner.tableau.b_error
        if rounding is None:
            return 0.0
        ahead = math.fsum(abs(x + e) for x, e in zip(b, rounding, strict=True))
        return ahead + math.fsum(map(abs, b))

    @property
    def extra_evaluations(self) -> int:
        return 0

    @property
    def if_apart(self) -> str | None:
        return (
            "they come apart where the equation contracts, in steps longer than "
            f"{self.reach:.1g} over its rate; lower coupling={self.coupling:g}, "
            f"shorten the steps, or use method {self.base!r} with adjoint=Recompute()"
        )

    @property
    def start_evaluations(self) -> int:
        return 1

    def evaluations(self, steps: Tensor) -> Tensor:
        tableau = self.inner.tableau
        return steps * (tableau.stages + tableau.evaluations)

    def interpolant(self, k: Tensor) -> Tensor:
        raise AssertionError("a step of a pair is not read inside")

    def extend(
        self, term: Bound, t: Step, y: Tensor, inc: Increment, stages: Stages | None
    ) -> None:
        pass

    def workspace(self, y: Tensor, graph: bool) -> Stages:
        tableau = self.inner.tableau
        return StageStack(tableau, y) if graph else StageBuffer(tableau, y)

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        # Copies: the field may return the same tensor at every call.
        return term.f(t.to(y.dtype), y).clone(), y.clone()

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        assert stages is not None
        slope, z = carry
        moved, out = self.ahead(term, t, z, inc, slope, stages)
        y1 = self.joined(y, z, moved, inc.dt)
        then = later(t, inc.dt)
        back = self.behind(term, then, y1, inc.dt, stages)
        z1 = z - back
        # The first stage of the next step, whether or not that one will be accepted.
        after = term.f(clock(then, y), z1).clone()
        return StepOut(
            y1=y1,
            error=None if out.error is None else self.error(out.error, moved, back),
            stiffness=out.stiffness,
            carry=(after, z1),
            stages=None,
            error_coarse=out.error_coarse,
        )

    def ahead(
        self,
        term: Bound,
        t: Step,
        z: Tensor,
        inc: Increment,
        slope: Tensor,
        stages: Stages,
    ) -> tuple[Tensor, StepOut]:
        """Psi(h; t, z), and the method's own step from z; `slope` is f there."""
        out = self.inner.step(term, t, z, inc, (slope,), stages)
        return stages.solution(torch.zeros_like(z), inc.dt), out

    def behind(
        self, term: Bound, t: Step, y: Tensor, h: Step, stages: Stages
    ) -> Tensor:
        """Psi(-h; t, y)."""
        tableau, back = self.inner.tableau, -h
        times = stage_times(tableau, t, back, y)
        stages.begin(term.f(times[0], y))
        for i in range(1, tableau.evaluations):
            stages.append(term.f(times[i], stages.input(y, back, i)))
        rest = torch.zeros_like(y)
        if tableau.fsal:
            return stages.input(rest, back, tableau.evaluations)
        return stages.solution(rest, back)

    def error(self, inner: Tensor, moved: Tensor, back: Tensor) -> Tensor:
        """The estimate of the method's step, and what Psi(h) and Psi(-h) add to y - z.

        They cancel to the method's order where the pair stays together.
        """
        return inner + (moved + back)

    def joined(self, y: Tensor, z: Tensor, moved: Tensor, h: Step) -> Tensor:
        """y1 of y0, z0 and Psi(h; t0, z0)."""
        # About z, so that the difference, not the state, is what is rounded.
        y1 = torch.add(z, y - z, alpha=self.coupling) + moved
        if isinstance(h, float):
            return y1 if h else y
        # A row at rest is not pulled together either.
        return torch.where(h > 0.0, y1, y)

    def parted(self, y: Tensor, z: Tensor, moved: Tensor) -> Tensor:
        """y0 of y1, z0 and Psi(h; t0, z0)."""
        return torch.add(z, y - z - moved, alpha=1.0 / self.coupling)
