"""Time of actions that take turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Action = Callable[[], object]


def clock(action: Action, device: str) -> float:
    """Seconds of one run: of the processor, or of the clock on a device."""
    if device == "cpu":
        start = time.process_time()
        action()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(
    actions: Mapping[str, Action], rounds: int, device: str
) -> dict[str, float]:
    """Median seconds of each action over rounds of one run each, in their order.

    They are not run before: warm them up where a first run is slower.
    """
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            taken[name].append(clock(action, device))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
