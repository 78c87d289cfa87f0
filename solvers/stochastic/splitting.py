"""Splitting off noise in proportion to the state, whose flow is known exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import BoundSDE
from nde.solvers.stochastic.method import StochasticMethod, stepped
from nde.solvers.transforms import in_every_member
from nde.solvers.types import Increment, Step, StepOut

# How far a diffusion may be from linear, relative to its size, in units of rounding.
_ROUNDING = 1e3


def _splitting(
    term: BoundSDE, t: Step, y: Tensor, inc: Increment, carry: tuple[Tensor, ...]
) -> StepOut:
    """Half of the noise, the drift over the step, the other half.

    With g = sigma(t) y the noise alone moves y to y exp(sigma W - sigma^2 h / 2) (Ito)
    or y exp(sigma W) (Stratonovich). Both halves take half of W: the halves of the path
    are not asked for, and their difference is of mean zero.
    """
    assert inc.w is not None
    h = inc.dt
    middle = clock(later(t, h * 0.5), y)
    sigma = term.g(middle, torch.ones_like(y))
    grown = term.product(sigma, inc.w)
    if term.interpretation == "ito":
        grown = along(grown, sigma.square(), h * -0.5)
    half = torch.exp(0.5 * grown)
    inside = half * y
    return stepped(half * along(inside, term.f(middle, inside), h))


def _check(term: BoundSDE, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """ValueError unless g(t, y) = g(t, 1) y, entry by entry, at two states."""
    # Different in every entry, so that a diffusion that mixes entries shows.
    ramp = torch.linspace(1.0, 2.0, y.shape[1], dtype=y.dtype, device=y.device)
    sigma = term.g(t, torch.ones_like(y))
    for state in (y + ramp, -2.0 * (y + ramp)):
        want, got = sigma * state, term.g(t, state)
        near = _ROUNDING * torch.finfo(y.dtype).eps * (want.abs() + got.abs())
        # A comparison with NaN is false: what is not finite is another error's.
        far = (got - want).abs() > near
    if not bool(in_every_member(~far).all()):
        raise ValueError(
            "diffusion is not in proportion to y: diffusion(t, y) differs from "
            "diffusion(t, 1) * y, and method 'linear_splitting' is exact only for "
            "noise that is linear in each entry of y; use 'euler' (Ito) or 'heun' "
            "(Stratonovich)"
        )
    return ()


# Strang, *On the construction and comparison of difference schemes* (1968), with Euler
# for the drift. The first noise term that a step misses is h H (f' sigma y - sigma f)
# with H the space-time Levy area: of size h^(3/2) and mean zero, hence strong order 1.
LINEAR_SPLITTING = StochasticMethod(
    name="linear_splitting",
    take=_splitting,
    interpretations=("ito", "stratonovich"),
    noises=("diagonal", "scalar"),
    orders={"diagonal": 1.0, "scalar": 1.0},
    first=_check,
    start_evaluations=3,
)
