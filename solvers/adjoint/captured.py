"""Finding the tensors that a vector field uses.

A custom autograd function passes gradients to its inputs alone, so whatever requires
grad inside the user's functions, parameters of a module or an encoder's output, must be
known before the solve. The first call is watched and every such tensor noted that did
not come out of the call itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Watch(TorchFunctionMode):
    """Notes the tensors that require grad and enter torch from outside."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.found: list[Tensor] = []
        # Holding the tensors keeps their ids from being reused.
        self._made: dict[int, Tensor] = {id(tensor): tensor for tensor in known}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self._visit(args, self._note)
        self._visit(kwargs, self._note)
        out = func(*args, **(kwargs or {}))
        self._visit(out, self._made_here)
        return out

    def _note(self, tensor: Tensor) -> None:
        if tensor.requires_grad and id(tensor) not in self._made:
            self._made[id(tensor)] = tensor
            self.found.append(tensor)

    def _made_here(self, tensor: Tensor) -> None:
        self._made.setdefault(id(tensor), tensor)

    def _visit(self, value: Any, act: Callable[[Tensor], None]) -> None:
        if isinstance(value, Tensor):
            act(value)
        elif isinstance(value, (tuple, list)):
            for part in value:
                self._visit(part, act)
        elif isinstance(value, dict):
            for part in value.values():
                self._visit(part, act)


def captured_tensors(
    call: Callable[[], object], functions: Sequence[object], known: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Tensors requiring grad that `call` uses, other than `known`.

    Parameters of any module among `functions`, also behind `functools.wraps`, count
    even where this call left them out.
    """
    watch = _Watch(known)
    with torch.enable_grad(), watch:
        call()
    seen = {id(tensor) for tensor in (*watch.found, *known)}
    extra = []
    for function in functions:
        if callable(function):
            function = inspect.unwrap(function)
        module = getattr(function, "__self__", function)
        if isinstance(module, nn.Module):
            for parameter in module.parameters():
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    extra.append(parameter)
    return (*watch.found, *extra)
