"""What passes between the parts of a solve: increments, steps, status, failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

# How many of the steps before it an increment tells the lengths of.
MEMORY = 3

# A length of time: one number when the whole state shares the step and the host knows
# it, else one entry per sample, `(batch, 1)`, in the dtype of the state.
Step = float | Tensor


# Time is kept in double precision, but where a device has none.
TIME_DTYPES = {"mps": torch.float32}


def time_dtype(device: torch.device) -> torch.dtype:
    """The precision of time on a device."""
    return TIME_DTYPES.get(device.type, torch.float64)


class Status(IntEnum):
    """Why a sample's integration ended."""

    SUCCESS = 0
    MAX_STEPS = 1
    STEP_UNDERFLOW = 2
    NON_FINITE_FIELD = 3
    NON_FINITE_STATE = 4
    EVENT = 5
    NON_FINITE_EVENT = 6
    MAX_EVENTS = 7


@dataclass(frozen=True)
class Increment:
    """What drives one step: elapsed time `dt`, and for an SDE a Brownian motion.

    `w (batch, m)` is the increment W, `levy (batch, m)` the space-time Levy area H, the
    mean over the step of W less its chord, and `area (batch, m, m)` the Levy area of
    its components, where the method asks for them.

    Where the steps are known beforehand, `index` counts those before this one, and
    `past` holds the lengths of the last `MEMORY` of them, oldest first: numbers like
    `dt`, or `(steps, rows)` float64. Multistep methods start by the one and weight
    what they remember by the other.
    """

    dt: Step
    w: Tensor | None = None
    levy: Tensor | None = None
    area: Tensor | None = None
    index: int = 0
    past: Sequence[float] | Tensor = ()


class Readable(Protocol):
    """Stage derivatives that an interpolant can be made of."""

    def all(self) -> Tensor:
        """Every stage derivative of the step, safe to keep: `(stages, rows, dim)`."""


@dataclass(frozen=True)
class StepOut:
    """One attempted step.

    `y1 (batch, dim)` the new state; `error (batch, dim)` the embedded error estimate,
    None where the method has none; `stiffness (batch,)`, None where the method has no
    two stages at equal time; `carry` what the next step starts from, and `stages` the
    stage derivatives, both valid until the next step; `error_coarse (batch, dim)` a
    second estimate, of lower order, for methods that combine two.
    """

    y1: Tensor
    error: Tensor | None
    stiffness: Tensor | None
    carry: tuple[Tensor, ...]
    stages: Readable | None
    error_coarse: Tensor | None = None


class Observer(Protocol):
    """Is told of every step of a solve, in engine layout, while the steps are found.

    `t` and `h` are numbers where the host knows them, else `(rows,)`; `y (rows, dim)`.
    """

    def attempt(self, t: Step, y: Tensor, h: Step) -> None:
        """Before a step from `y` at `t` of length `h`."""

    def judge(self, t: Step, y: Tensor, h: Step, accept: bool | Tensor) -> None:
        """After an adaptive step: whether it was accepted, for all rows or per row."""

    def replay(self, t: Step, y: Tensor, h: Step) -> None:
        """Before a backward pass repeats a step, or takes one of its own, of length
        `h` back from `y` at `t`."""


class SolveError(RuntimeError):
    """A solve that could not reach the end of its interval.

    `status`, `samples`, `times` name why, which rows of the batch, and how far each
    got; `evaluations` is what each had used by then.
    """

    def __init__(
        self,
        message: str,
        *,
        status: Status,
        samples: Sequence[int],
        times: Sequence[float],
        evaluations: Sequence[int],
    ) -> None:
        super().__init__(message)
        self.status = status
        self.samples = tuple(samples)
        self.times = tuple(times)
        self.evaluations = tuple(evaluations)
