"""Methods and their options, as torchdiffeq names them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nde.compat.torchdiffeq.packing import Packing
from nde.solvers import ODE_METHODS, PID
from nde.solvers.tolerances import least_rtol

# Names here -> names in `ODE_METHODS`.
ADAPTIVE: Mapping[str, str] = {
    "dopri8": "dopri8",
    "dopri5": "dopri5",
    "tsit5": "tsit5",
    "bosh3": "bosh3",
    "fehlberg2": "fehlberg2",
    "adaptive_heun": "heun_euler",
}
FIXED: Mapping[str, str] = {
    "euler": "euler",
    "midpoint": "midpoint",
    "heun2": "heun",
    "heun3": "heun3",
    "rk4": "rk4_38",
    "explicit_adams": "explicit_adams",
    "implicit_adams": "implicit_adams",
    "fixed_adams": "implicit_adams",
}
SCIPY = "scipy_solver"
METHODS = (*ADAPTIVE, *FIXED, SCIPY)

# Attempted steps of a solve that gives no limit, and until an event.
MAX_STEPS = 1_000_000
MAX_EVENT_STEPS = 100_000
# Steps of a fixed grid, and until an event on one.
MAX_GRID = 10_000_000
MAX_EVENT_GRID = 20_000

_OF_ADAPTIVE = {
    "min_step",
    "max_step",
    "first_step",
    "step_t",
    "jump_t",
    "safety",
    "ifactor",
    "dfactor",
    "max_num_steps",
    "dtype",
    "norm",
}
_OF_FIXED = {"step_size", "grid_constructor", "interp", "perturb", "norm"}
_OF_ADAMS = {"max_order", "max_iters", "implicit"}
_OF_SCIPY = {"solver", "min_step", "max_step", "norm", "grid_points", "eps"}


def checked(method: object, options: object) -> tuple[str, dict[str, Any]]:
    """The method, by default dopri5, and its options; a warning of any unknown."""
    method = "dopri5" if method is None else method
    if method not in METHODS:
        names = ", ".join(f'"{name}"' for name in METHODS)
        raise ValueError(f"method {method!r} is not known; methods: {names}")
    assert isinstance(method, str)
    given: dict[str, Any] = dict(options or {})  # type: ignore[call-overload]
    known = _OF_SCIPY
    if method in ADAPTIVE:
        known = _OF_ADAPTIVE
    elif method in FIXED:
        known = _OF_FIXED | (_OF_ADAMS if "adams" in method else set())
    unknown = {name: value for name, value in given.items() if name not in known}
    if unknown:
        warnings.warn(f"{method} takes no {unknown}; ignored", stacklevel=4)
    return method, given


def adaptive(
    method: str, options: dict[str, Any], packing: Packing, rtol: Any, atol: Any
) -> PID:
    """The controller of an adaptive method, whose rtol its precision resolves."""
    least = least_rtol(packing.dtype, ODE_METHODS[ADAPTIVE[method]].noise)
    rtol = packing.tolerance("rtol", rtol)
    rtol = rtol.clamp_min(least) if isinstance(rtol, Tensor) else _at_least(rtol, least)
    norm = options.get("norm")
    shortest = float(options.get("min_step", 0.0))
    longest = float(options.get("max_step", math.inf))
    first = options.get("first_step")
    if first is not None:
        first = min(max(float(first), shortest), longest)
    steps, jumps = (_times(name, options.get(name)) for name in ("step_t", "jump_t"))
    if steps is not None and jumps is not None:
        both = torch.cat([steps, jumps.to(steps.device)])
        if len(set(both.tolist())) < both.numel():
            raise ValueError(
                "step_t and jump_t share or repeat a time; give each time once"
            )
    return PID(
        rtol=rtol,
        atol=packing.tolerance("atol", atol),
        safety=float(options.get("safety", 0.9)),
        factor_min=float(options.get("dfactor", 0.2)),
        factor_max=float(options.get("ifactor", 10.0)),
        first_step=first,
        min_step=shortest,
        max_step=longest,
        force_min_step=True,
        step_t=steps,
        jump_t=jumps,
        norm=(
            packing.norm(norm)
            if norm is not None
            else packing.mixed_norm
            if packing.shapes is not None
            else None
        ),
    )


def step_size_of(options: dict[str, Any]) -> float:
    """The step size. Raises ValueError unless it is finite and positive."""
    size = float(options["step_size"])
    if not 0.0 < size < math.inf:
        raise ValueError(f"step_size must be finite and > 0, got {size}")
    return size


def _times(name: str, value: Any) -> Tensor | None:
    if value is None:
        return None
    return torch.as_tensor(value).detach().to(torch.float64).reshape(-1)


def _at_least(value: float, least: float) -> float:
    # Below zero, and NaN, it is refused as it is.
    return least if 0.0 <= value < least else value
