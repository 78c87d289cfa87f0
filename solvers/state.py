"""Nested states and the engine's `(batch, dim)` layout, one to the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nde.solvers.transforms import in_every_member

# A tensor `(batch, ...)`, or tuples, named tuples, lists, dicts and ordered dicts of
# states.
State = Any

# Steps shorter than a rounding of the state would be lost, and norms overflow.
_COARSE = (torch.float16, torch.bfloat16, torch.complex32)


@dataclass(frozen=True)
class Leaf:
    """One tensor of the state: shape without the batch axis, and dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """Real numbers per sample."""
        return _numel(self.shape) * (2 if self.dtype.is_complex else 1)


@dataclass(frozen=True)
class Structure:
    """How a state is nested. `flatten` and `unflatten` invert each other.

    The engine's tensor is `(batch, dim)`, real; complex leaves count twice. Its last
    `hidden` columns are the engine's own: the user's functions and results are without
    them, and `flatten` and `columns` fill them with zeros.
    """

    skeleton: Any
    leaves: tuple[Leaf, ...]
    batch: int
    dtype: torch.dtype
    hidden: int = 0

    @cached_property
    def width(self) -> int:
        """Real numbers per sample, hidden ones among them."""
        return self.visible + self.hidden

    @cached_property
    def visible(self) -> int:
        """Real numbers per sample of the user's state."""
        return sum(leaf.width for leaf in self.leaves)

    @cached_property
    def single(self) -> bool:
        """Whether the state is one real tensor, and all that the engine carries."""
        alone = isinstance(self.skeleton, int) and not self.hidden
        return alone and not self.leaves[0].dtype.is_complex

    def flatten(self, state: State, name: str) -> Tensor:
        """State to `(batch, dim)`; ValueError or TypeError naming what differs."""
        tensors: list[Tensor] = []
        self._collect(self.skeleton, state, name, tensors)
        rows = [
            _real(tensor).reshape(self.batch, leaf.width)
            for tensor, leaf in zip(tensors, self.leaves, strict=True)
        ]
        return self._joined(rows)

    def unflatten(self, flat: Tensor, extra: tuple[int, ...] = ()) -> State:
        """`(batch, *extra, dim)` to the state, leaves `(batch, *extra, ...)`."""
        if self.hidden:
            # Functions of one tensor may rely on a state that is contiguous.
            flat = flat[..., : self.visible].contiguous()
        parts = torch.split(flat, [leaf.width for leaf in self.leaves], dim=-1)
        tensors = []
        for leaf, part in zip(self.leaves, parts, strict=True):
            lead = (flat.shape[0], *extra)
            if leaf.dtype.is_complex:
                pairs = part.reshape(*lead, *leaf.shape, 2).contiguous()
                tensors.append(torch.view_as_complex(pairs))
            else:
                tensors.append(part.reshape(*lead, *leaf.shape))
        return _fill(self.skeleton, tensors)

    def columns(self, state: State, count: int, name: str) -> Tensor:
        """A state whose leaves have a last axis more, `(batch, ..., count)`, to
        `(batch, dim, count)`; errors as for `flatten`."""
        if any(leaf.dtype.is_complex for leaf in self.leaves):
            raise TypeError(
                f"{name} cannot be a matrix for a complex state; use diagonal or "
                "scalar noise, or real and imaginary parts as a tuple"
            )
        leaves = tuple(Leaf((*leaf.shape, count), leaf.dtype) for leaf in self.leaves)
        tensors: list[Tensor] = []
        replace(self, leaves=leaves)._collect(self.skeleton, state, name, tensors)
        rows = [
            tensor.reshape(self.batch, leaf.width, count)
            for tensor, leaf in zip(tensors, self.leaves, strict=True)
        ]
        return self._joined(rows)

    def _joined(self, rows: list[Tensor]) -> Tensor:
        if self.hidden:
            first = rows[0]
            rows.append(first.new_zeros(self.batch, self.hidden, *first.shape[2:]))
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def _collect(self, skeleton: Any, state: State, name: str, out: list[Tensor]):  # type: ignore[no-untyped-def]
        if isinstance(skeleton, int):
            leaf = self.leaves[skeleton]
            out.append(_checked(state, leaf, self.batch, name))
            return
        alike = type(state) is type(skeleton) or (
            isinstance(state, dict) and isinstance(skeleton, dict)
        )
        if state is None:
            raise TypeError(f"{name} returned None; is a return statement missing?")
        if not alike or len(state) != len(skeleton):
            raise (ValueError if alike else TypeError)(
                f"{name} returned {_describe(state)} for a state that is "
                f"{_describe(skeleton)}; return the structure of y0"
            )
        if isinstance(skeleton, dict):
            if state.keys() != skeleton.keys():
                raise ValueError(
                    f"{name} returned the keys {list(state)}, "
                    f"the state has {list(skeleton)}"
                )
            for key, part in skeleton.items():
                self._collect(part, state[key], f"{name}[{key!r}]", out)
            return
        for index, (part, value) in enumerate(zip(skeleton, state, strict=True)):
            self._collect(part, value, f"{name}[{index}]", out)


