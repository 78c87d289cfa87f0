"""Counting what a solve launches: kernels, views, and reads by the host."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Calls that make the host wait for the device.
SYNCS = {
    "aten._local_scalar_dense",
    "aten.item",
    "aten.is_nonzero",
    "aten.nonzero",
    "aten.masked_select",
    "aten.equal",
    "aten._unique2",
    "aten.unique_dim",
    "aten.unique_consecutive",
}
ALLOCATIONS = {
    "aten.empty",
    "aten.empty_like",
    "aten.new_empty",
    "aten.empty_strided",
    "aten.new_empty_strided",
    "aten.lift_fresh",
    "aten.resize_",
    "aten.set_",
}


class Launches(TorchDispatchMode):
    """Counts calls that reach the dispatcher, but for those inside `field`."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.views: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()
        self.field_calls = 0
        self._inside = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._inside:
            return out
        name = str(func.overloadpacket)
        if name in SYNCS or (name.startswith("aten.index") and _by_mask(args)):
            self.syncs[name] += 1
        if name in ALLOCATIONS or name in ("aten._local_scalar_dense", "aten.item"):
            return out
        if _is_view(func):
            self.views[name] += 1
        else:
            self.kernels[name] += 1
        return out

    def field(
        self, f: Callable[[Tensor, Tensor], Tensor]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """`f`, whose own calls are not counted."""

        def uncounted(t: Tensor, y: Tensor) -> Tensor:
            self.field_calls += 1
            with self._paused():
                return f(t, y)

        return uncounted

    @contextmanager
    def _paused(self) -> Iterator[None]:
        self._inside = True
        try:
            yield
        finally:
            self._inside = False


def _is_view(func: Any) -> bool:
    """Whether every result only looks at an argument's memory, or nothing results."""
    returns = func._schema.returns
    return bool(returns) and all(
        r.alias_info is not None and not r.alias_info.is_write for r in returns
    )


def _by_mask(args: Any) -> bool:
    """Whether an indexing call is given a boolean mask, whose size the host needs."""
    if len(args) < 2 or not isinstance(args[1], (list, tuple)):
        return False
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1])
