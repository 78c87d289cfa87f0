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
    found = (step >= 0) & (step < tape.accepted.unsqueeze(1))
    step = step.clamp(0, max(tape.index.shape[0] - 1, 0))
    if tape.index.shape[0] == 0:
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


def read(
    problem: Problem, tape: Tape, times: Tensor, y_end: Tensor, polynomials: Tensor
) -> Tensor:
    """The solution at `times (rows, k)`: `(rows, k, dim)`; NaN where not reached.

    `y_end (rows, dim)` and `polynomials (m, 1 + degree, dim)` may carry gradients.
    """
    rows, dim = problem.y0.shape
    arange = torch.arange(rows, device=times.device).unsqueeze(1).expand_as(times)
    at_start = times <= problem.t0.unsqueeze(1)
    at_end = (times >= problem.t1.unsqueeze(1)) & (tape.status == 0).unsqueeze(1)
    nowhere = torch.full_like(y_end[:1], torch.nan)
    sources = [problem.y0, y_end, nowhere]
    where = torch.full_like(arange, 2 * rows)
    inside = problem_inside = ~(at_start | at_end)
    if bool(inside.any()) and polynomials.shape[0]:
        entry, found = locate(problem, tape, times)
        slot = tape.slot[entry]
        inside = problem_inside & found & (slot >= 0)
        entry, slot = entry[inside], slot[inside]
        h = tape.h[entry]
        theta = ((times[inside] - tape.t[entry]) / h).to(y_end.dtype)
        sources.append(evaluate(polynomials[slot], h.to(y_end.dtype), theta))
        where[inside] = torch.arange(
            2 * rows + 1, 2 * rows + 1 + entry.shape[0], device=times.device
        )
    where = torch.where(at_end, arange + rows, where)
    where = torch.where(at_start, arange, where)
    return torch.cat(sources)[where.reshape(-1)].view(rows, -1, dim)