def structure_of(y0: State) -> Structure:
    """The structure of an initial state.

    Raises TypeError if a leaf is no floating or complex tensor or dtypes differ,
    ValueError if a leaf has no batch axis, batch sizes differ, a value is not finite,
    or there is no leaf at all.
    """
    leaves: list[Leaf] = []
    tensors: list[Tensor] = []
    skeleton = _walk(y0, "y0", leaves, tensors)
    if not leaves:
        raise ValueError("y0 is empty: pass at least one tensor")
    sizes = {tensor.shape[0] for tensor in tensors}
    if len(sizes) > 1:
        raise ValueError(
            f"y0's leaves have batch sizes {sorted(sizes)}; the leading axis of every "
            "leaf is the batch and must agree"
        )
    dtypes = {_real(tensor).dtype for tensor in tensors}
    devices = {tensor.device for tensor in tensors}
    if len(dtypes) > 1 or len(devices) > 1:
        raise TypeError(
            f"y0 mixes {sorted(map(str, dtypes | devices))}; cast its leaves to one "
            "precision on one device"
        )
    return Structure(skeleton, tuple(leaves), sizes.pop(), dtypes.pop())


def map_tensors(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to every tensor of a nested state."""
    if isinstance(state, Tensor):
        return function(state)
    return _like(state, [map_tensors(function, value) for value in _values(state)])


def _walk(state: State, name: str, leaves: list[Leaf], tensors: list[Tensor]) -> Any:
    if isinstance(state, Tensor):
        if not (state.is_floating_point() or state.is_complex()):
            raise TypeError(
                f"{name} must be floating, got {state.dtype}; use {name}.float()"
            )
        if state.dtype in _COARSE:
            raise TypeError(
                f"{name} is {state.dtype}, too coarse to add small steps up in: pass "
                f"{name}.float(), and lower the precision inside the field if need be"
            )
        if state.ndim == 0:
            raise ValueError(
                f"{name} has no batch axis; pass a tensor (batch, ...), for one sample "
                f"{name}[None]"
            )
        bad = int((~in_every_member(torch.isfinite(state))).sum())
        if bad:
            kind = "NaN" if bool(torch.isnan(state).any()) else "infinite"
            raise ValueError(
                f"{name} has {bad} {kind} or non-finite of {state.numel()} entries; "
                "clean the initial state before solving"
            )
        leaves.append(Leaf(tuple(state.shape[1:]), state.dtype))
        tensors.append(state)
        return len(leaves) - 1
    if type(state) in (dict, OrderedDict):
        parts = [
            _walk(value, f"{name}[{key!r}]", leaves, tensors)
            for key, value in state.items()
        ]
        return _like(state, parts)
    if type(state) in (tuple, list) or _is_named(state):
        parts = [
            _walk(value, f"{name}[{index}]", leaves, tensors)
            for index, value in enumerate(state)
        ]
        return _like(state, parts)
    fix = "dict(...)" if isinstance(state, dict) else "torch.as_tensor"
    raise TypeError(
        f"{name} must be a torch.Tensor, or a tuple, list or dict of them, got "
        f"{type(state).__name__}; use {fix}"
    )


def _checked(value: object, leaf: Leaf, batch: int, name: str) -> Tensor:
    if value is None:
        raise TypeError(f"{name} returned None; is a return statement missing?")
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} returned {_describe(value)} where a tensor was expected; return "
            "the structure of y0"
        )
    if value.shape != (batch, *leaf.shape):
        raise ValueError(
            f"{name} returned shape {tuple(value.shape)} for a state of shape "
            f"{(batch, *leaf.shape)}; nothing is broadcast, return the state's shape"
        )
    if value.dtype != leaf.dtype:
        raise TypeError(
            f"{name} returned {value.dtype} for a state of {leaf.dtype}; cast its "
            "output or y0"
        )
    return value


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _fill(skeleton: Any, tensors: list[Tensor]) -> State:
    if isinstance(skeleton, int):
        return tensors[skeleton]
    return _like(skeleton, [_fill(part, tensors) for part in _values(skeleton)])


def _values(nest: Any) -> Iterable[Any]:
    return nest.values() if isinstance(nest, dict) else nest


def _like(nest: Any, parts: list[Any]) -> Any:
    """Parts in a container like another, in its order."""
    if isinstance(nest, dict):
        return type(nest)(zip(nest, parts, strict=True))
    return type(nest)(*parts) if _is_named(nest) else type(nest)(parts)


def _is_named(value: object) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, (tuple, list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return "a tensor" if isinstance(value, int) else type(value).__name__


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
