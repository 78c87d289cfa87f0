"""Locating events: in which step a sign changed, and where in that step.

Loops watch signs at the ends of accepted steps and hold on to the step in which one
changed. Where in it is found afterwards on its interpolant, and the step is then taken
once more with the length that ends there, so that every replay and every gradient sees
an ordinary last step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nde.solvers.dense import evaluate
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule, schedule
from nde.solvers.stages import Stages
from nde.solvers.tape import NOT_FINITE, Tape
from nde.solvers.types import Increment, Status, StepOut
from nde.solvers.watch import Watch

# Halvings of a step in the search for a root: down to rounding.
_HALVINGS = 50


@dataclass(frozen=True)
class Held:
    """The step of each row in which a sign changed, `(rows, ...)`; `h` zero without.

    `sign (channels, rows)` are those at its start.
    """

    t: Tensor
    h: Tensor
    y: Tensor
    carry: tuple[Tensor, ...]
    sign: Tensor

    @staticmethod
    def none(problem: Problem, sign: Tensor, carry: tuple[Tensor, ...]) -> Held:
        """Nothing held yet."""
        t0 = problem.t0
        return Held(t0, torch.zeros_like(t0), problem.y0.detach(), carry, sign)

    def update(
        self,
        seen: Tensor,
        t: Tensor,
        h: Tensor,
        y: Tensor,
        carry: tuple[Tensor, ...],
        sign: Tensor,
    ) -> Held:
        """With the steps of rows `seen` taken over."""
        wide = seen.unsqueeze(1)
        return Held(
            torch.where(seen, t, self.t),
            torch.where(seen, h, self.h),
            torch.where(wide, y, self.y),
            tuple(
                torch.where(wide, new, old)
                for new, old in zip(carry, self.carry, strict=True)
            ),
            torch.where(seen, sign, self.sign),
        )


def crossings(
    problem: Problem,
    sign: Tensor,
    t: Tensor,
    y: Tensor,
    inc: Increment,
    out: StepOut,
    stages: Stages | None,
) -> tuple[Tensor, Tensor]:
    """Channels that changed sign in a step `(channels, rows)`, and the new signs.

    `t (rows,)`; `sign` are those at the start.
    """
    watch = problem.watch
    assert watch is not None
    dt = inc.dt
    h = dt.squeeze(1) if isinstance(dt, Tensor) else t.new_full(t.shape, dt)
    changed = torch.zeros_like(sign, dtype=torch.bool)
    if watch.samples:
        rows = torch.arange(problem.rows, device=y.device)
        start = t if isinstance(dt, Tensor) else float(t)
        polynomials = problem.polynomials_of(rows, start, y, inc, out, stages)
        for i in range(1, watch.samples + 1):
            theta = torch.full_like(h, i / (watch.samples + 1)).to(y.dtype)
            inside = evaluate(polynomials, h.to(y.dtype), theta).to(y.dtype)
            value = watch.values(t + h * theta, inside)
            found, sign = watch.look(sign, value)
            changed = changed | found
    found, sign = watch.look(sign, watch.values(t + h, out.y1))
    return changed | found, sign


def first_signs(problem: Problem, carry: tuple[Tensor, ...]) -> Tensor:
    """Signs `(channels, rows)` where a solve with this first carry begins."""
    assert problem.watch is not None
    y = problem.y0.detach()

    def slope() -> Tensor:
        if carry:
            return carry[0].detach()
        return problem.term.f(problem.t0.to(y.dtype), y)

    return problem.watch.begin(problem.t0, y, slope)


class Lookout:
    """Watches the signs of events from step to step, and holds on to what it saw."""

    def __init__(self, problem: Problem, carry: tuple[Tensor, ...]) -> None:
        self._problem = problem
        self._sign = first_signs(problem, carry)
        self.held = Held.none(problem, self._sign, carry)

    def look(
        self,
        moved: Tensor,
        t: Tensor,
        h: Tensor,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        out: StepOut,
        stages: Stages | None,
    ) -> Tensor:
        """Which of the rows that `moved` in a step met an event in it: `(rows,)`."""
        before = self._sign
        crossed, new = crossings(self._problem, before, t, y, inc, out, stages)
        seen = (crossed & moved).any(dim=0)
        self._sign = torch.where(moved, new, before)
        self.held = self.held.update(seen, t, h, y, carry, before)
        return seen


def settle(problem: Problem, tape: Tape, held: Held) -> Tape:
    """A tape whose last steps end at the events that were seen in them."""
    watch = problem.watch
    assert watch is not None
    seen = held.h > 0
    none = torch.full_like(tape.status, -1)
    if not bool(seen.any()):
        return replace(tape, channel=none)
    theta, channel, finite = _roots(problem, held)
    length = torch.where(seen, held.h * theta, 0.0)
    entry = tape.index.gather(0, (tape.accepted - 1).clamp_min(0).unsqueeze(0))[0]
    entry, rows = entry[seen], seen.nonzero().view(-1)
    stepper, dtype = problem.stepper, problem.y0.dtype
    stages = stepper.workspace(held.y, graph=False)
    inc = Increment(length.to(dtype).unsqueeze(1))
    out = stepper.step(problem.term, held.t, held.y, inc, held.carry, stages)
    polynomials = tape.polynomials
    slot = tape.slot[entry]
    if bool((slot >= 0).any()):
        found = problem.polynomials_of(rows, held.t, held.y, inc, out, stages)
        polynomials = polynomials.index_put((slot[slot >= 0],), found[slot >= 0])
    wide = seen.unsqueeze(1)
    failed = seen & ~finite
    status = torch.where(seen, int(Status.EVENT), tape.status)
    return replace(
        tape,
        h=tape.h.index_put((entry,), length[seen]),
        error=tape.error.index_put((entry,), problem.error_ratio(held.y, out)[seen]),
        stiffness=tape.stiffness.index_put(
            (entry,), problem.stiffness(held.y, out)[seen]
        ),
        polynomials=polynomials,
        y_end=torch.where(wide, out.y1, tape.y_end),
        carry_end=tuple(
            torch.where(wide, new, old)
            for new, old in zip(out.carry, tape.carry_end, strict=True)
        ),
        t_end=torch.where(seen, _arrival(problem, held.t + length), tape.t_end),
        status=torch.where(failed, int(Status.NON_FINITE_EVENT), status),
        channel=torch.where(seen, _ended_by(channel, finite), none),
    )


@dataclass(frozen=True)
class Cut:
    """A plan whose rows rest after their first event.

    Per row: the `channel` of it, as a tape has it; the `status`, `SUCCESS` where a row
    meets none; and when it was met.
    """

    plan: Schedule
    channel: Tensor
    status: Tensor
    t_end: Tensor


@torch.no_grad()
def cut_at_events(problem: Problem, plan: Schedule, carry: tuple[Tensor, ...]) -> Cut:
    """A plan that ends at events, for a solve with this first carry."""
    stepper, y = problem.stepper, problem.y0.detach()
    stages = stepper.workspace(y, graph=False)
    lookout = Lookout(problem, carry)
    going = torch.ones_like(problem.t0, dtype=torch.bool)
    number = torch.full_like(problem.t0, plan.steps, dtype=torch.int64)
    for j in range(plan.steps):
        t, inc = plan.step(j, y.dtype)
        carry = plan.begin(problem, j, y, carry)
        out = stepper.step(problem.term, t, y, inc, carry, stages)
        moved = going & (plan.h[j] > 0)
        step = (plan.t[j], plan.h[j], y, inc, carry, out, stages)
        seen = lookout.look(moved, *step)
        number = torch.where(seen, j, number)
        going = going & ~seen
        y, carry = out.y1, tuple(part.clone() for part in out.carry)
        if not bool(going.any()):
            break
    held = lookout.held
    seen = held.h > 0
    theta, channel, finite = _roots(problem, held)
    count = torch.arange(plan.steps, device=y.device).unsqueeze(1)
    last = held.t + held.h * theta
    h = torch.where(count == number, held.h * theta, plan.h)
    h = torch.where(count > number, 0.0, h)
    t = torch.where(count > number, last, plan.t)
    most = int((h > 0).any(dim=1).sum())
    fresh = None if plan.fresh is None else (plan.fresh & (count <= number))[:most]
    met = torch.where(finite, int(Status.EVENT), int(Status.NON_FINITE_EVENT))
    return Cut(
        plan=schedule(t[:most], h[:most], None, fresh=fresh),
        channel=torch.where(seen, _ended_by(channel, finite), -1),
        status=torch.where(seen, met, int(Status.SUCCESS)),
        t_end=torch.where(seen, _arrival(problem, last), problem.t1),
    )


def evaluations(problem: Problem, tape: Tape, fixed: bool) -> Tensor:
    """Vector-field calls `(rows,)` that finding the events of a run took.

    A step with an event is taken once more to search it, and once with its last
    length; a fixed grid is walked beforehand.
    """
    stepper, watch = problem.stepper, problem.watch
    assert watch is not None and tape.channel is not None
    met = (tape.channel >= 0) | (tape.status == Status.NON_FINITE_EVENT)
    again, looked = met.long() * (1 if fixed else 2), met.long()
    if fixed:
        again = again + tape.accepted
    if watch.samples:
        looked = looked + tape.accepted
    count = stepper.evaluations(again) + looked * stepper.extra_evaluations
    return count + stepper.start_evaluations if fixed else count


def _ended_by(channel: Tensor, finite: Tensor) -> Tensor:
    """Channels, set apart where it was no number that ended a row."""
    return torch.where(finite, channel, NOT_FINITE - channel)


def _arrival(problem: Problem, t: Tensor) -> Tensor:
    """Times of events; what is the end but for rounding is the end."""
    t1 = problem.t1
    ulp = 8.0 * torch.finfo(t1.dtype).eps * torch.maximum(problem.t0.abs(), t1.abs())
    return torch.where(t > t1 - ulp, t1, t)


def _roots(problem: Problem, held: Held) -> tuple[Tensor, Tensor, Tensor]:
    """The first root in each row's held step: `(theta, channel, finite)`, `(rows,)`.

    `theta` float64 in (0, 1] is on the far side of the root, so that what follows does
    not meet the same one again. `finite` is false where a condition stops being a
    number before any root.
    """
    watch, stepper, dtype = problem.watch, problem.stepper, problem.y0.dtype
    assert watch is not None
    stages = stepper.workspace(held.y, graph=False)
    inc = Increment(held.h.to(dtype).unsqueeze(1))
    out = stepper.step(problem.term, held.t, held.y, inc, held.carry, stages)
    rows = torch.arange(problem.rows, device=held.y.device)
    polynomials = problem.polynomials_of(rows, held.t, held.y, inc, out, stages)
    h = held.h.to(dtype)

    def values(theta: Tensor) -> Tensor:
        inside = evaluate(polynomials, h, theta.to(dtype)).to(dtype)
        inside = torch.where((theta < 1.0).unsqueeze(1), inside, out.y1)
        return watch.values(held.t + held.h * theta, inside)

    best = torch.full_like(held.t, 2.0)
    channel, finite = torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool)
    for number in range(held.sign.shape[0]):

        def value(theta: Tensor, number: int = number) -> Tensor:
            return values(theta)[number]

        low, high, sign, found = _bracket(watch, number, held, values)
        if watch.margin is None:
            _, high = _halved(watch, value, sign, None, low, high)
        else:
            # What leaves its margin on one side may have crossed zero long before.
            _, high = _halved(watch, value, sign, watch.margin[number], low, high)
            inside, zero = _halved(watch, value, sign.sign(), None, low, high)
            high = torch.where(inside > low, zero, high)
        first = found & (high < best)
        best = torch.where(first, high, best)
        channel = torch.where(first, number, channel)
        finite = torch.where(first, torch.isfinite(value(high)), finite)
    # A root at the very start of a step still needs a step to end in.
    return best.clamp(1e-12, 1.0), channel, finite


def _halved(
    watch: Watch,
    value: Callable[[Tensor], Tensor],
    sign: Tensor,
    margin: Tensor | None,
    low: Tensor,
    high: Tensor,
) -> tuple[Tensor, Tensor]:
    """An interval down to rounding, on whose far end a sign is lost."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        at_middle = value(middle)
        past = watch.past(sign, at_middle, margin) | ~torch.isfinite(at_middle)
        high = torch.where(past, middle, high)
        low = torch.where(past, low, middle)
    return low, high


def _bracket(
    watch: Watch, number: int, held: Held, values: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where a channel first changes sign: `(low, high, sign at low, found)`."""
    sign = held.sign
    low, high = torch.zeros_like(held.t), torch.ones_like(held.t)
    before, at_low = torch.zeros_like(held.t), sign[number]
    found = torch.zeros_like(held.t, dtype=torch.bool)
    for i in range(1, watch.samples + 2):
        theta = torch.full_like(held.t, i / (watch.samples + 1))
        crossed, new = watch.look(sign, values(theta))
        first = crossed[number] & ~found
        low, high = torch.where(first, before, low), torch.where(first, theta, high)
        at_low = torch.where(first, sign[number], at_low)
        found, sign, before = found | first, new, theta
    return low, high, at_low, found
