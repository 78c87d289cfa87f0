"""Integrals along the solution of an ODE: hidden columns beside the state.

They feed nothing back and are measured by no norm, so that steps and states are those
of the equation alone, while adjoints and reads carry them like the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.state import Structure
from nde.solvers.term import Field, Layout, ODETerm


def with_integrand(term: ODETerm, layout: Layout) -> Field:
    """The vector field `(rows, dim)` with the rates of the hidden columns in place.

    Raises ValueError or TypeError for a rate of another shape or dtype.
    """
    assert term.integrand is not None
    field, integrand = layout.fit(term.f, "f"), term.integrand
    structure = layout.structure
    seen, shape = structure.visible, (structure.batch, integrand.width)

    def flat(t: Tensor, y: Tensor) -> Tensor:
        value = layout.call(term.f, t, structure.unflatten(y))
        return structure.flatten(value, "f")[:, :seen]

    def both(t: Tensor, y: Tensor) -> Tensor:
        slope = layout.to_batch(field(t, y))[:, :seen]
        state = layout.to_batch(y)[:, :seen]
        rate = integrand.rate(flat, layout.clock(t), state, slope)
        if not isinstance(rate, Tensor) or rate.shape != shape:
            got = tuple(rate.shape) if isinstance(rate, Tensor) else type(rate).__name__
            raise ValueError(
                f"rate returned {got}; return a tensor {shape}, the batch and the "
                "width of the integrand"
            )
        if rate.dtype != y.dtype:
            raise TypeError(
                f"rate returned {rate.dtype} for a state of {y.dtype}; cast its output"
            )
        return torch.cat([slope, rate], dim=1).reshape(y.shape)

    return both


def integral_of(structure: Structure, flat: Tensor) -> Tensor:
    """The integrals `(batch, T, width)` in values `(batch, T, dim)`."""
    return flat[..., structure.visible :]
