"""What a user's functions hold on to: leaves to differentiate by, buffers to keep."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType

from torch import Tensor, nn

# Objects looked at in search of tensors: a guard against caches and data sets.
_LOOKS = 10_000

# What every module has: hooks, and its parts, which are walked through anyway.
_OF_MODULES = vars(nn.Module()).keys()

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, ModuleType)


def leaves_of(roots: Sequence[object]) -> list[Tensor]:
    """Leaves requiring grad that functions hold on to."""
    return [
        value
        for value in _reachable(roots)
        if isinstance(value, Tensor) and value.requires_grad and value.is_leaf
    ]


def buffers_of(roots: Sequence[object]) -> list[Tensor]:
    """Buffers of the modules that functions hold on to."""
    found = {
        id(buffer): buffer
        for value in _reachable(roots)
        if isinstance(value, nn.Module)
        for buffer in value.buffers()
    }
    return list(found.values())


def _reachable(roots: Sequence[object]) -> Iterator[object]:
    """What stands in closures, defaults, attributes and containers, each once.

    Globals count where a function names them. Modules give their parameters.
    """
    seen: dict[int, object] = {}
    queue: deque[object] = deque(roots)
    while queue and len(seen) < _LOOKS:
        value = queue.popleft()
        if isinstance(value, _PLAIN) or id(value) in seen:
            continue
        seen[id(value)] = value
        yield value
        if isinstance(value, Tensor):
            continue
        if isinstance(value, nn.Module):
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
