"""Time and peak memory of a computation."""

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured(Generic[Result]):
    """What a call gave, its seconds (the least of some runs) and its peak in bytes."""

    result: Result
    seconds: float
    peak_bytes: int


def measured(
    call: Callable[[], Result], device: torch.device, *, runs: int = 3
) -> Measured[Result]:
    """Run `call` once for its result and memory, and `runs` times for its time.

    On a CUDA device the peak is that of torch's allocator, elsewhere that of
    `LiveBytes`; both are above what was allocated before. The run that is measured for
    memory is not timed, since counting is slow.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = call()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        with LiveBytes() as live:
            result = call()
        peak = live.peak
    seconds = min(_timed(call, device) for _ in range(runs))
    return Measured(result, seconds, peak)


def _timed(call: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors made inside it and still alive: `now`, and most, `peak`.

    Counts the storages of the results of operations, until they are freed, whoever
    holds them: variables, graphs, or a node's saved tensors. Not what an operation
    needs for itself while it runs, nor tensors that were there before.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            # Seen first as an argument: it was not made in here.
            self._note(leaf, counts=False)
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            self._note(leaf, counts=True)
        return out

    def _note(self, leaf: object, *, counts: bool) -> None:
        if not isinstance(leaf, Tensor) or leaf.layout != torch.strided:
            return
        storage = leaf.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counts else 0

        def freed(_: object) -> None:
            self._known.pop(key, None)
            self.now -= size

        self._known[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)
