"""Adaptive loops: find the accepted steps, without a graph.

Two loops over one stepper and one controller. `run_masked` gives every row its own time
and step in tensors, and never asks the device anything within a step. `run_host` serves
a single row on the CPU (one sample, or a batch that shares its steps), where Python
numbers are cheaper than tensors of one element.
"""

from __future__ import annotations

import bisect
import math

import torch
from torch import Tensor

from nde.solvers.controller import PID
from nde.solvers.initial_step import initial_step
from nde.solvers.problem import Problem
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
    y = problem.y0.detach()
    carry = tuple(part.detach() for part in carry)
    stages = stepper.workspace(y, graph=False)
    recorder = Recorder(problem)
    # Time is kept as what remains: a last step of exactly that leaves exactly zero.
    remaining = problem.t1 - problem.t0
    t_end = problem.t1.clone()
    status = torch.full_like(recorder.accepted, int(Status.SUCCESS))
    h_next = _first_step(problem, carry, order)
    history = controller.begin(y.new_ones(problem.rows))
    check = CHECK_CPU if y.device.type == "cpu" else CHECK_DEVICE
    attempts, rows = 0, problem.rows
    while attempts < problem.max_steps:
        # Halving what remains, rather than leaving a sliver, costs no step.
        soft = torch.minimum(h_next, 0.5 * remaining)
        h = torch.where(h_next < remaining, soft, remaining)
        dt = h.to(y.dtype).unsqueeze(1)
        t = problem.t1 - remaining
        out = stepper.step(problem.term, t, y, Increment(dt), carry, stages)
        error = problem.error_ratio(y, out)
        accept, h_next, history = controller.adapt(h, error, history, order)
        read = None
        if recorder.reads_inside:
            assert out.stages is not None
            read = out.stages.all()
        recorder.add((t, h, accept, error, problem.stiffness(y, out)), y, carry, read)
        wide = accept.unsqueeze(1)
        y = torch.where(wide, out.y1, y)
        carry = tuple(
            torch.where(wide, new, old)
            for new, old in zip(out.carry, carry, strict=True)
        )
        remaining = torch.where(accept, remaining - h, remaining)
        attempts += 1
        if attempts % CHUNK == 0:
            recorder.flush()
            ended = _underflow(problem, remaining, h_next)
            cause = torch.where(
                torch.isfinite(error),
                int(Status.STEP_UNDERFLOW),
                int(Status.NON_FINITE),
            )
            status = torch.where(ended, cause, status)
            t_end = torch.where(ended, problem.t1 - remaining, t_end)
            remaining = torch.where(ended, 0.0, remaining)
        if attempts % check == 0 and not (rows and remaining.max().item() > 0.0):
            break
    recorder.flush()
    unfinished = remaining > 0
    status = torch.where(unfinished, int(Status.MAX_STEPS), status)
    t_end = torch.where(unfinished, problem.t1 - remaining, t_end)
    return recorder.finish(y, carry, t_end, status)


@torch.no_grad()
def run_host(problem: Problem, carry: tuple[Tensor, ...]) -> Tape:
    """A single row, with time, step and decisions as Python numbers."""
    stepper, controller, order = _parts(problem)
    y = problem.y0.detach()
    carry = tuple(part.detach() for part in carry)
    stages = stepper.workspace(y, graph=False)
    reads = sorted(problem.reads[problem.interior].tolist())
    t, t1 = float(problem.t0[0]), float(problem.t1[0])
    h_next = float(_first_step(problem, carry, order)[0])
    history = (0.0, 0.0)
    times: list[tuple[float, float, float]] = []
    states: list[Tensor] = []
    carries: list[tuple[Tensor, ...]] = []
    stiffness: list[Tensor] = []
    slots: list[int] = []
    polynomials: list[Tensor] = []
    attempts, status, error = 0, Status.SUCCESS, 0.0
    while t < t1:
        if attempts == problem.max_steps:
            status = Status.MAX_STEPS
            break
        if h_next <= _RESOLUTION * math.ulp(max(abs(t), abs(t1))):
            finite = math.isfinite(error)
            status = Status.STEP_UNDERFLOW if finite else Status.NON_FINITE
            break
        rest = t1 - t
        last = h_next >= rest
        h = rest if last else min(h_next, 0.5 * rest)
        out = stepper.step(problem.term, t, y, Increment(h), carry, stages)
        error = problem.error_ratio(y, out).item()
        attempts += 1
        accept, h_next, history = controller.adapt_host(h, error, history, order)
        if not accept:
            continue
        after = t1 if last else t + h
        if problem.dense or bisect.bisect_right(reads, t) < bisect.bisect_right(
            reads, after
        ):
            slots.append(len(times))
            assert out.stages is not None
            stepper.extend(problem.term, t, y, Increment(h), stages)
            polynomials.append(problem.polynomials(y, out.stages.all()))
        times.append((t, h, error))
        stiffness.append(problem.stiffness(y, out))
        if problem.keep:
            states.append(y)
            carries.append(carry)
        t, y, carry = after, out.y1, out.carry
    accepted = len(times)
    table = problem.t1.new_tensor(times).reshape(-1, 3)
    count = torch.tensor([accepted, attempts - accepted, int(status)])
    return Tape(
        step=torch.arange(accepted),
        row=torch.zeros(accepted, dtype=torch.int64),
        t=table[:, 0],
        h=table[:, 1],
        error=table[:, 2].to(y.dtype),
        stiffness=torch.cat(stiffness) if stiffness else y.new_zeros(0),
        y=torch.cat(states) if states else y[:0],
        carry=tuple(torch.cat(part) for part in zip(*carries, strict=True)),
        slots=torch.tensor(slots, dtype=torch.int64),
        polynomials=torch.cat(polynomials) if slots else y[:0].unsqueeze(1),
        y_end=y,
        carry_end=carry,
        t_end=problem.t1.new_tensor([t]),
        accepted=count[:1],
        rejected=count[1:2],
        status=count[2:],
    )


def _parts(problem: Problem):  # type: ignore[no-untyped-def]
    stepper, controller = problem.stepper, problem.controller
    assert isinstance(controller, PID) and stepper.error_order is not None
    return stepper, controller, stepper.error_order


def _first_step(problem: Problem, carry: tuple[Tensor, ...], order: int) -> Tensor:
    controller = problem.controller
    assert isinstance(controller, PID)
    span = problem.t1 - problem.t0
    if controller.first_step is not None:
        return torch.full_like(span, controller.first_step).minimum(span)
    y = problem.y0.detach()
    k = carry[0] if carry else problem.term.f(problem.t0.to(y.dtype), y)
    return initial_step(
        problem.term, problem.t0, y, k, span, controller.tolerances, order
    )


def _underflow(problem: Problem, remaining: Tensor, h_next: Tensor) -> Tensor:
    """Rows whose next step is lost in the rounding of their time."""
    t = problem.t1 - remaining
    ulp = torch.finfo(t.dtype).eps * torch.maximum(t.abs(), problem.t1.abs())
    return (remaining > 0) & (h_next <= _RESOLUTION * ulp)
