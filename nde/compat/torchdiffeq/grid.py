"""Fixed-step methods: the grid, and the states on it and between its knots."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nde.compat.torchdiffeq.failure import InvalidInput
from nde.compat.torchdiffeq.options import FIXED, MAX_GRID, step_size_of
from nde.compat.torchdiffeq.steps import OnGrid
from nde.solvers import ODE_METHODS, Direct, Recompute, StepTo

if TYPE_CHECKING:
    from nde.compat.torchdiffeq.integrate import Job


def states_on_grid(job: Job, adjoint: Direct | Recompute) -> Tensor:
    """States at `t` of a fixed-step method, `(batch, T, ...)`."""
    interp = job.options.get("interp", "linear")
    if interp not in ("linear", "cubic"):
        raise ValueError(f"Unknown interpolation method {interp}")
    grid = grid_of(job.options, job.func, job.given, job.t)
    knots, right = _brackets(grid.detach(), job.t.detach(), job.reverse)
    stepper = OnGrid(
        ODE_METHODS[FIXED[job.method]], bool(job.options.get("perturb", False))
    )
    solution = job.solve(
        job.y0,
        grid[knots],
        adjoint,
        method=stepper,
        controller=StepTo(grid.detach()),
    )
    ys: Tensor = solution.ys
    at = torch.searchsorted(knots, right)
    times = grid[knots]
    inside = job.t.detach() != times.detach()[at]
    read = ys[:, at]
    if bool(inside.any()):
        before = (at - 1).clamp_min(0)
        span = torch.where(at > 0, times[at] - times[before], 1.0)
        theta = _along(((job.t - times[before]) / span).to(job.packing.real), ys)
        if interp == "cubic":
            between = _cubic(job, ys, times, before, at, theta, inside)
        else:
            between = ys[:, before] + theta * (ys[:, at] - ys[:, before])
        read = torch.where(_along(inside, ys), between, read)
    return _moved(job, read, inside)


def _cubic(
    job: Job,
    ys: Tensor,
    times: Tensor,
    before: Tensor,
    at: Tensor,
    theta: Tensor,
    inside: Tensor,
) -> Tensor:
    """Hermite's interpolant between knots, for the reads that are inside."""
    field, slopes = job.term(), {}
    for knot in {*before[inside].tolist(), *at[inside].tolist()}:
        slopes[knot] = field(times[knot].to(job.packing.real), ys[:, knot].contiguous())
    none = torch.zeros_like(ys[:, 0])
    begin, end = (
        torch.stack([slopes.get(i, none) for i in index.tolist()], dim=1)
        for index in (before, at)
    )
    h = _along((times[at] - times[before]).to(job.packing.real), ys)
    rest = 1.0 - theta
    return (
        rest * rest * ((1.0 + 2.0 * theta) * ys[:, before] + theta * h * begin)
        + theta * theta * (1.0 + 2.0 * rest) * ys[:, at]
        - theta * theta * rest * h * end
    )


def _moved(job: Job, ys: Tensor, inside: Tensor) -> Tensor:
    """States with their derivative in times that are inner knots."""
    if not (torch.is_grad_enabled() and job.t.requires_grad):
        return ys
    times, field = job.t.detach().to(job.packing.real), job.term()
    slope = torch.zeros_like(ys)
    with torch.no_grad():
        for i in (~inside[1:-1]).nonzero().view(-1).tolist():
            slope[:, i + 1] = field(times[i + 1], ys[:, i + 1].contiguous())
    return ys + slope * _along((job.t - job.t.detach()).to(job.packing.real), ys)


def grid_of(
    options: dict[str, Any], func: Callable[..., Any], y0: Any, t: Tensor
) -> Tensor:
    """The grid of a fixed-step method, which begins and ends with `t`.

    Raises ValueError if two options ask for one, or it has too many steps.
    """
    size, constructor = options.get("step_size"), options.get("grid_constructor")
    if size is not None and constructor is not None:
        raise ValueError(
            "step_size and grid_constructor are mutually exclusive arguments."
        )
    if constructor is not None:
        grid = constructor(func, y0, t)
        if not (grid[0] == t[0] and grid[-1] == t[-1]):
            raise InvalidInput("grid_constructor must begin and end where t does")
        return grid  # type: ignore[no-any-return]
    if size is None:
        return t
    ends = t.detach()[[0, -1]].double()
    count = math.ceil(abs(float(ends[1] - ends[0])) / step_size_of(options))
    if count > MAX_GRID:
        raise ValueError(f"step_size={float(size)} takes {count} steps; lengthen it")
    inner = torch.arange(count, dtype=t.dtype, device=t.device) * size
    inner = t[0].detach() + (inner if ends[1] > ends[0] else -inner)
    # Where rounding puts the last of them at the end already, it is no step.
    before = (inner - t[-1]).abs() > 0
    return torch.cat([t[:1], inner[1:][before[1:]], t[-1:]])


def _brackets(grid: Tensor, t: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Knots to read, and for each time the first knot at or past it."""
    ahead, times = (-grid, -t) if reverse else (grid, t)
    right = torch.searchsorted(ahead.contiguous(), times.contiguous())
    inside = ahead[right] != times
    wanted = {0, len(grid) - 1, *right.tolist(), *(right[inside] - 1).tolist()}
    return right.new_tensor(sorted(wanted)), right


def _along(values: Tensor, ys: Tensor) -> Tensor:
    """`(T,)` to broadcast with `ys (batch, T, ...)`."""
    return values.view(1, -1, *(1 for _ in range(ys.ndim - 2)))
