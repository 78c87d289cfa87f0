"""How a layer is solved: plain settings that a configuration file can hold."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from nde.solvers import (
    ODE_METHODS,
    PID,
    SDE_METHODS,
    Backsolve,
    Direct,
    FixedSteps,
    Recompute,
    Reversible,
)
from nde.solvers.adjoint import Adjoint
from nde.solvers.stepper import Stepper

DEFAULT_ODE_METHOD = "tsit5"
DEFAULT_SDE_METHOD = "euler"
ADAPTIVE_SDE_METHOD = "sosri2"
# A tenth of a time axis scaled to length one.
DEFAULT_SDE_STEP = 0.1


AdjointName = Literal["recompute", "direct", "reversible", "backsolve"]
_ADJOINTS: dict[AdjointName, Adjoint] = {
    "recompute": Recompute(),
    "direct": Direct(),
    "reversible": Reversible(),
    "backsolve": Backsolve(),
}


@dataclass(frozen=True)
class SolverSettings:
    """Method, step or tolerances, adjoint and batching of a layer's solves.

    Args:
        method: a name from `nde.solvers.ODE_METHODS` or `SDE_METHODS`; None is "tsit5"
            for an ODE, and what suits the equation for an SDE ("linear_splitting" for
            linear noise, else "euler"; with adaptive steps "sosri2", for
            the plain neural SDE "lamba_em").
        step: fixed step length, in units of the layer's time, or "adaptive". None is
            adaptive steps for an ODE and 0.1 for an SDE.
        rtol: relative tolerance; with fixed steps it only normalises error estimates.
        atol: absolute tolerance, likewise.
        adjoint: "recompute" (memory of the states alone), "direct" (autograd through
            the steps: faster for small models, more memory), for an SDE "reversible"
            (with method "reversible_heun", no states kept), or "backsolve" (no states
            kept, approximate); or an adjoint object of `nde.solvers`, for its options.
        batch: "per_sample" or "shared" steps.
        max_steps: attempted steps per sample.

    Raises:
        ValueError: an unknown adjoint, or a step that is none. Unknown methods and
            impossible combinations are refused by the layer that gets the settings.
    """

    method: str | None = None
    step: float | Literal["adaptive"] | None = None
    rtol: float = 1e-3
    atol: float = 1e-6
    adjoint: AdjointName | Adjoint = "recompute"
    batch: Literal["per_sample", "shared"] = "per_sample"
    max_steps: int = 4096

    def __post_init__(self) -> None:
        named = isinstance(self.adjoint, str) and self.adjoint in _ADJOINTS
        if not named and not isinstance(self.adjoint, Adjoint):
            raise ValueError(
                f"adjoint is {self.adjoint!r}; use {', '.join(map(repr, _ADJOINTS))}, "
                "or an object such as nde.solvers.Recompute()"
            )
        _check_step(self.step)

    def for_ode(self) -> "SolverSettings":
        """The settings with what an ODE layer fills in.

        Raises:
            ValueError: a method that is not for ODEs, or cannot adapt its step and has
                no `step`.
        """
        method = self.method or DEFAULT_ODE_METHOD
        if method not in ODE_METHODS:
            raise ValueError(
                f"method {method!r} does not solve ODEs; use one of "
                f"{', '.join(ODE_METHODS)}"
            )
        step = "adaptive" if self.step is None else self.step
        return _complete(self, method, step, ODE_METHODS)

    def for_sde(
        self,
        default: str = DEFAULT_SDE_METHOD,
        adaptive: str = ADAPTIVE_SDE_METHOD,
    ) -> "SolverSettings":
        """The settings with what an SDE layer fills in, `default` for the method, or
        `adaptive` where steps are.

        Raises:
            ValueError: a method that is not for SDEs, or cannot adapt its step.
        """
        step = DEFAULT_SDE_STEP if self.step is None else self.step
        usual = adaptive if step == "adaptive" else default
        method = self.method or usual
        if method not in SDE_METHODS:
            raise ValueError(
                f"method {method!r} does not solve SDEs; use one of "
                f"{', '.join(SDE_METHODS)}"
            )
        # The noise of layers is diagonal or scalar.
        fits = {name: m for name, m in SDE_METHODS.items() if "diagonal" in m.noises}
        return _complete(self, method, step, fits | {method: SDE_METHODS[method]})

    def controller(self) -> PID | FixedSteps:
        """The step controller: fixed where the step is a number."""
        if self.step is None or self.step == "adaptive":
            return PID(rtol=self.rtol, atol=self.atol)
        return FixedSteps(self.step, rtol=self.rtol, atol=self.atol)

    @property
    def steps(self) -> str:
        """The steps in words."""
        if self.step is None or self.step == "adaptive":
            return f"adaptive steps, rtol={self.rtol:g}, atol={self.atol:g}"
        return f"steps of {self.step:g}"

    def gradients(self) -> Adjoint:
        """The adjoint object."""
        if isinstance(self.adjoint, str):
            return _ADJOINTS[self.adjoint]
        return self.adjoint


def _check_step(step: object) -> None:
    if step is None or step == "adaptive":
        return
    number = isinstance(step, (int, float)) and not isinstance(step, bool)
    if not (number and 0.0 < step < math.inf):  # type: ignore[operator]
        raise ValueError(f"step is {step!r}; use a number > 0, 'adaptive', or None")


def _complete(
    settings: SolverSettings,
    method: str,
    step: float | Literal["adaptive"],
    methods: Mapping[str, Stepper],
) -> SolverSettings:
    if step == "adaptive" and methods[method].error_order is None:
        adaptive = [name for name, m in methods.items() if m.error_order is not None]
        raise ValueError(
            f"method {method!r} cannot choose its step; give step=..., or an "
            f"adaptive method: {', '.join(adaptive)}"
        )
    return replace(settings, method=method, step=step)
