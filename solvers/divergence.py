"""How far the paths of an SDE are from those of another with the same diffusion.

Two hidden columns beside the state, which no noise moves: the integral of |u|^2 / 2
with g u = f - h, and for how long no such u exists. The second is why an infinite
divergence is no failure of the solve, and gradients stay finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nde.solvers.state import Structure
from nde.solvers.term import Field, Layout, SDETerm

# The hidden columns.
COLUMNS = 2


def with_rate(
    drift: Field, prior: Field, diffusion: Field, term: SDETerm, layout: Layout
) -> Field:
    """The drift `(rows, dim)` with the rates of the hidden columns in their place.

    The functions are in engine layout, the drifts those before any conversion.
    """
    seen = layout.structure.visible
    mixing = None if term.matrix else term.mixing

    def both(t: Tensor, y: Tensor) -> Tensor:
        f = layout.to_batch(drift(t, y))[:, :seen]
        h = layout.to_batch(prior(t, y))[:, :seen]
        g = diffusion(t, y)
        g = g[:, :seen] if term.matrix else layout.to_batch(g)[:, :seen]
        if mixing is not None:
            g = g.unsqueeze(2) * mixing.to(g)
        elif term.noise == "scalar":
            g = g.unsqueeze(2)
        rates = _divided(f - h, g) if g.ndim == 2 else _solved(f - h, g)
        return torch.cat([f, *rates], dim=1).reshape(y.shape)

    return both


def given_again(function: Field) -> Field:
    """A function whose value a second call at the same stage gets for nothing.

    That is one with the same tensors, not equal ones, in which a method asks for the
    diffusion that the rate has just taken, or the other way round. What was asked for
    twice is forgotten, and its graph with it.
    """
    kept: tuple[Tensor, Tensor, int, bool, Tensor] | None = None

    def value(t: Tensor, y: Tensor) -> Tensor:
        nonlocal kept
        if y.is_inference():
            # Such tensors count no versions.
            return function(t, y)
        last, kept = kept, None
        state = y._version, torch.is_grad_enabled()
        if last and last[0] is t and last[1] is y and last[2:4] == state:
            return last[4]
        found = function(t, y)
        kept = (t, y, *state, found)
        return found

    return value


def path_kl(structure: Structure, flat: Tensor) -> Tensor | None:
    """The divergence from values `(batch, T, dim)`; None where it is not integrated."""
    if not structure.hidden:
        return None
    value, infinite = flat[..., -COLUMNS:].unbind(-1)
    return torch.where(infinite.detach().abs() > 0.0, torch.inf, value)


def _divided(a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Both rates, `(batch, 1)` each, for noise of one motion per entry."""
    with torch.no_grad():
        square = (a / g).square()
        # 0 / 0 asks for nothing, and what is not a number is to stay so.
        infinite = square.isinf()
        used = ~(infinite | ((a == 0.0) & (g == 0.0)))
    # Twice, or the gradient of what is dropped would be NaN.
    u = torch.where(used, a, 0.0) / torch.where(used, g, 1.0)
    return _rates(u, infinite)


def _solved(a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Both rates for a matrix g `(batch, dim, m)`."""
    with torch.no_grad():
        infinite = (a != 0.0) & (g == 0.0).all(dim=2)
        finite = torch.isfinite(g).all(dim=2).all(dim=1)[:, None, None]
    # A singular value decomposition raises on what is not finite.
    inverse = torch.linalg.pinv(torch.where(finite, g, 0.0))
    inverse = torch.where(finite, inverse, torch.nan)
    return _rates(torch.bmm(inverse, a.unsqueeze(2)).squeeze(2), infinite)


def _rates(u: Tensor, infinite: Tensor) -> tuple[Tensor, Tensor]:
    rate = 0.5 * u.square().sum(dim=1, keepdim=True)
    # A rate so large would overflow within moderate time, which is not a failure.
    over = rate.detach() > math.sqrt(torch.finfo(rate.dtype).max)
    infinite = infinite.any(dim=1, keepdim=True) | over
    return torch.where(over, 0.0, rate), infinite.to(rate.dtype)
