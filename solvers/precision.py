"""Solves under autocast: fields in low precision, everything else in the state's.

What autocast does to single operations would spoil a solve, whose small steps must add
up: sums over stages, interpolants, and noise are matrix products too. So it is off
within a solve, and on again within the user's functions.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nde.solvers.state import State, map_tensors
from nde.solvers.term import Function, ODETerm, Term

_LOW = (torch.bfloat16, torch.float16)


def asked_for(device: torch.device) -> torch.dtype | None:
    """The dtype of the autocast region that this code runs in; None outside of any."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind):
        return None
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def own(device: torch.device) -> AbstractContextManager[object]:
    """A context in which operations have the precision of their arguments."""
    if asked_for(device) is None:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def raised(state: State) -> State:
    """An initial state that came out of an autocast region, in float32.

    Outside of such regions, and for other dtypes, the state itself.
    """
    return map_tensors(_raised, state) if _nested(state) else state


def _raised(leaf: Tensor) -> Tensor:
    low = leaf.dtype in _LOW and asked_for(leaf.device) is not None
    return leaf.float() if low else leaf


def _nested(state: object) -> bool:
    """Whether it can be walked through: anything else is refused later, by name."""
    if isinstance(state, (dict, tuple, list)):
        parts = state.values() if isinstance(state, dict) else state
        return all(_nested(part) for part in parts)
    return isinstance(state, Tensor)


@dataclass(frozen=True)
class Lowered:
    """A function run under autocast to `dtype`, whose value is raised again.

    Also in a backward pass that calls it again, wherever that is run. Without the cache
    of autocast: weights that are cast while no graph is recorded would be found there
    later, and get no gradient.
    """

    function: Function
    device: str
    dtype: torch.dtype
    wide: torch.dtype

    def __call__(self, t: Tensor, y: State, *args: Any) -> State:
        with torch.autocast(self.device, dtype=self.dtype, cache_enabled=False):
            value = self.function(t, y, *args)
        return map_tensors(self._raised, value) if _nested(value) else value

    def _raised(self, leaf: Tensor) -> Tensor:
        return leaf.to(self.wide) if leaf.dtype == self.dtype else leaf


def called_in(term: Term, wide: torch.dtype) -> torch.dtype:
    """The precision in which a term's function is called, for a state of `wide`."""
    function = term.f if isinstance(term, ODETerm) else term.drift
    return function.dtype if isinstance(function, Lowered) else wide


def lowered(term: Term, device: torch.device, wide: torch.dtype) -> Term:
    """A term whose functions run as the autocast region asks, for a state of `wide`."""
    dtype = asked_for(device)
    if dtype is None:
        return term

    def low(function: Function) -> Lowered:
        return Lowered(function, device.type, dtype, wide)

    if isinstance(term, ODETerm):
        # The rate calls f in low precision, and is itself in that of the state.
        return replace(term, f=low(term.f))
    prior = None if term.prior is None else low(term.prior)
    return replace(
        term, drift=low(term.drift), diffusion=low(term.diffusion), prior=prior
    )
