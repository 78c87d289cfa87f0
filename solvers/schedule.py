"""Schedules: steps that are known beforehand, on a fixed grid or from a tape."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nde.solvers.bound import BoundSDE, at_rest
from nde.solvers.brownian import (
    BrownianGrid,
    BrownianIncrement,
    BrownianMotion,
    BrownianTree,
    Levy,
    StretchedTree,
    stacked,
)
from nde.solvers.controller import FixedSteps, StepTo
from nde.solvers.problem import Problem
from nde.solvers.stochastic import StochasticMethod
from nde.solvers.tape import Tape
from nde.solvers.types import MEMORY, Increment, Step


@dataclass(frozen=True)
class Schedule:
    """Steps to take: start and length of each, as Python numbers where all rows share.

    `t`, `h` `(steps, rows)` float64; a length of zero rests. `fresh (steps, rows)`
    where a step begins anew after a jump of the field, None where none does.
    `noise` is the Brownian motion over each step.

    The field is evaluated for rows that rest too, and nothing is known of it where they
    ended: NaN there would pass through weights of zero. So a row that rests, from the
    steps `resting` on, shows the field the start of its last step, and its results are
    dropped. A row without any step shows the start of another one, `donor (rows,)`;
    None if every row has a step. Where the field sees one time for all (`shared`), that
    is of the rows which move, and a resting one shows the state of the first of these.
    """

    t: Tensor
    h: Tensor
    fresh: Tensor | None
    noise: BrownianIncrement | None
    shared: list[tuple[float, float]] | None
    restarts: frozenset[int]
    resting: frozenset[int] = frozenset()
    donor: Tensor | None = None

    @property
    def steps(self) -> int:
        """Number of steps of the longest row."""
        return self.t.shape[0]

    def step(self, j: int, dtype: torch.dtype) -> tuple[Step, Increment]:
        """Start and increment of step j."""
        before = slice(max(j - MEMORY, 0), j)
        if self.shared is not None:
            t, h = self.shared[j]
            lengths = [size for _, size in self.shared[before]]
            return t, Increment(h, *driven_in(self.noise, j), index=j, past=lengths)
        dt = self.h[j].to(dtype).unsqueeze(1)
        past = self.h[before]
        return self.t[j], Increment(dt, *driven_in(self.noise, j), index=j, past=past)

    def facing(self, problem: Problem, j: int) -> Problem:
        """The problem as step j meets it, where rows may rest under others' time."""
        if self.shared is None or j not in self.resting:
            return problem
        moving = (self.h[j] > 0).unsqueeze(1)
        return replace(problem, term=at_rest(problem.term, moving))

    def stand_in(self, j: int, value: Tensor, last: Tensor) -> Tensor:
        """What resting rows show the field in step j, for a state or a part of the
        carry `value (rows, ...)`, of which they showed `last` before."""
        if self.shared is None:
            return last.detach()
        return value.detach()[(self.h[j] > 0).long().argmax()]

    def begin(
        self, problem: Problem, j: int, y: Tensor, carry: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """The carry that step j sets out with: taken anew in rows past a jump."""
        if j not in self.restarts or not carry:
            return carry
        assert self.fresh is not None
        return restarted(problem, self.t[j], y, carry, self.fresh[j])

    def moving(self, j: int) -> Tensor | None:
        """Which rows step j moves `(rows, 1)`; None if all."""
        return (self.h[j] > 0).unsqueeze(1) if j in self.resting else None

    @property
    def own(self) -> Tensor | None:
        """Which rows begin as themselves `(rows, 1)`; None if all."""
        donor = self.donor
        if donor is None:
            return None
        return (donor == torch.arange(donor.numel(), device=donor.device)).unsqueeze(1)

    def lent(self, problem: Problem) -> Problem:
        """A problem in which rows without any step begin as their donors do."""
        donor, own = self.donor, self.own
        if donor is None or own is None:
            return problem
        given = problem.y0.detach()[donor]
        y0 = torch.where(own, problem.y0, given)
        return replace(problem, t0=problem.t0[donor], y0=y0)


def driven_in(
    noise: BrownianIncrement | None, j: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """W, H and A of step j."""
    if noise is None:
        return None, None, None
    levy = None if noise.levy is None else noise.levy[j]
    area = None if noise.area is None else noise.area[j]
    return noise.w[j], levy, area


def restarted(
    problem: Problem, t: Tensor, y: Tensor, carry: tuple[Tensor, ...], rows: Tensor
) -> tuple[Tensor, ...]:
    """A carry with that of a new start at `t (rows,)` in the given rows."""
    now = (t[0] if problem.common else t).to(y.dtype)
    new = problem.stepper.start(problem.term, now, y)
    wide = rows.unsqueeze(1)
    return tuple(
        torch.where(wide, fresh, old) for fresh, old in zip(new, carry, strict=True)
    )


def schedule(
    t: Tensor,
    h: Tensor,
    noise: BrownianIncrement | None,
    common: bool = False,
    fresh: Tensor | None = None,
) -> Schedule:
    """A schedule from `t`, `h` `(steps, rows)`; `common` if all rows are alike."""
    shared = None
    if t.shape[1] == 1 or (common and t.shape[1]):
        shared = list(zip(t[:, 0].tolist(), h[:, 0].tolist(), strict=True))
    restarts: frozenset[int] = frozenset()
    if fresh is not None:
        restarts = frozenset(fresh.any(dim=1).nonzero().view(-1).tolist())
    if shared is not None or not t.numel():
        return Schedule(t, h, fresh, noise, shared, restarts)
    moves = h > 0
    still = (~moves).any(dim=1).nonzero().view(-1).tolist()
    donor = None
    if still:
        t, donor = _shown(t, moves)
        donor = None if bool(moves.any(dim=0).all()) else donor
    return Schedule(t, h, fresh, noise, shared, restarts, frozenset(still), donor)


def _shown(t: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Times that resting rows show the field, and whose start stands in for each."""
    steps = torch.arange(t.shape[0], device=t.device).unsqueeze(1)
    last = torch.where(moves, steps, -1).cummax(dim=0).values
    rows = torch.arange(t.shape[1], device=t.device)
    donor = torch.where(moves.any(dim=0), rows, moves[0].long().argmax())
    start = t[0][donor].expand_as(t)
    return torch.where(last < 0, start, t.gather(0, last.clamp_min(0))), donor


def replay_of(tape: Tape) -> Schedule:
    """The accepted steps of a tape; rows that ended early rest."""
    t = torch.where(tape.valid, tape.grid(tape.t), tape.t_end)
    fresh = None if tape.fresh is None else tape.grid(tape.fresh)
    return schedule(t, tape.grid(tape.h), tape.noise, fresh=fresh)


def fixed_grid(
    problem: Problem, noise: BrownianGrid | BrownianMotion | None
) -> Schedule:
    """The grid that `FixedSteps` or `StepTo` asks for.

    Raises ValueError if it would take more than `max_steps` steps, or if the Brownian
    motion does not reach as far or has another size.
    """
    # Python numbers, and one copy from the device: a grid is made once per solve.
    rows = slice(0, 1 if problem.common else None)
    marks = _marks(problem, rows)
    segments = _segments(problem, rows)
    grids = [
        _grid(segment, mark, problem)
        for segment, mark in zip(segments, marks, strict=True)
    ]
    steps = max(map(len, grids), default=0)
    ends = problem.t1[rows].tolist()
    table = problem.t1.new_tensor(
        [
            grid + [(end, 0.0, 0.0)] * (steps - len(grid))
            for grid, end in zip(grids, ends, strict=True)
        ]
    )
    table = table.reshape(len(grids), steps, 3).permute(2, 1, 0).contiguous()
    t, h, again = table.unbind(0)
    fresh = again > 0 if problem.stops is not None else None
    moved = None if noise is None else drawn(problem, noise, t, h)
    if problem.common:
        t, h = t.expand(-1, problem.rows), h.expand(-1, problem.rows)
        fresh = None if fresh is None else fresh.expand(-1, problem.rows)
    return schedule(t, h, moved, problem.common, fresh)


def drawn(
    problem: Problem, noise: BrownianGrid | BrownianMotion, t: Tensor, h: Tensor
) -> BrownianIncrement:
    """The Brownian motion over steps `t`, `h` `(steps, rows)`."""
    term, stepper, dtype = problem.term, problem.stepper, problem.y0.dtype
    assert isinstance(term, BoundSDE) and isinstance(stepper, StochasticMethod)
    levy, shape = stepper.asks(term.noise), term.noise_shape
    if h.shape[1] == 1:
        t, h = t[:, 0], h[:, 0]
    if isinstance(noise, BrownianGrid):
        return term.driven(noise.increments(h, shape, dtype, levy))
    check_size(noise, shape)
    if isinstance(noise, BrownianTree):
        steps = torch.where(h > 0, h, torch.inf)
        if steps.numel():
            check_resolution(noise, steps)
        moved = noise.increments(t, h, levy)
    elif isinstance(noise, StretchedTree):
        moved = _along(noise, t, h, levy)
    else:
        moved = _asked(noise, t, h, levy)
    device = problem.y0.device
    return term.driven(moved.map(lambda part: part.to(device=device, dtype=dtype)))


def check_size(noise: BrownianMotion, shape: tuple[int, int]) -> None:
    """Raises ValueError for a motion of another size than the term needs."""
    if tuple(noise.size) != shape:
        raise ValueError(
            f"noise has size {tuple(noise.size)}, the term needs {shape}: (batch, "
            "Brownian motions of a sample)"
        )


def check_resolution(tree: BrownianTree, lengths: Tensor) -> None:
    """Raises ValueError if steps are shorter than a tree tells times apart."""
    least = float(lengths.min())
    if least < tree.resolution * (1.0 - 1e-9):
        raise ValueError(
            f"noise is a BrownianTree that tells times {tree.resolution:.3g} apart; "
            f"steps or outputs are {least:.3g} apart, where its law is another; "
            f"pass BrownianTree(..., tol={least / 2:.1g}), or one of a narrower span"
        )


def _along(noise: StretchedTree, t: Tensor, h: Tensor, levy: Levy) -> BrownianIncrement:
    """The motion over steps `t`, `h` `(steps,)` or `(steps, batch)`."""
    parts = [
        noise.increment(start, start + length, levy)
        for start, length in zip(t.unbind(), h.unbind(), strict=True)
    ]
    return stacked(parts) if parts else BrownianIncrement(h.new_zeros(0, *noise.size))


def _asked(
    noise: BrownianMotion, t: Tensor, h: Tensor, levy: Levy
) -> BrownianIncrement:
    """The motion over steps `t`, `h` `(steps,)`, asked for one after another."""
    if t.ndim != 1:
        raise ValueError(
            f"noise ({type(noise).__name__}) is asked for one step of the whole batch "
            "after another, but the samples have steps of their own; pass a "
            "BrownianTree, or ts of shape (T,)"
        )
    begins, lengths = t.tolist(), h.tolist()
    parts = []
    for j, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
        end = begin + length
        # A step ends where the next begins, not a rounding beside it.
        if j + 1 < len(begins) and abs(end - begins[j + 1]) <= 4 * math.ulp(end):
            end = begins[j + 1]
        parts.append(noise.increment(begin, end, levy))
    if not parts:
        return BrownianIncrement(t.new_zeros(0, *noise.size))
    return stacked(parts)


# Start, length, and whether the field has just jumped (0 or 1).
_Planned = tuple[float, float, float]


def _marks(problem: Problem, rows: slice) -> list[list[float]]:
    """Times of each row that its grid must hold, besides the ends of segments."""
    controller = problem.controller
    if isinstance(controller, StepTo):
        assert problem.grid is not None
        return [sorted(t for t in row if t == t) for row in problem.grid[rows].tolist()]
    if problem.interpolates:
        return [[] for _ in problem.t0[rows].tolist()]
    times, inside = problem.reads[rows].tolist(), problem.interior[rows].tolist()
    return [
        sorted({t for t, keep in zip(row, kept, strict=True) if keep})
        for row, kept in zip(times, inside, strict=True)
    ]


def _segments(problem: Problem, rows: slice) -> list[list[tuple[float, float, bool]]]:
    """Begin and end of each row's segments, and whether one begins at a jump."""
    if problem.stops is None:
        ends = zip(problem.t0[rows].tolist(), problem.t1[rows].tolist(), strict=True)
        return [[(t0, t1, False)] for t0, t1 in ends]
    stops = problem.stops
    columns = (stops.begins[rows], stops.ends[rows], stops.restarts[rows])
    tables = zip(*(column.tolist() for column in columns), strict=True)
    return [
        list(zip(*table, strict=True))[: last + 1]
        for table, last in zip(tables, stops.last[rows].tolist(), strict=True)
    ]


def _grid(
    segments: list[tuple[float, float, bool]], marks: list[float], problem: Problem
) -> list[_Planned]:
    """One row's steps."""
    controller = problem.controller
    assert isinstance(controller, (FixedSteps, StepTo))
    step = controller.step if isinstance(controller, FixedSteps) else math.inf
    planned: list[_Planned] = []
    for begin, end, jumped in segments:
        knots = [begin, *(t for t in marks if begin < t < end), end]
        first = len(planned)
        for left, right in zip(knots[:-1], knots[1:], strict=True):
            planned.extend(_steps(left, right, step, problem, len(planned)))
        if jumped and len(planned) > first:
            t, h, _ = planned[first]
            planned[first] = (t, h, 1.0)
    return planned


def _steps(
    left: float, right: float, step: float, problem: Problem, before: int
) -> list[_Planned]:
    if not right > left:
        return []
    # A remainder of rounding size is no step of its own.
    count = max(1, math.ceil((right - left) / step * (1.0 - 1e-9)))
    if before + count > problem.max_steps:
        raise ValueError(
            f"step={step} on [{left}, {right}] takes {count} steps, which with the "
            f"{before} before is more than max_steps={problem.max_steps}; lengthen "
            "the step or raise max_steps"
        )
    size = step if problem.interpolates else (right - left) / count
    knots = [left, *(left + size * i for i in range(1, count)), right]
    return [(t, u - t, 0.0) for t, u in zip(knots[:-1], knots[1:], strict=True)]
