"""Solving until an event, whose time nobody knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nde.compat.torchdiffeq.failure import InvalidInput, SolveFailed
from nde.compat.torchdiffeq.options import (
    FIXED,
    MAX_EVENT_GRID,
    MAX_EVENT_STEPS,
    step_size_of,
)
from nde.compat.torchdiffeq.packing import State
from nde.solvers import (
    PID,
    Direct,
    Event,
    FixedSteps,
    Recompute,
    Status,
)

if TYPE_CHECKING:
    from nde.compat.torchdiffeq.integrate import Job

# Each interval is so many times as long as all before.
_GROWTH = 10.0
# Intervals without an event after which there is none.
_INTERVALS = 12


class Nearest:
    """Several event functions as one that is positive at first: the least of them."""

    def __init__(self, event_fn: Any, t0: Tensor, y0: State) -> None:
        self._event_fn = event_fn
        with torch.no_grad():
            values = torch.as_tensor(event_fn(t0, y0))
        if bool(torch.isnan(values).any()):
            raise InvalidInput("event_fn is NaN where the solve begins")
        self._signs = torch.sign(values)

    @property
    def begins_at_zero(self) -> bool:
        """Whether there is an event where the solve begins."""
        return bool((self._signs == 0).any())

    def __call__(self, t: Tensor, y: State) -> Tensor:
        return torch.min(self._event_fn(t, y) * self._signs)


def until_event(job: Job, adjoint: Direct | Recompute) -> tuple[Tensor, State]:
    """The time of the first event, and the states at both ends `(2, ...)`.

    The time is a constant, and the state at the end that of a solve to this time.
    """
    packing = job.packing
    clock = job.t[0].detach().to(packing.real)
    nearest = Nearest(job.event_fn, clock, packing.unpack(job.y0.detach()))
    if nearest.begins_at_zero:
        return job.t[0].detach().clone(), _ends(job, job.y0, job.y0)

    def condition(t: Tensor, y: Tensor) -> Tensor:
        value = nearest(t, packing.unpack(y)).detach()
        # A slope in time and in nothing else: the event stays where it was found.
        return (value + (t - t.detach())).reshape(1)

    fixed = job.method in FIXED
    legs = _fixed_legs(job) if fixed else _adaptive_legs(job)
    begin, y = job.t[:1].double(), job.y0
    left = MAX_EVENT_GRID
    if not fixed:
        left = int(job.options.get("max_num_steps", MAX_EVENT_STEPS))
    last: float | None = None
    for length, controller in legs:
        if isinstance(controller, PID) and last is not None:
            # Going on, not setting out anew.
            controller = replace(controller, first_step=last)
        end = begin.detach() + (-length if job.reverse else length)
        try:
            solution = job.solve(
                y,
                torch.cat([begin, end]),
                adjoint,
                controller=controller,
                events=[Event(condition)],
                max_steps=left,
            )
        except SolveFailed as error:
            if error.status != Status.MAX_STEPS:
                raise
            raise _absent(job, error.times[0]) from None
        if int(solution.status[0]) == Status.EVENT:
            assert solution.events is not None
            time = solution.events.time[0, 0].detach().to(job.t)
            return time, _ends(job, job.y0, solution.final)
        y, begin = solution.final, end
        stats = solution.stats
        left -= int(stats.accepted[0] + stats.rejected[0])
        last = float(stats.step[-2:].max())
        if left <= 0:
            break
    raise _absent(job, float(begin.detach()))


def _adaptive_legs(job: Job) -> Iterator[tuple[float, PID]]:
    """Lengths of the intervals to search one after another, and how to step."""
    controller = job.controller()
    length = max(1.0, abs(float(job.t[0].detach())))
    for _ in range(_INTERVALS):
        yield length, controller
        length *= _GROWTH


def _fixed_legs(job: Job) -> Iterator[tuple[float, FixedSteps]]:
    """The same on a fixed grid."""
    if job.options.get("step_size") is None:
        raise InvalidInput(
            "an event under fixed steps needs options['step_size']: t does not say how "
            "far to go"
        )
    size, left, count = step_size_of(job.options), MAX_EVENT_GRID, 100
    while left:
        count = min(left, count)
        yield count * size, FixedSteps(size)
        left -= count
        count *= int(_GROWTH)


def _ends(job: Job, begin: Tensor, end: Tensor) -> State:
    return job.packing.series(torch.stack([begin, end], dim=1))


def _absent(job: Job, t: float) -> SolveFailed:
    """That the event was not met; a function has a name, an object a type."""
    name = getattr(job.event_fn, "__name__", type(job.event_fn).__name__)
    return SolveFailed(
        f"max_num_steps exceeded, at t={t:.6g} without an event: event_fn ({name}) did "
        "not change sign. Look at its sign along the solution, or at the direction of "
        "t; raise options['max_num_steps'] if it happens later",
        status=Status.MAX_STEPS,
        samples=[0],
        times=[t],
        evaluations=[],
    )
