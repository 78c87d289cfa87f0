"""STEER: random end times of the solves of a training.

Ghosh, Behl, Dupont, Torr, Namboodiri, *STEER: Simple Temporal Regularization for Neural
ODEs*, NeurIPS 2020. What is read at the moved times stands for the states at the times
asked for; in evaluation nothing moves. With several output times each one is moved, as
the end of the interval before it, not so far that it could pass a neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

# Of the interval: what a moved end leaves of it at least.
_LEAST = 1e-3


@runtime_checkable
class EndTime(Protocol):
    """A regularizer that moves the output times of a solve, and has no penalty."""

    @property
    def name(self) -> str:
        """As it appears in logs and on the command line."""

    def moved(self, ts: Tensor) -> Tensor:
        """Times to solve for instead of `ts`, of its shape, the first one as it is."""


@dataclass(frozen=True)
class UniformEnd:
    """End times drawn from U(t - b, t + b), with b = `share` of the room around t.

    The room is the interval that ends at t or, where that is shorter, the one after it.
    Times `(T,)` for all samples are moved alike, times `(batch, T)` each on its own.
    The paper has one output time and shares of 0.75 (flows) or 0.999.

    Raises ValueError for a share outside of (0, 1), and with several output times
    above 1/2.
    """

    share: float = 0.5
    name: str = "steer"

    def __post_init__(self) -> None:
        _check("share", self.share)

    def moved(self, ts: Tensor) -> Tensor:
        """The times of one solve, drawn from torch's global generator."""
        if ts.shape[-1] > 2 and self.share > 0.5:
            raise ValueError(
                f"share is {self.share} with {ts.shape[-1] - 1} output times, which "
                "could pass one another; give at most 0.5"
            )
        room = _room(ts)
        return _moved(ts, self.share * room * (2.0 * torch.rand_like(room) - 1.0))


@dataclass(frozen=True)
class NormalEnd:
    """End times drawn from N(t, s^2), with s = `deviation` times the room around t.

    Room as for `UniformEnd`. What would leave less than 1/1000 of an interval, or with
    several output times could pass another one, is cut off there. The authors' program
    has a deviation of 0.124.

    Raises ValueError for a deviation outside of (0, 1).
    """

    deviation: float = 0.124
    name: str = "steer-gaussian"

    def __post_init__(self) -> None:
        _check("deviation", self.deviation)

    def moved(self, ts: Tensor) -> Tensor:
        """The times of one solve, drawn from torch's global generator."""
        room, limit = _room(ts), 1.0 - _LEAST if ts.shape[-1] == 2 else 0.5
        offset = (self.deviation * torch.randn_like(room)).clamp(-limit, limit)
        return _moved(ts, room * offset)


def _check(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0.0 < value < 1.0:
        raise ValueError(
            f"{name} must lie between 0 and 1, as a part of the interval that ends at "
            f"the moved time, got {value}"
        )


def _room(ts: Tensor) -> Tensor:
    """How long the shorter interval beside each time after the first is."""
    gaps = ts.detach().diff(dim=-1).abs()
    if bool(gaps.isnan().any()):
        raise ValueError(
            "ts holds NaN, and moved end times are not made for samples with fewer "
            "times than others; pass each sample as many times"
        )
    after = torch.cat([gaps[..., 1:], gaps[..., -1:]], dim=-1)
    return torch.minimum(gaps, after)


def _moved(ts: Tensor, offset: Tensor) -> Tensor:
    return torch.cat([ts[..., :1], ts[..., 1:] + offset], dim=-1)
