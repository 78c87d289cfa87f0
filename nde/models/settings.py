"""How a layer is solved: plain settings that a configuration file can hold."""

from dataclasses import dataclass, replace
from typing import Literal

from nde.solvers import (
    ODE_METHODS,
    PID,
    SDE_METHODS,
    Direct,
    FixedSteps,
    Recompute,
)

DEFAULT_ODE_METHOD = "tsit5"
DEFAULT_SDE_METHOD = "euler"
# A tenth of a time axis scaled to length one.
DEFAULT_SDE_STEP = 0.1


@dataclass(frozen=True)
class SolverSettings:
    """Method, step or tolerances, adjoint and batching of a layer's solves.

    Args:
        method: a name from `nde.solvers.ODE_METHODS` or `SDE_METHODS`; None is "tsit5"
            for an ODE, and what suits the equation for an SDE ("linear_splitting" for
            linear noise, else "euler").
        step: fixed step length, in units of the layer's time. None is adaptive steps
            for an ODE and 0.1 for an SDE.
        rtol: relative tolerance; with fixed steps it only normalises error estimates.
        atol: absolute tolerance, likewise.
        adjoint: "recompute" (memory of the states alone) or "direct" (autograd through
            the steps: faster for small models, more memory).
        batch: "per_sample" or "shared" steps.
        max_steps: attempted steps per sample.

    Raises:
        ValueError: an unknown adjoint. Unknown methods and impossible combinations are
            refused by the layer that gets the settings.
    """

    method: str | None = None
    step: float | None = None
    rtol: float = 1e-3
    atol: float = 1e-6
    adjoint: Literal["recompute", "direct"] = "recompute"
    batch: Literal["per_sample", "shared"] = "per_sample"
    max_steps: int = 4096

    def __post_init__(self) -> None:
        if self.adjoint not in ("recompute", "direct"):
            raise ValueError(
                f"adjoint is {self.adjoint!r}; use 'recompute' or 'direct'"
            )

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
        if self.step is None and ODE_METHODS[method].error_order is None:
            raise ValueError(
                f"method {method!r} cannot choose its step; give step=..., or an "
                f"adaptive method such as {DEFAULT_ODE_METHOD!r}"
            )
        return replace(self, method=method)

    def for_sde(self, default: str = DEFAULT_SDE_METHOD) -> "SolverSettings":
        """The settings with what an SDE layer fills in, `default` for the method.

        Raises:
            ValueError: a method that is not for SDEs.
        """
        method = self.method or default
        if method not in SDE_METHODS:
            raise ValueError(
                f"method {method!r} does not solve SDEs; use one of "
                f"{', '.join(SDE_METHODS)}"
            )
        step = DEFAULT_SDE_STEP if self.step is None else self.step
        return replace(self, method=method, step=step)

    def controller(self) -> PID | FixedSteps:
        """The step controller: fixed where there is a `step`."""
        if self.step is None:
            return PID(rtol=self.rtol, atol=self.atol)
        return FixedSteps(self.step, rtol=self.rtol, atol=self.atol)

    def gradients(self) -> Recompute | Direct:
        """The adjoint object."""
        return Recompute() if self.adjoint == "recompute" else Direct()
