"""Steps for stochastic differential equations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.stages import Stages
from nde.solvers.term import Bound, BoundSDE, Interpretation
from nde.solvers.types import Increment, Step, StepOut


@dataclass(frozen=True)
class EulerMaruyama:
    """y + f h + g W, for Ito equations: strong order 1/2, 1 for additive noise.

    Kloeden and Platen, *Numerical Solution of SDEs*, eq. 10.2.4.
    """

    name: str = "euler"
    interpretation: Interpretation = "ito"
    error_order: int | None = None
    has_stiffness: bool = False
    stability: float | None = None
    has_interpolant: bool = False
    gains: tuple[float, float, float] = (0.0, 1.0, 0.0)
    noise: float = 0.0
    extra_evaluations: int = 0
    start_evaluations: int = 0

    def evaluations(self, steps: Tensor) -> Tensor:
        return steps

    def interpolant(self, k: Tensor) -> Tensor:
        raise AssertionError("a path of an SDE is not read inside its steps")

    def extend(
        self, term: Bound, t: Step, y: Tensor, inc: Increment, stages: Stages | None
    ) -> None:
        pass

    def workspace(self, y: Tensor, graph: bool) -> Stages | None:
        return None

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return ()

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        assert isinstance(term, BoundSDE) and inc.w is not None
        now = clock(t, y)
        drifted = along(y, term.f(now, y), inc.dt)
        y1 = drifted + term.product(term.g(now, y), inc.w)
        return StepOut(y1=y1, error=None, stiffness=None, carry=(), stages=None)


@dataclass(frozen=True)
class StratonovichHeun:
    """Heun's predictor and corrector, for Stratonovich equations.

    Strong order 1 for diagonal, scalar and additive noise where it commutes, 1/2 else
    (Rumelin 1982). Error estimate: corrector minus predictor.
    """

    name: str = "heun"
    interpretation: Interpretation = "stratonovich"
    error_order: int | None = 1
    has_stiffness: bool = False
    stability: float | None = None
    has_interpolant: bool = False
    gains: tuple[float, float, float] = (0.0, 1.0, 0.0)
    noise: float = 0.0
    extra_evaluations: int = 0
    start_evaluations: int = 0

    def evaluations(self, steps: Tensor) -> Tensor:
        return steps * 2

    def interpolant(self, k: Tensor) -> Tensor:
        raise AssertionError("a path of an SDE is not read inside its steps")

    def extend(
        self, term: Bound, t: Step, y: Tensor, inc: Increment, stages: Stages | None
    ) -> None:
        pass

    def workspace(self, y: Tensor, graph: bool) -> Stages | None:
        return None

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return ()

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        assert isinstance(term, BoundSDE) and inc.w is not None
        h, w = inc.dt, inc.w
        now, then = clock(t, y), clock(later(t, h), y)
        f0, moved0 = term.f(now, y), term.product(term.g(now, y), w)
        predicted = along(y, f0, h) + moved0
        f1, moved1 = term.f(then, predicted), term.product(term.g(then, predicted), w)
        error = along(0.5 * (moved1 - moved0), f1 - f0, 0.5 * h)
        return StepOut(
            y1=predicted + error, error=error, stiffness=None, carry=(), stages=None
        )
