"""A state of any shape, or a tuple of them, as the engine's batch.

The engine's states have a leading batch axis. As the whole state shares its steps here,
any axis serves: a tensor stands as it is, which costs nothing at every evaluation, and
everything else is one sample `(1, n)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from nde.compat.torchdiffeq.failure import InvalidInput

# A tensor, or a tuple of them.
State = Any
Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Packing:
    """How a state stands in the engine.

    `shape` and `dtype` are those of the state, a tuple's members strung together;
    `shapes` those of the members, None for a tensor. `direct` if the tensor stands as
    it is.
    """

    shape: torch.Size
    dtype: torch.dtype
    shapes: tuple[torch.Size, ...] | None
    direct: bool

    def pack(self, state: State) -> Tensor:
        """State to the engine's."""
        if self.shapes is not None:
            state = torch.cat([part.reshape(-1) for part in state])
        whole: Tensor = state
        return whole if self.direct else whole.reshape(1, -1)

    def unpack(self, flat: Tensor, lead: tuple[int, ...] = ()) -> State:
        """The state from `(*lead, n)`, or what has as many entries."""
        if self.shapes is None:
            return flat.view((*lead, *self.shape))
        parts = torch.split(flat.view(*lead, -1), self._sizes, dim=-1)
        return tuple(
            part.view((*lead, *shape))
            for part, shape in zip(parts, self.shapes, strict=True)
        )

    def series(self, ys: Tensor) -> State:
        """The engine's outputs `(batch, T, ...)` to states `(T, ...)`."""
        if self.direct:
            return ys.transpose(0, 1).contiguous()
        return self.unpack(ys[0].contiguous(), (ys.shape[1],))

    def field(self, func: Callable[..., State]) -> Field:
        """A user's function of time and state as the engine calls it."""
        dtype = self.dtype

        def direct(t: Tensor, y: Tensor) -> Tensor:
            value = func(t, y)
            return _cast(value, dtype)  # type: ignore[no-any-return]

        def packed(t: Tensor, y: Tensor) -> Tensor:
            value = func(t, self.unpack(y))
            if self.shapes is not None:
                self._check(value)
                return self.pack(tuple(_cast(part, dtype) for part in value))
            value = _cast(value, dtype)
            if not isinstance(value, Tensor) or value.shape != self.shape:
                shown = tuple(value.shape) if isinstance(value, Tensor) else type(value)
                raise InvalidInput(
                    f"func returned {shown} for a state of shape {tuple(self.shape)}"
                )
            return self.pack(value)

        field = direct if self.direct else packed
        # Where parameters are looked for.
        field.__wrapped__ = func  # type: ignore[attr-defined]
        return field

    def norm(self, norm: Callable[[State], Any]) -> Callable[[Tensor], Tensor]:
        """A norm of states as the engine calls it."""

        def measured(flat: Tensor) -> Tensor:
            size = norm(self.unpack(flat))
            return torch.as_tensor(size, device=flat.device).abs().to(self.real)

        return measured

    def mixed_norm(self, flat: Tensor) -> Tensor:
        """The largest RMS of any member."""
        parts = torch.split(flat.view(-1), self._sizes)
        return torch.stack([_rms(part) for part in parts if part.numel()]).amax()

    def tolerance(self, name: str, value: Any) -> Any:
        """A number or tensor, or for a tuple one for each member, for the engine."""
        if isinstance(value, Tensor):
            if value.requires_grad:
                raise InvalidInput(f"{name} cannot require gradient")
            if value.ndim == 0:
                return float(value)
        elif isinstance(value, Real):
            return float(value)
        if self.shapes is not None:
            return self.pack(self._spread(name, value))
        value = torch.as_tensor(value, dtype=self.real)
        return value if self.direct else value.expand(self.shape).reshape(1, -1)

    def _spread(self, name: str, value: Any) -> tuple[Tensor, ...]:
        assert self.shapes is not None
        parts = tuple(value)
        if len(parts) != len(self.shapes):
            raise InvalidInput(
                f"{name} has {len(parts)} entries for a tuple of {len(self.shapes)}"
            )
        return tuple(
            torch.as_tensor(part, dtype=self.real).expand(shape)
            for part, shape in zip(parts, self.shapes, strict=True)
        )

    def _check(self, value: Any) -> None:
        assert self.shapes is not None
        shapes = tuple(getattr(part, "shape", None) for part in value)
        if shapes != self.shapes:
            raise InvalidInput(
                f"func returned shapes {[_shown(s) for s in shapes]} for a state of "
                f"{[_shown(s) for s in self.shapes]}"
            )

    @cached_property
    def _sizes(self) -> list[int]:
        assert self.shapes is not None
        return [shape.numel() for shape in self.shapes]

    @property
    def real(self) -> torch.dtype:
        """The dtype of time and of norms."""
        return self.dtype.to_real()


def packing_of(y0: State, *, direct: bool) -> Packing:
    """The packing of an initial state; `direct` if a tensor may stand as it is."""
    if isinstance(y0, Tensor):
        plain = direct and y0.ndim > 0
        return Packing(y0.shape, y0.dtype, None, plain)
    if not isinstance(y0, tuple):
        raise InvalidInput(
            f"y0 is a {type(y0).__name__}; give a tensor, or a tuple of tensors"
        )
    flat = torch.cat([part.detach().reshape(-1) for part in y0])
    return Packing(flat.shape, flat.dtype, tuple(part.shape for part in y0), False)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """To the dtype of the state, as under autocast; complex stays what it is."""
    if isinstance(value, Tensor) and value.dtype is not dtype:
        return value.to(dtype) if dtype.is_complex or not value.is_complex() else value
    return value


def _rms(value: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(value)
    return size / math.sqrt(value.numel())


def _shown(shape: Any) -> Any:
    return None if shape is None else tuple(shape)
