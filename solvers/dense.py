"""Reading a solution between its knots.

A step from t of length h is read as y(t + theta h) = p_0 + h sum_j theta^j p_j, with
`p (1 + degree, dim)`: p_0 the state, the others sums of stage derivatives. A method
without interpolant has p_0 alone, and is read at the starts of its steps only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nde.solvers.problem import Problem
from nde.solvers.tape import Tape
from nde.solvers.types import Status


def locate(problem: Problem, tape: Tape, times: Tensor) -> tuple[Tensor, Tensor]:
    """Which accepted step holds each time.

    `times (rows, k)` to `(entry (rows, k), found (rows, k))`, entries of the tape.
    """
    edges = tape.grid(tape.t if not problem.interpolates else tape.t + tape.h)
    edges = edges.masked_fill(~tape.valid, torch.inf).t().contiguous()
    times = times.contiguous()
    if problem.interpolates:
        step = torch.searchsorted(edges, times)
    else:
        step = torch.searchsorted(edges, times, right=True) - 1
    # The last step holds its end even where rounding puts t + h just before it.
    last = tape.accepted.unsqueeze(1) - 1
    found = (step >= 0) & (last >= 0) & (times <= tape.t_end.unsqueeze(1))
    step = torch.minimum(step, last).clamp_min(0)
    if tape.steps == 0:
        return step, found
    return tape.index.gather(0, step.t()).t(), found


def evaluate(polynomials: Tensor, h: Tensor, theta: Tensor) -> Tensor:
    """Polynomials `(m, 1 + degree, dim)` at `theta (m,)` of steps `h (m,)`."""
    value = polynomials[:, 0]
    degree = polynomials.shape[1] - 1
    if degree == 0:
        return value
    theta, h = theta.unsqueeze(1), h.unsqueeze(1)
    moved = polynomials[:, degree]
    for j in range(degree - 1, 0, -1):
        moved = torch.addcmul(polynomials[:, j], theta, moved)
    return torch.addcmul(value, theta * h, moved)


def derivative(polynomials: Tensor, theta: Tensor) -> Tensor:
    """Time derivative of `evaluate`."""
    degree = polynomials.shape[1] - 1
    theta = theta.unsqueeze(1)
    slope = polynomials[:, degree] * degree
    for j in range(degree - 1, 0, -1):
        slope = torch.addcmul(polynomials[:, j] * j, theta, slope)
    return slope


def pick(
    problem: Problem, tape: Tape, times: Tensor, polynomials: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The interpolant of each time: `(found, polynomials, h, theta)`.

    `times (rows, k)`, or `(batch, k)` where one row is the whole batch and each sample
    has its own times. `found` has the shape of `times`, the rest one entry for each
    time that was found.
    """
    owners, k = times.shape
    parts = owners // max(problem.rows, 1)
    if tape.slots.numel() == 0:
        none = polynomials.new_zeros(0)
        empty = polynomials.new_zeros((0, 2, problem.y0.shape[1] // max(parts, 1)))
        return torch.zeros_like(times, dtype=torch.bool), empty, none, none
    plain = times.detach().reshape(problem.rows, -1)
    entry, found = locate(problem, tape, plain)
    entry, found = entry.reshape(owners, k), found.reshape(owners, k)
    slot = tape.slot[entry]
    found = found & (slot >= 0)
    owner = torch.arange(owners, device=times.device).unsqueeze(1).expand(owners, k)
    entry, slot, part = entry[found], slot[found], owner[found] % max(parts, 1)
    h = tape.h[entry]
    theta = (times[found] - tape.t[entry]) / h
    split = polynomials.reshape(*polynomials.shape[:2], parts, -1)[slot, :, part]
    return found, split, h.to(split.dtype), theta.to(split.dtype)


def read(
    problem: Problem, tape: Tape, times: Tensor, y_end: Tensor, polynomials: Tensor
) -> Tensor:
    """The solution at `times` as for `pick`, NaN where it was not reached.

    Where `times` carry a graph, so do the values read inside steps.

    `y_end (rows, dim)` and `polynomials (m, 1 + degree, dim)` may carry gradients.
    Returns `(owners, k, dim of an owner)`.
    """
    owners, k = times.shape
    parts = owners // max(problem.rows, 1)
    dim = problem.y0.shape[1] // max(parts, 1)
    whole = tape.status == Status.SUCCESS
    if tape.channel is not None:
        whole = whole | ((tape.channel >= 0) & (tape.t_end >= problem.t1))
    t0, t1, whole = (
        value.repeat_interleave(parts).unsqueeze(1)
        for value in (problem.t0, problem.t1, whole)
    )
    at_start = times <= t0
    at_end = (times >= t1) & whole
    sources = [problem.y0.reshape(owners, dim), y_end.reshape(owners, dim)]
    if not polynomials.shape[0]:
        begin, end = (source.unsqueeze(1) for source in sources)
        value = torch.where(at_start.unsqueeze(2), begin, end)
        return torch.where((at_start | at_end).unsqueeze(2), value, torch.nan)
    sources.append(problem.y0.new_full((1, dim), torch.nan))
    owner = torch.arange(owners, device=times.device).unsqueeze(1).expand(owners, k)
    where = torch.full_like(owner, 2 * owners)
    if not bool((at_start | at_end).all()):
        found, picked, h, theta = pick(problem, tape, times, polynomials)
        sources.append(evaluate(picked, h, theta).to(y_end.dtype))
        first = 2 * owners + 1
        where[found] = torch.arange(first, first + len(h), device=times.device)
    where = torch.where(at_end, owner + owners, where)
    where = torch.where(at_start, owner, where)
    return torch.cat(sources)[where.reshape(-1)].view(owners, k, dim)
