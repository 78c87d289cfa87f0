"""Solves with resets: a sample that meets an event goes on from another state.

Every round runs the whole batch from each sample's last event to its next; samples that
have ended rest. Rounds are joined by ordinary autograd: the time and the state in which
one ends, both with their graph, are where the next begins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.arithmetic import standing_in
from nde.solvers.engine import Run, Setup, run
from nde.solvers.moving_ends import slope_at
from nde.solvers.types import Status
from nde.solvers.watch import Watch


def run_with_resets(
    setup: Setup, y0: Tensor, reads: Tensor, probes: Tensor | None, max_events: int
) -> tuple[tuple[Run, ...], Tensor]:
    """Runs from event to event, and the status `(rows,)` in which each row ended."""
    rows = y0.shape[0]
    end = reads[:, -1:]
    start, y, times = reads[:, :1], y0, reads
    margin: Tensor | None = None
    status = torch.full((rows,), int(Status.SUCCESS), device=y0.device)
    going = torch.ones(rows, dtype=torch.bool, device=y0.device)
    runs: list[Run] = []
    for count in range(max_events + 1):
        if count:
            # A row that has ended rests where it is.
            until = torch.where(going.unsqueeze(1), end, start)
            ahead = torch.maximum(torch.minimum(reads, until), start)
            times = torch.cat([start, ahead, until], 1)
        done = run(setup, y, times, probes, margin)
        runs.append(done)
        tape = done.outcome.tape
        moved = going & done.active
        status = torch.where(moved, tape.status, status)
        assert tape.channel is not None
        channel = torch.where(moved, tape.channel, -1)
        new, again = _reset(setup, done, channel)
        going = again & (done.t_end < end[:, 0]).detach()
        start = done.t_end.unsqueeze(1)
        # A reset at the very end would not be seen.
        y = torch.where(going.unsqueeze(1), new, done.outcome.y_end)
        status = torch.where(again & ~going, int(Status.SUCCESS), status)
        if not bool(going.any()):
            break
        if count == max_events:
            status = torch.where(going, int(Status.MAX_EVENTS), status)
            break
        margin = _margin(done, torch.where(going, channel, -1))
    return tuple(runs), status


def _reset(setup: Setup, done: Run, channel: Tensor) -> tuple[Tensor, Tensor]:
    """States after the resets of the events that fired, and which rows had one."""
    layout, watch = setup.layout, done.problem.watch
    assert isinstance(watch, Watch)
    y = done.outcome.y_end
    again = torch.zeros_like(channel, dtype=torch.bool)
    for number, event in enumerate(setup.events):
        fires = watch.event_of(channel) == number
        if event.reset is None or not bool(fires.any()):
            continue
        source = standing_in(fires)
        before = layout.to_batch(done.outcome.y_end[source])
        state = layout.structure.unflatten(before)
        clock = layout.clock(done.t_end[source].to(y.dtype))
        value = layout.call(event.reset, clock, state)
        new = layout.to_engine(value, f"the reset of event {number}")
        y = torch.where(fires.unsqueeze(1), new, y)
        again = again | fires
    return y, again


@torch.no_grad()
def _margin(done: Run, channel: Tensor) -> Tensor:
    """How far from zero a condition may be where its event was located.

    `(channels, rows)`, zero but for the channels that fired: what it was found to be
    there, and what the rounding of time and state makes of it.
    """
    watch, problem, tape = done.problem.watch, done.problem, done.outcome.tape
    assert watch is not None
    t, y = tape.t_end, done.outcome.y_end.detach()
    slope = slope_at(problem, t, y)
    eps = torch.finfo(y.dtype).eps
    size = torch.maximum(problem.t0.abs(), problem.t1.abs())
    # Barely more than what is left: it would grow from event to event.
    margin = 1.0001 * watch.values(t, y).abs()
    margin = margin + 64.0 * eps * size * watch.rates(t, y, slope).abs()
    number = torch.arange(watch.channels, device=y.device)
    return torch.where(number.unsqueeze(1) == channel, margin, 0.0)
