"""Whether a diffusion that was declared additive is a function of time alone.

Methods take it at that word, and leave out what its changes with the state would add:
Ito and Stratonovich equations are solved alike, and with methods of higher order not
even the variance is right.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from nde.solvers.bound import BoundSDE
from nde.solvers.problem import Problem
from nde.solvers.transforms import in_every_member, worst_member
from nde.solvers.trial import on_trial

# How far a diffusion may seem to change, relative to its size, in units of rounding.
_ROUNDING = 1e3


class DependentOnState(ValueError):
    """A diffusion that was declared additive, and depends on the state."""


def check_additive(problem: Problem) -> int:
    """Call an additive diffusion at two states, at one time inside of the interval.

    Returns how often that called it: never where it was not declared additive; a third
    time where it is random, which is let pass. Raises `DependentOnState` where its
    values differ; warns where it raises at the second state.
    """
    term, y0 = problem.term, problem.y0.detach()
    if not (isinstance(term, BoundSDE) and term.noise == "additive" and y0.numel()):
        return 0
    calls = 0

    def noise(state: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        # A copy: the diffusion may return the same tensor at every call.
        return term.g(problem.inner_time, state).clone()

    changes = False
    with on_trial((term.term.diffusion,), y0.device):
        try:
            before = noise(y0.clone())
            after = noise(_elsewhere(y0))
            # One that changes at the same state too is random.
            changes = _differ(before, after) and not _differ(before, noise(y0.clone()))
        except Exception as error:
            # At the initial state the solve will meet it, and tell.
            if calls > 1:
                _warn_unchecked(error)
    if changes:
        size, most = (
            float(worst_member(part.abs().amax())) for part in (before, after - before)
        )
        raise DependentOnState(
            "noise='additive' says that the diffusion depends on t alone, but of size "
            f"{size:.3g} at y0 it changed by up to {most:.3g} at another state and the "
            "same t; methods for additive noise would solve another equation. Declare "
            "noise='general', or noise='diagonal' and return one entry for each of y"
        )
    return calls


def _elsewhere(y: Tensor) -> Tensor:
    """A state at a distance of its own size, `(rows, dim)`, up and down by turns."""
    rows, dim = (torch.arange(n, device=y.device) for n in y.shape)
    up = (rows.unsqueeze(1) + dim) % 2 == 0
    # Different in every entry, so that a diffusion of sums or differences shows too.
    part = torch.linspace(0.5, 1.0, y.shape[1], dtype=y.dtype, device=y.device)
    return y + torch.where(up, part, -part) * (0.5 + y.abs())


def _differ(before: Tensor, after: Tensor) -> bool:
    near = _ROUNDING * torch.finfo(before.dtype).eps * (before.abs() + after.abs())
    # A comparison with NaN is false.
    far = (after - before).abs() > near
    lost = torch.isfinite(before) & ~torch.isfinite(after)
    return not bool(in_every_member(~(far | lost)).all())


def _warn_unchecked(error: Exception) -> None:
    reason = str(error).partition("\n")[0]
    warnings.warn(
        "noise='additive' says that the diffusion depends on t alone, which could not "
        f"be checked: the diffusion raised {type(error).__name__}({reason!r}) at "
        "another state than y0. Let it take any, or declare noise='general'",
        stacklevel=3,
    )
