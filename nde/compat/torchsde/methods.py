"""Methods as torchsde names them, and which of them fit an SDE."""

from __future__ import annotations

import warnings
from typing import Any

from nde.solvers import SDE_METHODS
from nde.solvers.stochastic import StochasticMethod

METHODS = (
    "euler",
    "milstein",
    "srk",
    "euler_heun",
    "heun",
    "midpoint",
    "log_ode",
    "reversible_heun",
)
# Of `sdeint_adjoint` alone, as its adjoint_method.
ADJOINT_METHOD = "adjoint_reversible_heun"


def chosen_method(
    method: object, noise: str, interpretation: str, options: dict[str, Any] | None
) -> StochasticMethod:
    """The method, by default the one that fits.

    Raises ValueError for one that is unknown, or does not fit; warns of options that
    are unknown.
    """
    if method is None:
        if interpretation == "stratonovich":
            method = "midpoint"
        else:
            method = "euler" if noise == "general" else "srk"
    if method == ADJOINT_METHOD:
        raise ValueError(
            f"{ADJOINT_METHOD} is no method; it is an adjoint_method of sdeint_adjoint"
        )
    if method not in METHODS:
        raise ValueError(
            f"method {method!r} is not known; methods: {', '.join(METHODS)}"
        )
    assert isinstance(method, str)
    given = dict(options or {})
    grad_free = bool(given.pop("grad_free", False)) and method == "milstein"
    if given:
        warnings.warn(f"{method} takes no options {given}; ignored", stacklevel=4)
    found = SDE_METHODS[f"{method}_grad_free" if grad_free else method]
    if _fits(found, noise, interpretation):
        return found
    fitting = [m for m in METHODS if _fits(SDE_METHODS[m], noise, interpretation)]
    shown = f"{method} with grad_free" if grad_free else method
    raise ValueError(
        f"method {shown} is for {' or '.join(found.interpretations)} SDEs with noise "
        f"that is {' or '.join(found.noises)}, but sde_type is {interpretation!r} and "
        f"noise_type {noise!r}; use {', '.join(fitting)}"
    )


def _fits(method: StochasticMethod, noise: str, interpretation: str) -> bool:
    return interpretation in method.interpretations and noise in method.noises
