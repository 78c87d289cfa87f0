"""What a stochastic method is: one step as a function, and what it declares.

To add a method, write its step and declare it in one of the files beside this one, and
enter it in `__init__.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nde.solvers.arithmetic import clock, later
from nde.solvers.bound import Bound, BoundSDE
from nde.solvers.brownian.increment import Levy
from nde.solvers.stages import Stages
from nde.solvers.term import Interpretation, Noise
from nde.solvers.types import Increment, Step, StepOut

# (term, t, y, increment, carry) to the step taken. The identity where its length is
# zero, and so W, H and A are.
Take = Callable[[BoundSDE, Step, Tensor, Increment, tuple[Tensor, ...]], StepOut]
# (term, t, y) to the carry of the first step, each part `(rows, ...)`.
Start = Callable[[BoundSDE, Tensor, Tensor], tuple[Tensor, ...]]

ITO: tuple[Interpretation, ...] = ("ito",)
STRATONOVICH: tuple[Interpretation, ...] = ("stratonovich",)
EVERY: tuple[Noise, ...] = ("diagonal", "scalar", "additive", "general")
COMMUTATIVE: tuple[Noise, ...] = ("diagonal", "scalar", "additive")
ADDITIVE: tuple[Noise, ...] = ("additive",)


@dataclass(frozen=True, kw_only=True)
class StochasticMethod:
    """A method for SDEs.

    `take` is its step. `interpretations` and `noises` say which equations it solves;
    `levy` what it asks of the Brownian motion, for the noises in `levy_noises` (all by
    default). `drift_evaluations` and `diffusion_evaluations` are the most that one step
    makes with noise that commutes, a derivative counted as one; with general noise
    `milstein` and `log_ode` take a derivative for each Brownian motion. `orders` gives
    its strong order per kind of noise, of a diagonal diffusion one whose entries depend
    each on its own entry of the state; else it is 0.5. `error_order` is the power of h
    in its error estimate where noise commutes, None without one; `gains` are those of
    its controller. The steps of the interpretations in `own_noise` are adapted only
    where each entry of a diagonal diffusion depends on its own entry of the state.
    `adapting` is its step where steps are adapted, if its error estimate is another
    there, for the noises in `adapting_noises`, with so many calls of drift and
    diffusion more as `adapting_calls` says. `reads_between`: whether a shorter step
    from the same state reads the path inside of one; not where steps carry a second
    state, of which `if_apart` tells what parts it from the first.
    """

    name: str
    take: Take
    interpretations: tuple[Interpretation, ...]
    noises: tuple[Noise, ...]
    orders: dict[Noise, float]
    levy: Levy = "none"
    levy_noises: tuple[Noise, ...] = EVERY
    drift_evaluations: int = 1
    diffusion_evaluations: int = 1
    error_order: float | None = None
    own_noise: tuple[Interpretation, ...] = ()
    adapting: Take | None = None
    adapting_noises: tuple[Noise, ...] = EVERY
    adapting_calls: tuple[int, int] = (1, 0)
    reads_between: bool = True
    has_stiffness: bool = False
    stability: float | None = None
    first: Start | None = None
    if_apart: str | None = None
    start_evaluations: int = 0
    gains: tuple[float, float, float] = (0.1, 0.3, 0.0)
    has_interpolant: bool = False
    noise: float = 0.0
    extra_evaluations: int = 0

    def adapted(self, noise: Noise) -> StochasticMethod:
        """The method as it is where steps are adapted, for a kind of noise."""
        method = self
        if noise == "additive" and self.error_order is not None:
            # The drift sees the noise, but the noise does not see itself.
            method = replace(method, error_order=max(self.error_order, 1.5))
        if self.adapting is None or noise not in self.adapting_noises:
            return method
        drift, diffusion = self.adapting_calls
        return replace(
            method,
            take=self.adapting,
            adapting=None,
            drift_evaluations=self.drift_evaluations + drift,
            diffusion_evaluations=self.diffusion_evaluations + diffusion,
        )

    def asks(self, noise: Noise) -> Levy:
        """What it needs of the Brownian motion for a kind of noise."""
        return self.levy if noise in self.levy_noises else "none"

    def evaluations(self, steps: Tensor) -> Tensor:
        """Calls of the drift, or of the diffusion where these are more."""
        return steps * max(self.drift_evaluations, self.diffusion_evaluations)

    def interpolant(self, k: Tensor) -> Tensor:
        raise AssertionError("a path of an SDE is no polynomial inside its steps")

    def extend(
        self, term: Bound, t: Step, y: Tensor, inc: Increment, stages: Stages | None
    ) -> None:
        pass

    def workspace(self, y: Tensor, graph: bool) -> Stages | None:
        return None

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        assert isinstance(term, BoundSDE)
        return () if self.first is None else self.first(term, t.to(y.dtype), y)

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        assert isinstance(term, BoundSDE)
        return self.take(term, t, y, inc, carry)


def stepped(
    y1: Tensor,
    error: Tensor | None = None,
    stiffness: Tensor | None = None,
    carry: tuple[Tensor, ...] = (),
) -> StepOut:
    """What a step of a stochastic method gives."""
    return StepOut(y1=y1, error=error, stiffness=stiffness, carry=carry, stages=None)


def root(h: Step) -> Step:
    """The square root of a step, positive where the step is zero."""
    if isinstance(h, float):
        return math.sqrt(h) or math.sqrt(torch.finfo(torch.float32).tiny)
    return h.clamp_min(torch.finfo(torch.float32).tiny).sqrt()


def stage_time(t: Step, h: Step, node: float, y: Tensor) -> Tensor:
    """Engine time t + node h as the field takes it."""
    return clock(later(t, h * node), y)


def started_by_drift(term: BoundSDE, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The carry of methods that hand the drift at the end of a step to the next."""
    return (term.f(t, y),)


def weighted(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i weights_i parts_i, at least one weight not zero."""
    pairs = [(p, w) for p, w in zip(parts, weights, strict=True) if w]
    (first, weight), *rest = pairs
    total = first if weight == 1.0 else first * weight
    for part, weight in rest:
        total = torch.add(total, part, alpha=weight)
    return total


def shifted(
    y: Tensor, parts: Sequence[Tensor], weights: Sequence[float], h: Step
) -> Tensor:
    """y + h sum_i weights_i parts_i."""
    if not any(weights):
        return y
    if not isinstance(h, float):
        return torch.addcmul(y, h, weighted(parts, weights))
    for part, weight in zip(parts, weights, strict=True):
        if weight:
            y = torch.add(y, part, alpha=h * weight)
    return y
