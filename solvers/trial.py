"""Calls of a user's functions beside those of a solve, which leave no trace.

They are made as if no random numbers had been drawn, and buffers of modules found in
the functions (as those of batch normalisation) are put back. What else functions change
at a call, as counters of their own, stays changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from nde.solvers.reachable import buffers_of
from nde.solvers.transforms import in_every_member


@contextmanager
def on_trial(functions: Sequence[object], device: torch.device) -> Iterator[None]:
    """Without gradients, and without a trace in random numbers and buffers."""
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        kept = [(b, b.clone()) for b in buffers_of(functions)]
        try:
            yield
        finally:
            for buffer, value in kept:
                # Written only where it changed: a graph may hold on to it.
                if not bool(in_every_member(buffer == value).all()):
                    buffer.copy_(value)
