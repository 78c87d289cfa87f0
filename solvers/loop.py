"""Adaptive loops: find the accepted steps, without a graph.

Two loops over one stepper and one controller. `run_masked` gives every row its own time
and step in tensors, and never asks the device anything within a step. `run_host` serves
a single row on the CPU (one sample, or a batch that shares its steps), where Python
numbers are cheaper than tensors of one element.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nde.solvers.bound import BoundSDE
from nde.solvers.controller import PID
from nde.solvers.driving import Drive, resolution_of
from nde.solvers.initial_step import initial_step, noisy_step
from nde.solvers.locate import Lookout, settle
from nde.solvers.problem import Problem
from nde.solvers.progress import RESOLUTION, Progress, resolution
from nde.solvers.recording import HostRecorder, Recorder
from nde.solvers.schedule import restarted
from nde.solvers.stepper import Stepper
from nde.solvers.tape import Tape
from nde.solvers.transforms import least_member, transformed, worst_member
from nde.solvers.types import Increment, Status

# Attempts between packings of the tape, which are also the times when failed rows are
# looked for.
CHUNK = 32

# Attempts between looks at whether any row still runs. A look waits for the device.
CHECK_CPU = 1
CHECK_DEVICE = 8


def run(problem: Problem, carry: tuple[Tensor, ...]) -> Tape:
    """Integrate adaptively from `problem.y0`, whose carry is `carry`."""
    if problem.rows == 1 and problem.y0.device.type == "cpu":
        return run_host(problem, carry)
    return run_masked(problem, carry)


@torch.no_grad()
def run_masked(problem: Problem, carry: tuple[Tensor, ...]) -> Tape:
    """Every row on its own: one attempted step of all rows per iteration."""
    stepper, controller, order = _parts(problem)
    observer, on_cpu = problem.observer, problem.y0.device.type == "cpu"
    check = CHECK_CPU if on_cpu else CHECK_DEVICE
    y = problem.y0.detach()
    ensemble = transformed()
    stages = stepper.workspace(y, graph=ensemble)
    recorder, progress = Recorder(problem), Progress(problem)
    carry = progress.begin(y, tuple(part.detach() for part in carry))
    h_next = _first_step(problem, carry, order)
    # Not `y.new_ones`: an ensemble of states would have a history for each member.
    ones = torch.ones(problem.rows, dtype=y.dtype, device=y.device)
    history = controller.begin(ones)
    lookout = None if problem.watch is None else Lookout(problem, carry)
    drive = None if problem.noise is None else Drive(problem)
    for attempt in range(1, problem.max_steps + 1):
        carry = progress.enter(y, carry)
        t, h, end = progress.next_step(h_next)
        inc = Increment(h.to(y.dtype).unsqueeze(1))
        if drive is not None:
            inc = drive.over(end, inc)
        if observer is not None:
            observer.attempt(t, y, h)
        out = stepper.step(problem.term, t, y, inc, carry, stages)
        error, wanted = problem.error_ratio(y, out), h_next
        if ensemble:
            error = worst_member(error)
        accept, h_next, history = controller.adapt(h, error, history, order)
        if drive is not None:
            h_next = rounded(h_next)
        stuck = None
        if controller.bounds:
            accept, h_next, stuck = controller.bound(h, h_next, error, accept)
        h_next = progress.recovered(h_next, wanted, h, accept)
        if observer is not None:
            observer.judge(t, y, h, accept)
        stiffness = problem.stiffness(y, out)
        record = (t, h, accept, error, stiffness, progress.fresh)
        recorder.add(record, y, carry, inc, out.stages)
        seen = None
        if lookout is not None:
            moved = accept & (h > 0)
            seen = lookout.look(moved, t, h, y, inc, carry, out, stages)
        wide = accept.unsqueeze(1)
        y = torch.where(wide, out.y1, y)
        carry = tuple(
            torch.where(wide, new, old)
            for new, old in zip(out.carry, carry, strict=True)
        )
        progress.advance(accept)
        if drive is not None:
            drive.advance(accept)
        if seen is not None:
            progress.end(seen, Status.EVENT)
        if stuck is not None:
            progress.end(stuck, _cause(~torch.isfinite(error)))
        if attempt % CHUNK == 0:
            recorder.flush()
            progress.end(progress.lost(h_next), _cause(recorder.broken))
        if attempt % check == 0 and not _any(progress.running()):
            break
    recorder.flush()
    progress.end(progress.running() > 0, Status.MAX_STEPS)
    tape = recorder.finish(y, carry, progress.t_end, progress.status)
    return tape if lookout is None else settle(problem, tape, lookout.held)


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
    observer = problem.observer
    y = problem.y0
    ensemble = transformed()
    stages = stepper.workspace(y, graph or ensemble)
    segments = _segments(problem)
    last_t1 = float(problem.t1[0])
    stopped = len(segments) > 1 or problem.noise is not None
    eps, far = torch.finfo(problem.t1.dtype).eps, max(abs(segments[0][0]), abs(last_t1))
    t, t1, fresh = segments.pop(0)
    carry = _begun(problem, t, y, carry, fresh)
    recorder = HostRecorder(problem, graph)
    h_next = float(_first_step(problem, carry, order)[0])
    history = (0.0, 0.0)
    lookout = None if problem.watch is None else Lookout(problem, carry)
    drive = None if problem.noise is None else Drive(problem)
    # Ends of rejected steps along a Brownian motion: see `rejected.py`.
    rejected: list[float] = []
    least = float(resolution_of(problem))
    attempts, status, error = 0, Status.SUCCESS, 0.0
    while status == Status.SUCCESS and (t < t1 or segments):
        if t >= t1:
            t, t1, fresh = segments.pop(0)
            carry = _begun(problem, t, y, carry, fresh)
            continue
        if attempts == problem.max_steps:
            status = Status.MAX_STEPS
            continue
        if h_next <= max(RESOLUTION * eps * max(abs(t), eps * far), least):
            status = _cause_of(error)
            continue
        goal = rejected[-1] if rejected else t1
        rest = goal - t
        landed = h_next >= rest
        h = rest if landed else min(h_next, 0.5 * rest)
        after = goal if landed else t + h
        inc = Increment(h)
        if drive is not None:
            inc = drive.over(problem.t0.new_tensor([after]), inc)
        if observer is not None:
            observer.attempt(t, y, h)
        out = stepper.step(problem.term, t, y, inc, carry, stages)
        ratio = problem.error_ratio(y, out)
        error, wanted = (worst_member(ratio) if ensemble else ratio).item(), h_next
        attempts += 1
        accept, h_next, history = controller.adapt_host(h, error, history, order)
        if drive is not None:
            h_next = rounded_host(h_next)
        if controller.bounds:
            accept, h_next, stuck = controller.bound_host(h, h_next, error, accept)
            if stuck:
                status = _cause_of(error)
        if observer is not None:
            observer.judge(t, y, h, accept)
        if not accept:
            if drive is not None and not landed:
                rejected.append(after)
            continue
        if drive is not None:
            drive.advance()
            if landed and rejected:
                rejected.pop()
        if stopped and h < wanted:
            # A step cut short by a stop says nothing against longer ones after it.
            h_next = max(h_next, wanted)
        step = (t, h, error, fresh)
        recorder.add(step, y, carry, inc, out, ratio, stages)
        if lookout is not None:
            begin, length = (problem.t0.new_tensor([number]) for number in (t, h))
            moved = begin == begin
            if lookout.look(moved, begin, length, y, inc, carry, out, stages):
                status = Status.EVENT
        t, y, fresh = after, out.y1, False
        carry = out.carry if graph else tuple(part.clone() for part in out.carry)
    t_end = last_t1 if status == Status.SUCCESS else t
    tape = recorder.finish(y, carry, t_end, attempts, status)
    return tape if lookout is None else settle(problem, tape, lookout.held)


def _begun(
    problem: Problem, t: float, y: Tensor, carry: tuple[Tensor, ...], fresh: bool
) -> tuple[Tensor, ...]:
    """The carry at the beginning of a segment, taken anew after a jump."""
    if not (fresh and carry):
        return carry
    begin = problem.t0.new_tensor([t])
    return restarted(problem, begin, y, carry, begin == begin)


def _cause_of(error: float) -> Status:
    """Why a step that was not good enough could not be shorter."""
    finite = math.isfinite(error)
    return Status.STEP_UNDERFLOW if finite else Status.NON_FINITE_FIELD


def _parts(problem: Problem) -> tuple[Stepper, PID, float]:
    stepper, controller = problem.stepper, problem.controller
    assert isinstance(controller, PID) and stepper.error_order is not None
    return stepper, controller, stepper.error_order


@torch.no_grad()
def _first_step(problem: Problem, carry: tuple[Tensor, ...], order: float) -> Tensor:
    controller, given = problem.controller, problem.first_step
    assert isinstance(controller, PID)
    span = problem.t1 - problem.t0
    if given is not None:
        unknown = torch.isnan(given)
        step = given.minimum(span)
        if bool(unknown.any()):
            chosen = _chosen_step(problem, carry, order, span)
            step = torch.where(unknown, chosen, step)
    elif controller.first_step is not None:
        step = torch.full_like(span, controller.first_step).minimum(span)
    else:
        step = _chosen_step(problem, carry, order, span)
    return step.clamp(controller.min_step, controller.max_step)


def _chosen_step(
    problem: Problem, carry: tuple[Tensor, ...], order: float, span: Tensor
) -> Tensor:
    y = problem.y0.detach()
    k = carry[0] if carry else problem.term.f(problem.t0.to(y.dtype), y)
    step = initial_step(problem.term, problem.t0, y, k, span, problem.tolerances, order)
    if isinstance(problem.term, BoundSDE):
        step = noisy_step(problem.term, problem.t0, y, step, problem.tolerances)
        step = rounded(step)
    # A guess too short to be told from none, near a zero of the state, is no failure.
    far = torch.maximum(problem.t0.abs(), problem.t1.abs())
    least = 2.0 * resolution(problem.t0, far)
    return torch.maximum(least_member(step), torch.minimum(least, span))


def rounded(h: Tensor) -> Tensor:
    """Steps to few digits.

    What rounding did to error estimates, as it does in batches of other sizes, is not
    to move the times where a Brownian path is looked at: the path would be another.
    """
    return h.to(torch.float32).to(h.dtype)


def rounded_host(h: float) -> float:
    """`rounded` for one row known on the host."""
    if not math.isfinite(h):
        return h
    digits, exponent = math.frexp(h)
    return math.ldexp(round(digits * 2.0**24), exponent - 24)


def _any(positive: Tensor) -> bool:
    """Whether any entry is positive; waits for the device."""
    return positive.numel() > 0 and positive.max().item() > 0.0


def _cause(broken: Tensor) -> Tensor:
    """Why a step that was not good enough could not be shorter: `(rows,)`."""
    return torch.where(broken, int(Status.NON_FINITE_FIELD), int(Status.STEP_UNDERFLOW))


def _segments(problem: Problem) -> list[tuple[float, float, bool]]:
    """Begin and end of the segments of a single row, and whether at a jump."""
    stops = problem.stops
    if stops is None:
        return [(float(problem.t0[0]), float(problem.t1[0]), False)]
    columns = (stops.begins[0], stops.ends[0], stops.restarts[0])
    table = zip(*(column.tolist() for column in columns), strict=True)
    return list(table)[: int(stops.last[0]) + 1]
