"""Finding the tensors that a vector field uses.

A custom autograd function passes gradients to its inputs alone, so whatever requires
grad inside the user's functions, parameters of a module or an encoder's output, must be
known before the solve. The first call is watched and every such tensor noted that did
not come out of the call itself; those that only later calls use are searched for in
what the functions hold on to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nde.solvers.reachable import leaves_of


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


@dataclass(frozen=True)
class Captured:
    """The tensors of outside that a term uses, all requiring grad.

    `entangled` if some were computed from others, so that a derivative with respect to
    these would run through the graph between them, and count twice. `chosen` if they
    were named rather than found: others are to get no gradient. The first `used` are
    known to be used, or were named.
    """

    tensors: tuple[Tensor, ...] = ()
    entangled: bool = False
    chosen: bool = False
    used: int = 0

    def completed(self, totals: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients, zero where none came to a tensor that is known to be used."""
        return [
            torch.zeros_like(tensor) if total is None and i < self.used else total
            for i, (tensor, total) in enumerate(zip(self.tensors, totals, strict=True))
        ]

    def replay(self) -> tuple[AbstractContextManager[object], tuple[Tensor, ...]]:
        """A context to call the term in, and what to differentiate with respect to."""
        if not self.entangled:
            return nullcontext(), self.tensors
        leaves = tuple(tensor.detach().requires_grad_() for tensor in self.tensors)
        return _Substitute(self.tensors, leaves), leaves


class _Substitute(TorchFunctionMode):
    """Puts other tensors in the place of some wherever these enter torch."""

    def __init__(self, old: Sequence[Tensor], new: Sequence[Tensor]) -> None:
        super().__init__()
        self._new = {id(o): n for o, n in zip(old, new, strict=True)}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args = [self._put(value) for value in args]
        named = {key: self._put(value) for key, value in (kwargs or {}).items()}
        return func(*args, **named)

    def _put(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._new.get(id(value), value)
        if type(value) in (tuple, list):
            return type(value)(self._put(part) for part in value)
        return value


def captured_tensors(
    call: Callable[[], object], functions: Sequence[object], known: Sequence[Tensor]
) -> Captured:
    """Tensors requiring grad that `call` uses, other than `known`.

    And leaves that can be reached from `functions`, which later calls may use, unless
    what the first call uses was computed from them.
    """
    watch = _Watch(known)
    with torch.enable_grad(), watch:
        call()
    seen = {id(tensor) for tensor in (*watch.found, *known)}
    nodes, leaves = _ancestry(watch.found)
    reached = [
        tensor
        for tensor in leaves_of(functions)
        if id(tensor) not in seen and id(tensor) not in leaves
    ]
    entangled = any(
        id(tensor) in leaves if tensor.is_leaf else tensor.grad_fn in nodes
        for tensor in watch.found
    )
    tensors = (*watch.found, *reached)
    return Captured(tensors, entangled, used=len(watch.found))


def _ancestry(tensors: Sequence[Tensor]) -> tuple[set[Any], set[int]]:
    """Nodes of the graph before these tensors, and ids of the leaves they came from."""
    nodes: set[Any] = set()
    leaves: set[int] = set()
    queue = [
        before
        for tensor in tensors
        if tensor.grad_fn is not None
        for before, _ in tensor.grad_fn.next_functions
    ]
    while queue:
        node = queue.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        queue.extend(before for before, _ in node.next_functions)
    return nodes, leaves


Result = TypeVar("Result")


def stray_leaf(
    call: Callable[[], Result], known: Sequence[Tensor]
) -> tuple[Result, Tensor | None]:
    """What `call` gives, and a leaf requiring grad that it uses besides `known`."""
    watch = _Watch(known)
    with watch:
        result = call()
    return result, next((found for found in watch.found if found.is_leaf), None)
