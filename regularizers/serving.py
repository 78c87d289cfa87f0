"""Whether a solve can serve a regularizer, and how well."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from nde.solvers import Solution
from nde.solvers.extra_step import extra_step, kept_step
from nde.solvers.methods import ODE_METHODS, SDE_METHODS
from nde.solvers.precision import called_in
from nde.solvers.stepper import Stepper
from nde.solvers.transforms import transformed

# Relative tolerances above so many rounding units need no look at errors.
_FAR = 1e3

# Rounding of a state, over the tolerance, that rounding of errors was not seen above:
# it was 0.03 to 1 of it in steps of tanh networks that were no longer than their scale.
_NEAR = 3.0

# Share of an error estimate that rounding may make up unsaid.
_SHARE = 0.3


def require_error(solution: Solution) -> float:
    """The power of h in the error estimate; ValueError without an estimate."""
    stepper = solution.runs[0].problem.stepper
    if stepper.error_order is None:
        raise ValueError(
            f"method {stepper.name!r} has no error estimate to regularize; use "
            + _names(lambda method: method.error_order is not None)
        )
    return stepper.error_order


def require_stiffness(solution: Solution) -> float:
    """The method's stability size; ValueError unless it estimates stiffness."""
    stepper = solution.runs[0].problem.stepper
    if not stepper.has_stiffness or stepper.stability is None:
        raise ValueError(
            f"method {stepper.name!r} has no stiffness estimate (no two stages at "
            "equal time) to regularize; use "
            + _names(lambda method: method.has_stiffness)
        )
    return stepper.stability


def require_recorded(solution: Solution) -> None:
    """ValueError for a solve that recorded no estimates, as another solver did it."""
    if solution.foreign:
        raise ValueError(
            "this solve was done by another solver, which records no estimates to "
            "regularize; use LocalError, LocalStiffness or LocalPredictedSteps"
        )


def check_scale(scale: object) -> None:
    """ValueError unless a known way to treat the scale of errors."""
    if scale not in (None, "attached", "detached"):
        raise ValueError(f"scale must be 'attached', 'detached' or None, got {scale!r}")


def warn_of_rounding(solution: Solution) -> None:
    """One warning if error estimates are mostly rounding, whose gradient is noise.

    Where estimates are near to the rounding of the state over the tolerance, two steps
    in the middle of the solve, or at its start if no states were kept, tell.
    """
    if transformed():
        # What transforms hide cannot be looked at.
        return
    run = solution.runs[-1]
    problem, tape = run.problem, run.outcome.tape
    dtype = called_in(problem.term.term, problem.y0.dtype)
    eps = torch.finfo(dtype).eps
    rtol = problem.tolerances.rtol
    if (isinstance(rtol, float) and rtol >= _FAR * eps) or not tape.error.numel():
        return
    y0 = problem.y0.detach()
    near = problem.tolerances.of((_NEAR * eps) * y0, y0).median()
    # Solves of other solvers have recorded no errors, and may be near.
    if bool(tape.error.median() >= near):
        return
    place = kept_step(run, tape.accepted // 2)
    if place is None:
        t, h = tape.grid(tape.t)[0], tape.grid(tape.h)[0]
        structure = run.layout.structure
        y = structure.unflatten(run.layout.to_batch(y0))
        place = (-t if run.layout.reverse else t), h, y
    t, h, y = place
    with torch.no_grad():
        error, rounding = extra_step(run, t, y, h).rounding(eps)
    # Of several samples that which the others resemble.
    least, share = error.median(), (rounding / error.clamp_min(1e-30)).median()
    if not bool(share > _SHARE):
        return
    name = str(dtype).removeprefix("torch.")
    instead = (
        "solve with a float64 state"
        if dtype == problem.y0.dtype
        else "solve outside of torch.autocast"
    )
    warnings.warn(
        f"about {min(float(share), 1.0):.0%} of the error estimates to regularize "
        f"({float(least):.1e} of the tolerance) is rounding in {name}, so that their "
        f"gradient is noise; raise rtol and atol, or {instead}",
        stacklevel=2,
    )


def _names(fits: Callable[[Stepper], bool]) -> str:
    ode = [name for name, method in ODE_METHODS.items() if fits(method)]
    sde = [f"{name} (SDE)" for name, method in SDE_METHODS.items() if fits(method)]
    return ", ".join([*ode, *sde])
