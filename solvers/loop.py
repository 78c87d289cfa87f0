"""Adaptive loops: find the accepted steps, without a graph.

Two loops over one stepper and one controller. `run_masked` gives every row its own time
and step in tensors, and never asks the device anything within a step. `run_host` serves
a single row on the CPU (one sample, or a batch that shares its steps), where Python
numbers are cheaper than tensors of one element.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import replace

import torch
from torch import Tensor

from nde.solvers.controller import PID
from nde.solvers.initial_step import initial_step
from nde.solvers.locate import Held, crossings, first_signs, settle
from nde.solvers.problem import Problem
from nde.solvers.schedule import restarted
from nde.solvers.stepper import Stepper
from nde.solvers.tape import Recorder, Tape
from nde.solvers.types import Increment, Status

# Attempts between packings of the tape, which are also the times when failed rows are
# looked for.
CHUNK = 32

# Attempts between looks at whether any row still runs. A look waits for the device.
CHECK_CPU = 1
CHECK_DEVICE = 8

# A step this many units in the last place of t cannot be told from none.
_RESOLUTION = 8.0


def run(problem: Problem, carry: tuple[Tensor, ...]) -> Tape:
    """Integrate adaptively from `problem.y0`, whose carry is `carry`."""
    if problem.rows == 1 and problem.y0.device.type == "cpu":
        return run_host(problem, carry)
    return run_masked(problem, carry)


@torch.no_grad()
def run_masked(problem: Problem, carry: tuple[Tensor, ...]) -> Tape:
    """Every row on its own: one attempted step of all rows per iteration."""
    stepper, controller, order = _parts(problem)
    stops, watch, observer = problem.stops, problem.watch, problem.observer
    y = problem.y0.detach()
    carry = tuple(part.detach() for part in carry)
    stages = stepper.workspace(y, graph=False)
    recorder = Recorder(problem)
    # Time is kept as what remains: a last step of exactly that leaves exactly zero.
    goal, begin = problem.t1, problem.t0
    if stops is not None:
        goal, begin = stops.ends[:, 0], stops.begins[:, 0]
    whole = remaining = goal - begin
    segment = torch.zeros_like(recorder.accepted)
    jumps = stops is not None and stops.jumps
    fresh: Tensor | None = None
    if stops is not None and jumps:
        fresh = stops.restarts[:, 0]
        carry = restarted(problem, begin, y, carry, fresh) if carry else carry
    t_end = problem.t1.clone()
    status = torch.full_like(segment, int(Status.SUCCESS))
    h_next = _first_step(problem, carry, order)
    history = controller.begin(y.new_ones(problem.rows))
    sign, held = None, None
    if watch is not None:
        sign = first_signs(problem, carry)
        held = Held.none(problem, sign, carry)
    check = CHECK_CPU if y.device.type == "cpu" else CHECK_DEVICE
    attempts, rows = 0, problem.rows
    busy = _busy(problem, remaining, segment)
    while attempts < problem.max_steps:
        if stops is not None:
            arrived = (remaining <= 0) & (segment < stops.last)
            segment = segment + arrived
            column = segment.unsqueeze(1)
            goal = stops.ends.gather(1, column).squeeze(1)
            begin = stops.begins.gather(1, column).squeeze(1)
            whole = goal - begin
            remaining = torch.where(arrived, whole, remaining)
            if fresh is not None:
                again = stops.restarts.gather(1, column).squeeze(1)
                fresh = torch.where(arrived, again, fresh)
                if carry and bool((arrived & again).any()):
                    carry = restarted(problem, begin, y, carry, arrived & again)
        # Halving what remains, rather than leaving a sliver, costs no step.
        soft = torch.minimum(h_next, 0.5 * remaining)
        h = torch.where(h_next < remaining, soft, remaining)
        dt = h.to(y.dtype).unsqueeze(1)
        t = goal - remaining
        if stops is not None:
            # The sum would round a stop away.
            t = torch.where(remaining < whole, t, begin)
        inc = Increment(dt)
        if observer is not None:
            observer.attempt(t, y, h)
        out = stepper.step(problem.term, t, y, inc, carry, stages)
        error = problem.error_ratio(y, out)
        proposed = h_next
        accept, h_next, history = controller.adapt(h, error, history, order)
        if controller.bounds:
            accept, h_next, stuck = controller.bound(h, h_next, error, accept)
        if stops is not None:
            # A step cut short by a stop says nothing against longer ones after it.
            longer = torch.maximum(h_next, proposed)
            h_next = torch.where(accept & (h < proposed), longer, h_next)
        if observer is not None:
            observer.judge(t, y, h, accept)
        read = None
        if recorder.reads_inside:
            assert out.stages is not None
            read = out.stages.all()
        recorder.add(
            (t, h, accept, error, problem.stiffness(y, out), fresh), y, carry, read
        )
        if watch is not None:
            assert sign is not None and held is not None
            moved = accept & (h > 0)
            crossed, new = crossings(problem, sign, t, y, inc, out, stages)
            crossed = crossed & moved
            sign_before, sign = sign, torch.where(moved, new, sign)
            seen = crossed.any(dim=0)
            held = held.update(seen, t, h, y, carry, sign_before)
        wide = accept.unsqueeze(1)
        y = torch.where(wide, out.y1, y)
        carry = tuple(
            torch.where(wide, new_part, old)
            for new_part, old in zip(out.carry, carry, strict=True)
        )
        remaining = torch.where(accept, remaining - h, remaining)
        if fresh is not None:
            fresh = fresh & ~accept
        attempts += 1
        ended = None
        if watch is not None:
            ended, cause = seen, torch.full_like(status, int(Status.EVENT))
        if controller.bounds or attempts % CHUNK == 0:
            lost = _underflow(problem, goal, remaining, h_next)
            if controller.bounds:
                lost = lost | (stuck & (remaining > 0))
            kind = torch.where(
                torch.isfinite(error),
                int(Status.STEP_UNDERFLOW),
                int(Status.NON_FINITE_FIELD),
            )
            cause = kind if ended is None else torch.where(ended, cause, kind)
            ended = lost if ended is None else ended | lost
        if ended is not None:
            status = torch.where(ended, cause, status)
            t_end = torch.where(ended, goal - remaining, t_end)
            remaining = torch.where(ended, 0.0, remaining)
            if stops is not None:
                segment = torch.where(ended, stops.last, segment)
        if attempts % CHUNK == 0:
            recorder.flush()
        busy = _busy(problem, remaining, segment)
        if attempts % check == 0 and not (rows and busy.max().item() > 0.0):
            break
    recorder.flush()
    unfinished = busy > 0
    status = torch.where(unfinished, int(Status.MAX_STEPS), status)
    t_end = torch.where(unfinished, goal - remaining, t_end)
    tape = recorder.finish(y, carry, t_end, status)
    return tape if held is None else settle(problem, tape, held)


@torch.no_grad()
def run_host(problem: Problem, carry: tuple[Tensor, ...]) -> Tape:
    """A single row, with time, step and decisions as Python numbers."""
    carry = tuple(part.detach() for part in carry)
    begun = replace(problem, y0=problem.y0.detach())
    return _on_host(begun, carry, graph=False)


def can_record(problem: Problem) -> bool:
    """Whether steps can be found while autograd records them."""
    host = problem.rows == 1 and problem.y0.device.type == "cpu"
    return host and problem.watch is None


def run_recorded(problem: Problem, carry: tuple[Tensor, ...]) -> Tape:
    """`run` while autograd records: the tape's end state, interpolants and estimates
    carry a graph of the accepted steps. For problems that `can_record` admits."""
    return _on_host(problem, carry, graph=True)


def _on_host(problem: Problem, carry: tuple[Tensor, ...], graph: bool) -> Tape:
    stepper, controller, order = _parts(problem)
    watch, observer = problem.watch, problem.observer
    y = problem.y0
    stages = stepper.workspace(y, graph)
    reads = sorted(problem.reads[problem.interior].tolist())
    segments = _segments(problem)
    stopped = len(segments) > 1
    t, t1, fresh = segments.pop(0)
    if fresh and carry:
        begin = problem.t0.new_tensor([t])
        carry = restarted(problem, begin, y, carry, begin == begin)
    last_t1 = float(problem.t1[0])
    h_next = float(_first_step(problem, carry, order)[0])
    history = (0.0, 0.0)
    sign = held = None
    if watch is not None:
        sign = first_signs(problem, carry)
        held = Held.none(problem, sign, carry)
    times: list[tuple[float, float, float, bool]] = []
    states: list[Tensor] = []
    carries: list[tuple[Tensor, ...]] = []
    stiffness: list[Tensor] = []
    slots: list[int] = []
    polynomials: list[Tensor] = []
    ratios: list[Tensor] = []
    attempts, met, status, error = 0, 0, Status.SUCCESS, 0.0
    while t < t1 or segments:
        if t >= t1:
            t, t1, fresh = segments.pop(0)
            if fresh and carry:
                begin = problem.t0.new_tensor([t])
                carry = restarted(problem, begin, y, carry, begin == begin)
            continue
        if attempts == problem.max_steps:
            status = Status.MAX_STEPS
            break
        if h_next <= _RESOLUTION * math.ulp(max(abs(t), abs(last_t1))):
            finite = math.isfinite(error)
            status = Status.STEP_UNDERFLOW if finite else Status.NON_FINITE_FIELD
            break
        rest = t1 - t
        last = h_next >= rest
        h = rest if last else min(h_next, 0.5 * rest)
        inc = Increment(h)
        if observer is not None:
            observer.attempt(t, y, h)
        out = stepper.step(problem.term, t, y, inc, carry, stages)
        ratio = problem.error_ratio(y, out)
        error = ratio.item()
        attempts += 1
        proposed = h_next
        accept, h_next, history = controller.adapt_host(h, error, history, order)
        if controller.bounds:
            accept, h_next, stuck = controller.bound_host(h, h_next, error, accept)
            if stuck:
                finite = math.isfinite(error)
                status = Status.STEP_UNDERFLOW if finite else Status.NON_FINITE_FIELD
                break
        if observer is not None:
            observer.judge(t, y, h, accept)
        if not accept:
            continue
        if stopped and h < proposed:
            # A step cut short by a stop says nothing against longer ones after it.
            h_next = max(h_next, proposed)
        after = t1 if last else t + h
        passed, met = met, bisect.bisect_right(reads, after)
        if problem.dense or met > passed:
            slots.append(len(times))
            stepper.extend(problem.term, t, y, inc, stages)
            assert out.stages is not None
            polynomials.append(problem.polynomials(y, out.stages.all()))
        times.append((t, h, error, fresh))
        stiffness.append(problem.stiffness(y, out))
        if graph:
            ratios.append(ratio)
        if problem.keep:
            states.append(y.detach())
            carries.append(tuple(part.detach() for part in carry))
        if watch is not None:
            assert sign is not None and held is not None
            start, length = problem.t0.new_tensor([t]), problem.t0.new_tensor([h])
            crossed, new = crossings(problem, sign, start, y, inc, out, stages)
            seen = crossed.any(dim=0)
            held = held.update(seen, start, length, y, carry, sign)
            sign = new
            if bool(seen):
                status = Status.EVENT
        t, y, fresh = after, out.y1, False
        carry = out.carry if graph else tuple(part.clone() for part in out.carry)
        if status == Status.EVENT:
            break
    accepted = len(times)
    table = problem.t1.new_tensor([row[:3] for row in times]).reshape(-1, 3)
    again = torch.tensor([row[3] for row in times], dtype=torch.bool)
    count = torch.tensor([accepted, attempts - accepted, int(status)])
    tape = Tape(
        step=torch.arange(accepted),
        row=torch.zeros(accepted, dtype=torch.int64),
        t=table[:, 0],
        h=table[:, 1],
        fresh=again if problem.stops is not None else None,
        error=torch.cat(ratios) if ratios else table[:, 2].to(y.dtype),
        stiffness=torch.cat(stiffness) if stiffness else y.new_zeros(0),
        y=torch.cat(states) if states else y[:0],
        carry=tuple(torch.cat(part) for part in zip(*carries, strict=True)),
        slots=torch.tensor(slots, dtype=torch.int64),
        polynomials=torch.cat(polynomials) if slots else y[:0].unsqueeze(1),
        y_end=y,
        carry_end=carry,
        t_end=problem.t1.new_tensor([last_t1 if status == Status.SUCCESS else t]),
        accepted=count[:1],
        rejected=count[1:2],
        status=count[2:],
    )
    return tape if held is None else settle(problem, tape, held)


def _parts(problem: Problem) -> tuple[Stepper, PID, int]:
    stepper, controller = problem.stepper, problem.controller
    assert isinstance(controller, PID) and stepper.error_order is not None
    return stepper, controller, stepper.error_order


@torch.no_grad()
def _first_step(problem: Problem, carry: tuple[Tensor, ...], order: int) -> Tensor:
    controller = problem.controller
    assert isinstance(controller, PID)
    span = problem.t1 - problem.t0
    if controller.first_step is not None:
        first = torch.full_like(span, controller.first_step).minimum(span)
        return first.clamp(controller.min_step, controller.max_step)
    y = problem.y0.detach()
    k = carry[0] if carry else problem.term.f(problem.t0.to(y.dtype), y)
    step = initial_step(problem.term, problem.t0, y, k, span, problem.tolerances, order)
    # A guess too short to be told from none, near a zero of the state, is no failure.
    eps = torch.finfo(span.dtype).eps
    ulp = eps * torch.maximum(problem.t0.abs(), problem.t1.abs())
    step = torch.maximum(step, torch.minimum(2.0 * _RESOLUTION * ulp, span))
    return step.clamp(controller.min_step, controller.max_step)


def _busy(problem: Problem, remaining: Tensor, segment: Tensor) -> Tensor:
    """Positive for rows that have a way to go."""
    if problem.stops is None:
        return remaining
    return remaining + (problem.stops.last - segment)


def _segments(problem: Problem) -> list[tuple[float, float, bool]]:
    """Begin and end of the segments of a single row, and whether at a jump."""
    stops = problem.stops
    if stops is None:
        return [(float(problem.t0[0]), float(problem.t1[0]), False)]
    columns = (stops.begins[0], stops.ends[0], stops.restarts[0])
    table = zip(*(column.tolist() for column in columns), strict=True)
    return list(table)[: int(stops.last[0]) + 1]


def _underflow(
    problem: Problem, goal: Tensor, remaining: Tensor, h_next: Tensor
) -> Tensor:
    """Rows whose next step is lost in the rounding of their time."""
    t = goal - remaining
    ulp = torch.finfo(t.dtype).eps * torch.maximum(t.abs(), problem.t1.abs())
    return (remaining > 0) & (h_next <= _RESOLUTION * ulp)
