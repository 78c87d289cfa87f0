"""What limited each step of an adaptive run, read off its tape.

The controller is a function of what the tape keeps, so the length that it proposed for
a step can be computed again. A step shorter than that was cut by a time to land on, or
was rejected before: rejected steps need no record of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.controller import PID
from nde.solvers.engine import Run

# A step times its stiffness, over the extent of the stability region. Stiff solves
# (Van der Pol to mu=1000, Prothero-Robinson; tsit5, dopri5, vern7, dop853, dopri8; rtol
# 1e-3 to 1e-9) have 90 % of their steps above 0.80; an oscillator and the Lorenz
# system, which accuracy limits, stay below 0.70 at rtol=0.1 and 0.53 at 1e-3.
STABILITY_LIMIT = 0.75

# Shorter than proposed by more than the rounding of a float32 error estimate.
_SHORTER = 0.98

# Proposed over accepted length. A step that crosses a jump or a corner is retried until
# it is this much shorter, often much more; retries in smooth solves end at 1.1 to 2,
# above 2.5 in fewer than one of ten.
_DROP = 2.5

# At a kink steps shrink at least so much in all, and are back at half the length from
# before, or have grown by `_REGROWN`, within `_AFTER` steps from the last retry. In a
# narrow but smooth layer they stay short for as long as the layer lasts.
_FALL, _REGROWN, _AFTER = 5.0, 20.0, 4

# Retries of one kink lie at most so many steps apart, and inside the first step that
# failed at it.
_GAP = 3

# A step retried down to less than 1 / `_DROP` before a kink errs by less than this, and
# one that crosses it by more.
_CROSSED = 0.05

# Fewer attempts than this were no hold-up.
_HELD_UP = 4.0

# One rejection shortens a step to about this share of it: only the split of a sample's
# rejections between its steps depends on it.
_RETRY = 0.7

# A step could have been so many times longer, by its error, at the most that is
# believed.
_LONGEST = 100.0


@dataclass(frozen=True)
class Kink:
    """A time `t` (in the user's direction, within `width`) at which a row was held up,
    in so many attempts."""

    row: int
    t: float
    width: float
    attempts: float


@dataclass(frozen=True)
class Limits:
    """A run taken apart, on the CPU.

    `t`, `h`, `error`, `load` (step times stiffness over the stability limit) and
    `attempts` are `(steps, rows)`, zero where `valid` is false. `bill` tells how many
    attempts each row spent on "stability", "kink", "stop", "max_step", "start" (growing
    from the first step) and "error" (as long as the tolerance allowed): `(rows,)` each,
    which add up to `total (rows,)`.
    """

    t: Tensor
    h: Tensor
    error: Tensor
    load: Tensor
    valid: Tensor
    attempts: Tensor
    stiff: Tensor
    smooth: Tensor
    bill: Mapping[str, Tensor]
    total: Tensor
    kinks: tuple[Kink, ...]


def limits_of(run: Run) -> Limits:
    """Take a run under `PID` apart."""
    tape, problem = run.outcome.tape, run.problem
    controller, stepper = problem.controller, problem.stepper
    assert isinstance(controller, PID) and stepper.error_order is not None
    valid = tape.valid.cpu()
    t, h, error = (_column(tape.grid(x)) for x in (tape.t, tape.h, tape.error))
    load = _column(tape.grid(tape.stiffness)) * h / (stepper.stability or math.nan)
    load = torch.where(valid, load, 0.0)
    rejected = tape.rejected.cpu().double()
    total = tape.accepted.cpu() + rejected
    order = stepper.error_order
    proposed, want = _proposed(controller, h, error, order, valid)
    ends = problem.t1.unsqueeze(1)
    if problem.stops is not None:
        ends = torch.cat([problem.stops.ends, ends], dim=1)
    landed, final = _landings(t, h, ends.cpu(), tape.t_end.cpu(), valid)
    short = valid & (h < _SHORTER * proposed)
    cut = short & (landed | final)
    # Steps that would leave a sliver are halved: twins before a landing.
    twin = torch.zeros_like(cut)
    twin[:-1] = short[:-1] & (landed | final)[1:] & ((h[1:] / h[:-1] - 1).abs() < 1e-3)
    retried = short & ~cut & ~twin
    weight = (torch.log(proposed / h) / -math.log(_RETRY)).clamp_min(1.0)
    weight = torch.where(retried, weight, 0.0)
    if weight.shape[0]:
        # The first step's own rejections leave no trace.
        none = weight.sum(dim=0) == 0
        weight[0] = torch.where(none, 1.0, weight[0])
    each = weight / weight.sum(dim=0).clamp_min(1.0)
    attempts = valid + each * rejected
    kinks, kink, spent = _kinks(run, t, h, error, proposed, retried, attempts)
    stiff = valid & ~kink & (load >= STABILITY_LIMIT)
    stop = (cut & landed) | (twin & _next(landed))
    capped = valid & (h >= controller.max_step * (1.0 - 1e-6))
    # Growing again after a short step: the cause is what made that one short.
    grows = valid & ~kink & ~retried & ~cut & ~twin & ~capped & (want > 2.0 * h)
    number = torch.arange(len(h)).unsqueeze(1).expand_as(grows)
    root = torch.where(grows & (number > 0), -1, number)
    root = root.cummax(dim=0).values if len(h) else root
    start = grows & (root == 0)
    stop = stop | (grows & _at(stop, root))
    kink_after = grows & _at(kink, root)
    idle = torch.where(valid, 1.0 - h / want, 0.0)
    wanted = torch.where(cut | twin, 1.0 - h / proposed, idle)
    free = ~kink & ~stiff
    bill = {
        "stability": (attempts * stiff).sum(dim=0),
        "kink": spent + (idle * (kink_after & free)).sum(dim=0),
        "stop": (wanted * (stop & free & ~kink_after)).sum(dim=0),
        "max_step": (attempts * idle * (capped & free & ~stop)).sum(dim=0),
        "start": (idle * (start & free & ~stop & ~capped)).sum(dim=0),
    }
    rest = total - sum(bill.values(), torch.zeros_like(total))
    bill["error"] = rest.clamp_min(0.0)
    smooth = free & valid & ~stop & ~capped & ~kink_after & ~start
    return Limits(t, h, error, load, valid, attempts, stiff, smooth, bill, total, kinks)


def _column(values: Tensor) -> Tensor:
    return values.detach().double().cpu()


def _next(mask: Tensor) -> Tensor:
    """Whether the following step is marked."""
    moved = torch.zeros_like(mask)
    moved[:-1] = mask[1:]
    return moved


def _at(mask: Tensor, number: Tensor) -> Tensor:
    return mask.gather(0, number.clamp_min(0)) & (number >= 0)


def _proposed(
    controller: PID, h: Tensor, error: Tensor, order: float, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """The length proposed for each step, and that which its own error would allow."""
    ratio = torch.where(valid, error, 1.0)
    log = ratio.log().clamp_min(math.log(1e-4))
    history = tuple(_shifted(log, by) for by in (1, 2))
    _, after, _ = controller.adapt(h, ratio, (history[0], history[1]), order)
    after = after.clamp(controller.min_step, controller.max_step)
    proposed = torch.cat([h[:1], after[:-1]])
    growth = controller.safety * ratio.clamp_min(1e-300) ** (-1.0 / order)
    return proposed, h * growth.clamp(1.0, _LONGEST)


def _shifted(values: Tensor, by: int) -> Tensor:
    moved = torch.zeros_like(values)
    moved[by:] = values[:-by]
    return moved


def _landings(
    t: Tensor, h: Tensor, ends: Tensor, t_end: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Which steps end at a stop, and which where the row ended."""
    after = (t + h).t().contiguous()
    place = torch.searchsorted(ends.contiguous(), after)
    hit = torch.zeros_like(after, dtype=torch.bool)
    near = 1e-6 * h.t()
    for side in (place - 1, place):
        close = ends.gather(1, side.clamp(0, ends.shape[1] - 1))
        hit = hit | ((close - after).abs() <= near)
    final = (after - t_end.unsqueeze(1)).abs() <= near
    return (hit & ~final).t() & valid, final.t() & valid


def _kinks(
    run: Run,
    t: Tensor,
    h: Tensor,
    error: Tensor,
    proposed: Tensor,
    retried: Tensor,
    attempts: Tensor,
) -> tuple[tuple[Kink, ...], Tensor, Tensor]:
    """Kinks, the steps held up by them, and the attempts `(rows,)` spent on them."""
    mask = torch.zeros_like(retried)
    spent = h.new_zeros(h.shape[1])
    kinks = []
    drops = retried & (proposed > _DROP * h)
    sign = -1.0 if run.layout.reverse else 1.0
    for row in drops.any(dim=0).nonzero().view(-1).tolist():
        count = int(run.outcome.tape.accepted[row])
        length, ratio = h[:, row], error[:, row]
        # Nothing that the row ever did tells that it could do a longer step.
        hoped = proposed[:, row].minimum(length.max())
        reach = t[:, row] + hoped
        for first, last in _clusters(drops[:, row], t[:, row], reach, ratio):
            before = float(hoped[first])
            after = slice(last, min(last + 1 + _AFTER, count))
            least = float(length[first : last + 2].min())
            most = float(length[after].max())
            back = most >= 0.5 * before or most >= _REGROWN * least
            if least * _FALL > before or not back:
                continue
            # What crosses is the last to be retried, and errs by nearly the tolerance;
            # or the step after it.
            here = last
            if last + 1 < count and float(ratio[last + 1]) > float(ratio[last]):
                here = last + 1 if float(length[last + 1]) < 0.5 * before else last
            steps = slice(first, here + 1)
            cost = float(attempts[steps, row].sum() - length[steps].sum() / before)
            if cost < _HELD_UP:
                continue
            mask[steps, row] = True
            spent[row] += cost
            middle = float(t[here, row] + 0.5 * length[here])
            kinks.append(Kink(row, sign * middle, float(length[here]), cost))
    return tuple(kinks), mask, spent


def _clusters(
    drops: Tensor, t: Tensor, reach: Tensor, ratio: Tensor
) -> list[tuple[int, int]]:
    """First and last of every group of retried steps that one kink may explain.

    `t` where each step starts, `reach` where it was proposed to end, `ratio` its error.
    """
    groups: list[tuple[int, int]] = []
    for number in drops.nonzero().view(-1).tolist():
        if groups:
            first, last = groups[-1]
            near = number - last <= _GAP and t[number] < reach[first]
            if near and ratio[last] < _CROSSED:
                groups[-1] = (first, number)
                continue
        groups.append((number, number))
    return groups
