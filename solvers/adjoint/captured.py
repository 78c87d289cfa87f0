"""Finding the tensors that a vector field uses.

A custom autograd function passes gradients to its inputs alone, so whatever requires
grad inside the user's functions, parameters of a module or an encoder's output, must be
known before the solve. The first call is watched and every such tensor noted that did
not come out of the call itself; those that only later calls use are searched for in
what the functions hold on to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

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
        for tensor in _reachable(functions)
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


# Objects looked at in search of tensors: a guard against caches and data sets.
_LOOKS = 10_000

# What every module has: hooks, and its parts, which are walked through anyway.
_OF_MODULES = vars(nn.Module()).keys()

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, ModuleType)


def _reachable(roots: Sequence[object]) -> list[Tensor]:
    """Leaves requiring grad in closures, defaults, attributes and containers.

    Globals count where a function names them. Modules give their parameters.
    """
    found: dict[int, Tensor] = {}
    seen: dict[int, object] = {}
    queue: deque[object] = deque(roots)
    while queue and len(seen) < _LOOKS:
        value = queue.popleft()
        if isinstance(value, _PLAIN) or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, Tensor):
            if value.requires_grad and value.is_leaf:
                found[id(value)] = value
        elif isinstance(value, nn.Module):
            for part in value.modules():
                seen[id(part)] = part
                queue.extend(part.parameters(recurse=False))
                own = vars(part)
                queue.extend(own[name] for name in own.keys() - _OF_MODULES)
        elif isinstance(value, (list, tuple, set, frozenset)):
            queue.extend(value)
        elif isinstance(value, Mapping):
            queue.extend(value.values())
        elif isinstance(value, MethodType):
            queue.extend((value.__self__, value.__func__))
        elif isinstance(value, partial):
            queue.extend((value.func, value.args, value.keywords))
        elif isinstance(value, FunctionType):
            queue.extend(_parts(value))
        else:
            queue.extend(_attributes(value))
    return list(found.values())


def _attributes(value: object) -> Iterator[object]:
    """What an object of some class holds."""
    yield getattr(value, "__dict__", None)
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            yield getattr(value, name, None)
    # What calling it runs may name globals.
    yield type(value).__dict__.get("__call__")


def _parts(function: FunctionType) -> Iterator[object]:
    """What a function holds on to."""
    yield function.__defaults__
    yield function.__kwdefaults__
    for cell in function.__closure__ or ():
        # A cell is empty until its variable is bound.
        with suppress(ValueError):
            yield cell.cell_contents
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes.extend(part for part in code.co_consts if isinstance(part, CodeType))
        for name in code.co_names:
            yield function.__globals__.get(name)
