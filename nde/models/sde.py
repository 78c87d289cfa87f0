"""What the SDE layers share: the choice of form, the Ito and Stratonovich terms.

The stable layers (Langevin, linear noise, geometric) start at an affine map of the
control's first value and let the control enter the drift by its value, not its slope.
Each has two forms. "paper" is the equations as stated, with smooth networks. "runtime"
is what the authors' program computes, for reproducing its numbers: relu, (sin t, cos t)
for time, tanh around drift and diffusion. That tanh takes away what the theory needs (a
diffusion that grows like z, a drift that pulls back with any force): prefer "paper".
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from nde.layers import Drift, RuntimeDrift, RuntimeTimeNoise, TimeNoise
from nde.layers.diffusion import Sigma
from nde.layers.drift import GeometricDrift
from nde.models.settings import ADAPTIVE_SDE_METHOD, SolverSettings
from nde.solvers import SDE_METHODS, SDETerm
from nde.solvers.path import Path
from nde.solvers.term import Interpretation

Form = Literal["paper", "runtime"]
SharedNoise = Literal["diagonal", "scalar"]
Field = Callable[[Tensor, Tensor], Tensor]

# Takes noise in proportion to the state exactly.
LINEAR_METHOD = "linear_splitting"


def check_form(form: object, noise: object) -> None:
    """ValueError unless a known form of the equations and kind of noise."""
    if form not in ("paper", "runtime"):
        raise ValueError(f"form is {form!r}; use 'paper' or 'runtime'")
    if noise not in ("diagonal", "scalar"):
        raise ValueError(f"noise is {noise!r}; use 'diagonal' or 'scalar'")


def make_drift(
    form: Form,
    hidden: int,
    channels: int,
    *,
    width: int,
    layers: int,
    timed: bool,
    bounded: bool,
    geometric: GeometricDrift | None = None,
) -> Drift | RuntimeDrift:
    """The drift network of a form. Raises ValueError for an option of the other."""
    if form == "paper":
        if geometric is not None:
            raise ValueError(
                f"gsde_drift={geometric!r} is a choice of form='runtime'; the paper "
                "form has the drift z * gamma"
            )
        return Drift(
            hidden, channels, width=width, layers=layers, timed=timed, bounded=bounded
        )
    if not bounded:
        raise ValueError("form='runtime' always bounds its drift; use form='paper'")
    return RuntimeDrift(
        hidden, channels, width=width, layers=layers, timed=timed, geometric=geometric
    )


def make_noise(
    form: Form, outputs: int, *, width: int, sigma: Sigma
) -> TimeNoise | RuntimeTimeNoise:
    """sigma(t) of a form. Raises ValueError for an option of the other."""
    if form == "paper":
        return TimeNoise(outputs, width=width, sigma=sigma)
    if sigma != "softplus":
        raise ValueError(f"form='runtime' fixes sigma; sigma={sigma!r} is for 'paper'")
    return RuntimeTimeNoise(outputs, width=width)


def solver_for(
    settings: SolverSettings | None,
    *,
    linear: bool,
    adaptive: str = ADAPTIVE_SDE_METHOD,
) -> SolverSettings:
    """The completed settings of an SDE layer whose noise is linear in z, or is not.

    `adaptive` is the method of adaptive steps.

    Raises ValueError for a method that is not for SDEs, or not for such noise.
    """
    settings = settings or SolverSettings()
    if linear:
        return settings.for_sde(LINEAR_METHOD, adaptive)
    if settings.method == LINEAR_METHOD:
        raise ValueError(
            f"method {LINEAR_METHOD!r} needs noise in proportion to the solved state, "
            "which only LinearNoiseSDE(form='paper') has; use 'euler' or 'heun'"
        )
    return settings.for_sde(adaptive=adaptive)


def interpretation_of(settings: SolverSettings) -> Interpretation:
    """What the method of completed settings converges to."""
    assert settings.method is not None
    return SDE_METHODS[settings.method].interpretations[0]


def controlled_term(
    drift: Callable[[Tensor, Tensor, Tensor], Tensor],
    diffusion: Field,
    half_slope: Field | None,
    path: Path,
    *,
    noise: SharedNoise,
    interpretation: Interpretation,
) -> SDETerm:
    """An Ito SDE with drift(t, z, X(t)), in either interpretation.

    With noise that drives each entry of z by a function of that entry,
    g_i(t, z_i) dW_i or g_i(t, z_i) dW, the Stratonovich drift is the Ito drift less
    `half_slope` = g_i (dg_i/dz_i) / 2; None where g does not depend on z. The same
    holds for diagonal noise g_i(t, z) dW_i, whose other derivatives meet dW_i dW_j = 0.
    """

    def ito(t: Tensor, z: Tensor) -> Tensor:
        return drift(t, z, path.evaluate(t))

    def stratonovich(t: Tensor, z: Tensor) -> Tensor:
        assert half_slope is not None
        return ito(t, z) - half_slope(t, z)

    same = half_slope is None or interpretation == "ito"
    return SDETerm(
        ito if same else stratonovich,
        diffusion,
        noise=noise,
        interpretation=interpretation,
    )


def proportional_noise(form: Form, sigma: Tensor, z: Tensor) -> Tensor:
    """sigma z, or the runtime's tanh of it."""
    return sigma * z if form == "paper" else torch.tanh(sigma * z)


def proportional_half_slope(form: Form, sigma: Tensor, z: Tensor) -> Tensor:
    """g (dg/dz) / 2 of the above: sigma^2 z / 2, or sigma g (1 - g^2) / 2."""
    if form == "paper":
        return 0.5 * sigma**2 * z
    g = torch.tanh(sigma * z)
    return 0.5 * sigma * g * (1 - g * g)
