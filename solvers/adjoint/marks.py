"""Where the way back of an ODE starts anew: at what was read, with its gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers import dense
from nde.solvers.problem import Problem
from nde.solvers.tape import Tape


@dataclass(frozen=True)
class Marks:
    """Where the way back starts anew, latest first, in forward engine time.

    `times (rows, n)`: the end of each row, what is read inside, and its start, which
    also fills rows that have fewer. `states (rows, n, dim)` are the computed ones,
    `grads (rows, n, dim)` the gradients of what was read there.
    """

    times: Tensor
    states: Tensor
    grads: Tensor


def marks_of(
    problem: Problem, tape: Tape, g_end: Tensor | None, g_polynomials: Tensor | None
) -> Marks:
    """The marks of a solve whose steps end, or begin, where it is read.

    `g_end (rows, dim)` and `g_polynomials` are gradients of the end state and of the
    interpolants, None for zero.
    """
    start, end = problem.t0.unsqueeze(1), tape.t_end.unsqueeze(1)
    inside = (problem.reads > start) & (problem.reads < end)
    reads = _falling(torch.where(inside, problem.reads, start))
    again = torch.zeros_like(inside)
    again[:, 1:] = reads[:, 1:] == reads[:, :-1]
    reads = _falling(torch.where(again, start, reads))
    reads = reads[:, (reads > start).any(dim=0)]
    times = torch.cat([end, reads, start], dim=1)
    y_end, polynomials = tape.y_end, tape.polynomials
    states = dense.read(problem, tape, times, y_end, polynomials).detach()
    states[:, 0] = y_end
    grads = torch.zeros_like(states)
    if g_end is not None:
        grads[:, 0] = g_end
    if g_polynomials is None or not tape.slots.numel():
        return Marks(times, states, grads)
    entry, found = dense.locate(problem, tape, times)
    slot = tape.slot[entry]
    found = found & (slot >= 0) & (times > start) & (times < end)
    entry, picked = entry[found], g_polynomials[slot[found]]
    read = picked[:, 0]
    if problem.interpolates:
        # Read at theta, 0 or 1: all has p_0, and p_1 has h theta of it.
        h = tape.h[entry]
        late = picked[:, 1] / h.unsqueeze(1).to(picked.dtype)
        at_end = (times[found] - tape.t[entry]) > 0.5 * h
        read = torch.where(at_end.unsqueeze(1), late, read - late)
    grads[found] = read.to(grads.dtype)
    return Marks(times, states, grads)


def _falling(times: Tensor) -> Tensor:
    return times.sort(dim=1, descending=True).values
