"""Tolerances: what errors are measured against, as users say it and loops use it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nde.solvers.state import State
from nde.solvers.term import Layout
from nde.solvers.transforms import in_every_member

# One number; a tensor that broadcasts to a state which is one tensor; or the structure
# of the state with numbers or tensors in it.
Tolerance = float | Tensor | State

# From the scaled error, structured like the state, to one number per sample, or one for
# a batch that shares its steps.
Norm = Callable[[State], Tensor]

# Below so many units in the last place a tolerance asks for rounding noise.
_RESOLVED = 4.0


@dataclass(frozen=True)
class Tolerances:
    """Tolerances in engine layout: numbers, or tensors that broadcast to the state.

    `norm` measures a scaled error `(rows, dim)` as `(rows,)`; None is the RMS. `seen`
    picks what of a state is measured, of which tolerances and norm know alone; None is
    all of it. `pairs` if entries are real and imaginary parts, which share the size of
    their number: one of them may be zero where it is not small. `detached` if the scale
    of an error is a constant of its gradient.
    """

    rtol: float | Tensor
    atol: float | Tensor
    norm: Callable[[Tensor], Tensor] | None = None
    pairs: bool = False
    detached: bool = False
    seen: Callable[[Tensor], Tensor] | None = None

    def ratio(self, error: Tensor, y0: Tensor, y1: Tensor) -> Tensor:
        """Norm of error / (atol + rtol max(|y0|, |y1|)) per row: `(rows,)`.

        A step is good enough at 1 or below (Hairer, Norsett, Wanner I, eq. II.4.11).
        """
        size = torch.maximum(y0.abs(), y1.abs())
        return self._measure(error, size.detach() if self.detached else size)

    def of(self, value: Tensor, y: Tensor) -> Tensor:
        """Norm of value / (atol + rtol |y|) per row."""
        return self._measure(value, y.abs())

    def scale(self, size: Tensor, factor: float = 1.0) -> Tensor:
        """factor (atol + rtol size), for a size of what is measured."""
        atol, rtol = self.atol, self.rtol
        if self.pairs:
            parts = size.view(*size.shape[:-1], -1, 2)
            size = torch.linalg.vector_norm(parts, dim=-1).repeat_interleave(2, -1)
        if isinstance(atol, float):
            atol = constant(factor * atol, size)
        else:
            atol = factor * atol
        if isinstance(rtol, float):
            return torch.add(atol, size, alpha=factor * rtol)
        return torch.addcmul(atol, factor * rtol, size)

    def unresolved(self, y: Tensor, floor: float) -> bool:
        """Whether some entry of `y` is to be known better than `floor`, relatively."""
        size = (y if self.seen is None else self.seen(y)).abs()
        resolved = in_every_member(self.scale(size) >= floor * size)
        return not bool(resolved.all())

    def at_least(self, rtol: float) -> Tolerances:
        """With a relative tolerance of at least `rtol`."""
        raised = (
            self.rtol.clamp_min(rtol)
            if isinstance(self.rtol, Tensor)
            else max(self.rtol, rtol)
        )
        return replace(self, rtol=raised)

    def _measure(self, value: Tensor, size: Tensor) -> Tensor:
        if self.seen is not None:
            # Sums of rows that lie apart would be added up in another order.
            value, size = self.seen(value).contiguous(), self.seen(size)
        if self.norm is not None:
            return self.norm(value / self.scale(size))
        # The root of the mean is taken with the scale.
        root = math.sqrt(max(value.shape[-1], 1))
        scaled = value / self.scale(size, root)
        size_of: Tensor = torch.linalg.vector_norm(scaled, dim=-1)
        return size_of


def least_rtol(dtype: torch.dtype, noise: float) -> float:
    """The smallest relative tolerance that a precision resolves.

    `noise` is how much a method's error estimate magnifies the rounding of its stages.
    """
    return _RESOLVED * max(1.0, noise) * torch.finfo(dtype).eps


def check_tolerances(rtol: Tolerance, atol: Tolerance) -> None:
    """Refuse tolerances that no step could meet.

    Raises TypeError or ValueError naming the argument.
    """
    zero = True
    for name, value in (("rtol", rtol), ("atol", atol)):
        for where, part in _parts(name, value):
            low, high = _range(where, part)
            if not low >= 0.0 or math.isinf(high):
                raise ValueError(
                    f"{where} must be finite and >= 0, got {low if low < 0 else part}"
                )
            zero = zero and high == 0.0
    if zero:
        raise ValueError(
            "rtol and atol cannot both be 0: no step would ever be accepted; set "
            "one of them"
        )


def fit_tolerances(
    rtol: Tolerance, atol: Tolerance, norm: Norm | None, layout: Layout, like: Tensor
) -> Tolerances:
    """Tolerances for a state in engine layout, `like (rows, dim)`.

    An absolute tolerance of 0 becomes the least normal number, so that an entry which
    is exactly 0 asks for no division of 0 by 0.

    Raises ValueError if they do not have the structure of the state.
    """
    least = torch.finfo(like.dtype).tiny
    absolute = _fit("atol", atol, layout, like)
    return Tolerances(
        rtol=_fit("rtol", rtol, layout, like),
        atol=(
            absolute.clamp_min(least)
            if isinstance(absolute, Tensor)
            else max(absolute, least)
        ),
        norm=None if norm is None else _engine_norm(norm, layout),
        pairs=all(leaf.dtype.is_complex for leaf in layout.structure.leaves),
        seen=layout.visible if layout.structure.hidden else None,
    )


def constant(value: float, like: Tensor) -> Tensor:
    """A 0-dim tensor on the device and in the dtype of another, made once."""
    return _constant_on(value, like.device, like.dtype)


@lru_cache(maxsize=256)
def _constant_on(value: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device=device)


def _engine_norm(norm: Norm, layout: Layout) -> Callable[[Tensor], Tensor]:
    """A norm of what users see of the scaled error."""

    def measured(scaled: Tensor) -> Tensor:
        samples = scaled.reshape(layout.structure.batch, layout.structure.visible)
        size = norm(layout.structure.unflatten(samples))
        if not isinstance(size, Tensor) or size.numel() != layout.rows:
            shown = tuple(size.shape) if isinstance(size, Tensor) else type(size)
            wanted = "one number" if layout.shared else f"shape ({layout.rows},)"
            raise ValueError(
                f"norm returned {shown}; it must reduce the scaled error to {wanted}"
            )
        return size.reshape(layout.rows)

    return measured


def _fit(name: str, value: Tolerance, layout: Layout, like: Tensor) -> float | Tensor:
    if _is_number(value):
        return float(value)
    structure = layout.structure
    parts: list[Tensor] = []
    _broadcast(name, value, structure.skeleton, layout, like, parts)
    flat = torch.cat(parts, dim=1)
    return flat.reshape(1, -1) if layout.shared else flat


def _broadcast(
    name: str,
    value: Any,
    skeleton: Any,
    layout: Layout,
    like: Tensor,
    out: list[Tensor],
) -> None:
    """Collect `(batch, width)` of every leaf of the state."""
    structure = layout.structure
    if isinstance(skeleton, int):
        leaf = structure.leaves[skeleton]
        shape = (structure.batch, *leaf.shape)
        tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        try:
            spread = tensor.detach().expand(shape)
        except RuntimeError:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, which does not broadcast to "
                f"the state's {shape}"
            ) from None
        if leaf.dtype.is_complex:
            spread = spread.unsqueeze(-1).expand(*shape, 2)
        out.append(spread.reshape(structure.batch, leaf.width))
        return
    if _is_number(value):
        value = (
            dict.fromkeys(skeleton, value)
            if isinstance(skeleton, dict)
            else [value] * len(skeleton)
        )
    if isinstance(skeleton, dict):
        if not isinstance(value, dict) or value.keys() != skeleton.keys():
            raise ValueError(
                f"{name} must be a number or a dict with the keys {list(skeleton)} of "
                f"y0, got {value!r}"
            )
        for key, part in skeleton.items():
            _broadcast(f"{name}[{key!r}]", value[key], part, layout, like, out)
        return
    if not isinstance(value, (tuple, list)) or len(value) != len(skeleton):
        raise ValueError(
            f"{name} must be a number or a {type(skeleton).__name__} of "
            f"{len(skeleton)}, one for each part of y0, got {value!r}"
        )
    for index, (part, entry) in enumerate(zip(skeleton, value, strict=True)):
        _broadcast(f"{name}[{index}]", entry, part, layout, like, out)


def _parts(name: str, value: Any) -> list[tuple[str, float | Tensor]]:
    """Every number and tensor of a tolerance, with what to call it."""
    if isinstance(value, dict):
        items = [(f"{name}[{key!r}]", part) for key, part in value.items()]
    elif isinstance(value, (tuple, list)):
        items = [(f"{name}[{index}]", part) for index, part in enumerate(value)]
    elif _is_number(value) or isinstance(value, Tensor):
        return [(name, value)]
    else:
        raise TypeError(
            f"{name} must be a number, a tensor, or the structure of y0 with these, "
            f"got {type(value).__name__}"
        )
    return [leaf for where, part in items for leaf in _parts(where, part)]


def _range(name: str, value: float | Tensor) -> tuple[float, float]:
    if not isinstance(value, Tensor):
        return float(value), float(value)
    if value.numel() == 0:
        raise ValueError(f"{name} is an empty tensor")
    low, high = float(value.min()), float(value.max())
    return (math.nan, math.nan) if math.isnan(low) else (low, high)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
