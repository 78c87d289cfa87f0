"""The functions of an SDE, whichever of them it defines, as the solver takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from nde.compat.torchsde.base import check_types
from nde.solvers import SDETerm
from nde.solvers.term import Interpretation, Noise

Function = Callable[[Tensor, Tensor], Tensor]

# Words of `names` -> the method that is called so by default.
ROLES: Mapping[str, str] = {
    "drift": "f",
    "diffusion": "g",
    "prior_drift": "h",
    "diffusion_prod": "g_prod",
    "drift_and_diffusion": "f_and_g",
    "drift_and_diffusion_prod": "f_and_g_prod",
}


@dataclass(frozen=True)
class Equation:
    """dy = drift dt + diffusion dW, `m` motions for each sample.

    `diffusion` gives `(batch, d)` for diagonal noise, else `(batch, d, m)`; `prior` is
    the drift of the equation to compare with.
    """

    drift: Function
    diffusion: Function
    prior: Function | None
    noise: Noise
    interpretation: Interpretation
    m: int

    def term(self) -> SDETerm:
        """As the solver takes it; each call of the diffusion is checked."""
        matrix = self.noise in ("additive", "general")
        diffusion = self.diffusion
        if self.noise == "scalar":

            def one_column(t: Tensor, y: Tensor) -> Tensor:
                g = diffusion(t, y)
                check_shape("the diffusion", g, (*y.shape, 1))
                return g.squeeze(-1)

            return SDETerm(self.drift, one_column, "scalar", self.interpretation)
        return SDETerm(
            self.drift,
            diffusion,
            self.noise,
            self.interpretation,
            self.m if matrix else None,
        )


def equation_of(
    sde: object,
    names: Mapping[str, str] | None,
    t: Tensor,
    y: Tensor,
    given: int | None,
) -> Equation:
    """The equation of an SDE, whose functions are tried once at `t`, `y (batch, d)`.

    `names` renames its methods; `given` are the motions of a sample of the Brownian
    motion that was passed. Raises ValueError or TypeError.
    """
    for name in ("noise_type", "sde_type"):
        if not hasattr(sde, name):
            raise ValueError(f"sde has no attribute {name}; set it, or use SDEIto")
    noise, interpretation = sde.noise_type, sde.sde_type  # type: ignore[attr-defined]
    check_types(noise, interpretation)
    methods = _methods(sde, names)
    batch, d = y.shape
    m = _motions(methods, noise, t, y, given)
    drift, diffusion = _drift(methods, m), _diffusion(methods, noise, m)
    with torch.no_grad():
        shape = (batch, d) if noise == "diagonal" else (batch, d, m)
        check_shape("the diffusion", diffusion(t, y), shape)
        check_shape("the drift", drift(t, y), (batch, d))
    return Equation(
        drift,
        diffusion,
        methods["h"],
        cast(Noise, noise),
        cast(Interpretation, interpretation),
        m,
    )


def check_shape(name: str, value: object, shape: tuple[int, ...]) -> None:
    """Raises TypeError for what is no tensor, ValueError for another shape."""
    if not isinstance(value, Tensor):
        missing = "; is a return statement missing?" if value is None else ""
        raise TypeError(f"{name} returned {type(value).__name__}, no tensor{missing}")
    if tuple(value.shape) != shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, but must have {shape}: (batch, "
            f"state{', noise)' if len(shape) == 3 else ')'}"
        )


def _methods(sde: object, names: Mapping[str, str] | None) -> dict[str, Any]:
    """What the SDE defines, by its name here; None where it does not."""
    names = {} if names is None else names
    unknown = sorted(set(names) - set(ROLES))
    if unknown:
        raise ValueError(f"names has {unknown}; its keys are {', '.join(ROLES)}")
    for role, name in names.items():
        if not hasattr(sde, name):
            raise ValueError(f"names[{role!r}] is {name!r}, which sde does not have")
    return {
        default: getattr(sde, names.get(role, default), None)
        for role, default in ROLES.items()
    }


def _drift(methods: dict[str, Any], m: int) -> Function:
    if methods["f"] is not None:
        return cast(Function, methods["f"])
    both, product = methods["f_and_g"], methods["f_and_g_prod"]
    if both is not None:
        return lambda t, y: _part(both(t, y), 0, "f_and_g")
    if product is None:
        raise ValueError("sde has no drift: define f, f_and_g or f_and_g_prod")
    return lambda t, y: _part(
        product(t, y, y.new_zeros(y.shape[0], m)), 0, "f_and_g_prod"
    )


def _diffusion(methods: dict[str, Any], noise: str, m: int) -> Function:
    """The diffusion; where only its products are defined, from those with units."""
    if methods["g"] is not None:
        return cast(Function, methods["g"])
    both = methods["f_and_g"]
    if both is not None:
        return lambda t, y: _part(both(t, y), 1, "f_and_g")
    product = methods["g_prod"]
    if product is None:
        joint = methods["f_and_g_prod"]

        def product(t: Tensor, y: Tensor, v: Tensor) -> Tensor:
            return _part(joint(t, y, v), 1, "f_and_g_prod")

    def from_products(t: Tensor, y: Tensor) -> Tensor:
        if noise == "diagonal":
            return cast(Tensor, product(t, y, torch.ones_like(y)))
        units = torch.eye(m, dtype=y.dtype, device=y.device)
        columns = []
        for unit in units:
            column = product(t, y, unit.expand(y.shape[0], m))
            check_shape("the product of the diffusion", column, tuple(y.shape))
            columns.append(column)
        return torch.stack(columns, dim=2)

    return from_products


def _motions(
    methods: dict[str, Any], noise: str, t: Tensor, y: Tensor, given: int | None
) -> int:
    """Brownian motions of each sample."""
    batch, d = y.shape
    words = ("g", "f_and_g", "g_prod", "f_and_g_prod")
    if all(methods[word] is None for word in words):
        raise ValueError(f"sde has no diffusion: define one of {', '.join(words)}")
    if noise == "diagonal":
        return d
    if methods["g"] is None and methods["f_and_g"] is None:
        if noise == "scalar":
            return 1
        if given is None:
            raise ValueError(
                "how many Brownian motions there are cannot be told from products of "
                "the diffusion; pass bm, or define g or f_and_g"
            )
        return given
    with torch.no_grad():
        value = _diffusion(methods, noise, 0)(t, y)
    m = value.shape[-1] if isinstance(value, Tensor) and value.ndim == 3 else 1
    check_shape("the diffusion", value, (batch, d, m))
    if noise == "scalar" and m != 1:
        raise ValueError(
            f"noise_type is 'scalar', but the diffusion has {m} channels of noise; use "
            "one, or noise_type 'general'"
        )
    return m


def _part(value: object, index: int, name: str) -> Tensor:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must return two tensors, got {type(value).__name__}")
    return cast(Tensor, value[index])
