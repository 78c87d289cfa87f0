"""Standing in for tensors with a history while steps are replayed.

A replay wants gradients to the tensors that a field uses, and none beyond: what lies
behind a computed tensor is for the graph that the solve is a node of. So a field that
uses a weight and something computed from it is replayed on a copy of the latter without
history; else its gradient would reach the weight twice, and walk the same history at
every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def twins_of(
    captured: tuple[Tensor, ...],
) -> tuple[tuple[Tensor, ...], AbstractContextManager[object]]:
    """Leaves to differentiate in, and a context in which functions use them."""
    swapped = {
        id(tensor): tensor.detach().requires_grad_()
        for tensor in captured
        if not tensor.is_leaf
    }
    if not swapped:
        return captured, nullcontext()
    twins = tuple(swapped.get(id(tensor), tensor) for tensor in captured)
    return twins, _Swap(swapped)


class _Swap(TorchFunctionMode):
    """Hands the twin of every tensor that has one to torch."""

    def __init__(self, twins: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._twins = twins

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _AS_IT_IS:
            return func(*args, **(kwargs or {}))
        return func(*self._swap(tuple(args)), **self._swap(dict(kwargs or {})))

    def _swap(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._twins.get(id(value), value)
        if type(value) in (tuple, list):
            return type(value)(self._swap(part) for part in value)
        if type(value) is dict:
            return {key: self._swap(part) for key, part in value.items()}
        return value


# The version by which changes in place are noticed is the original's.
_AS_IT_IS = (torch.Tensor._version.__get__,)  # type: ignore[attr-defined]
