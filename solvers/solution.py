"""What a solve returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nde.solvers import dense
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.initial_step import initial_step
from nde.solvers.problem import Problem
from nde.solvers.state import State
from nde.solvers.term import BoundSDE, Layout
from nde.solvers.types import Increment


@dataclass(frozen=True)
class Stats:
    """What a solve cost and estimated, per sample.

    `evaluations`, `accepted`, `rejected` `(batch,)` count vector-field calls and
    steps. Of the accepted steps, first to last, padded with zeros where `valid` is
    false, all `(steps, batch)`: start `t`, length `step`, `error_estimate` (RMS of the
    embedded error over the tolerance, at most 1; NaN if the method has none) and
    `stiffness` (about the largest eigenvalue of the Jacobian; NaN if the method has no
    estimate). The last two are differentiable; step sizes are constants.
    """

    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor
    t: Tensor
    step: Tensor
    error_estimate: Tensor
    stiffness: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Record:
    """What a solution keeps of its solve, in engine layout."""

    problem: Problem
    outcome: Outcome
    layout: Layout


@dataclass(frozen=True)
class Solution:
    """A solved equation; with `dense=True` also a path in time.

    `ts` as given; `ys` has the structure of y0, its leaves `(batch, T, ...)`; `final`
    is the state at each sample's own last time; `probes` `(batch, k, ...)` at
    `probe_times`, None without. `status (batch,)` holds values of `Status`.
    """

    ts: Tensor
    ys: State
    final: State
    probes: State | None
    status: Tensor
    stats: Stats
    record: Record

    def evaluate(self, t: Tensor) -> State:
        """The solution at times `t`, leaves `(batch, k, ...)`.

        `t (k,)` for all samples or `(batch, k)`, inside the interval. Differentiable.
        Raises ValueError without `dense=True`, or outside the interval.
        """
        times = self._times(t)
        outcome = self.record.outcome
        flat = dense.read(
            self.record.problem, outcome.tape, times, outcome.y_end, outcome.polynomials
        )
        return unflatten_reads(self.record.layout, flat)

    def derivative(self, t: Tensor) -> State:
        """The solution's time derivative at `t`, as `evaluate`."""
        times = self._times(t)
        layout, outcome = self.record.layout, self.record.outcome
        found, polynomials, _, theta = dense.pick(
            self.record.problem, outcome.tape, times, outcome.polynomials
        )
        slope = dense.derivative(polynomials, theta)
        flat = slope.new_full((*times.shape, slope.shape[-1]), torch.nan)
        flat = flat.index_put((found,), -slope if layout.reverse else slope)
        return unflatten_reads(layout, flat)

    def step_at(self, t: Tensor) -> Tensor:
        """Length of the accepted step that holds `t`, clipped to the end.

        `t (rows,)`, one per sample, or `(1,)` where the batch shares its steps;
        returns the same shape, float64, without gradient.
        """
        problem, tape = self.record.problem, self.record.outcome.tape
        engine = self._engine_time(t)
        entry, found = dense.locate(problem, tape, engine.unsqueeze(1))
        if tape.steps == 0:
            return torch.zeros_like(engine)
        h = torch.where(found, tape.h[entry], 0.0).squeeze(1)
        return torch.minimum(h, problem.t1 - engine).clamp_min(0.0)

    def accepted_step(self, number: Tensor) -> tuple[Tensor, Tensor, State]:
        """Start, length and start state of accepted steps, without gradient.

        `number (rows,)` counts each sample's accepted steps from 0. Raises ValueError
        if the solve kept no states, because nothing in it required gradients.
        """
        tape, layout = self.record.outcome.tape, self.record.layout
        if tape.y is None or tape.steps == 0:
            raise ValueError(
                "this solve kept no accepted steps: nothing in it required gradients; "
                "solve with gradients enabled"
            )
        entry = tape.index.gather(0, number.unsqueeze(0)).squeeze(0)
        # A row without such a step rests where it ended.
        there = number < tape.accepted
        t = torch.where(there, tape.t[entry], tape.t_end)
        h = torch.where(there, tape.h[entry], 0.0)
        flat = torch.where(there.unsqueeze(1), tape.y[entry], tape.y_end)
        y = layout.structure.unflatten(layout.to_batch(flat))
        return -t if layout.reverse else t, h, y

    def first_step(self, t: Tensor, y: State) -> Tensor:
        """The step with which a solve would set out from `y` at `t`: `(rows,)`.

        Hairer's automatic initial step, clipped to the end, without gradient. Raises
        ValueError for an SDE, or a method without an error estimate.
        """
        problem, layout = self.record.problem, self.record.layout
        order = problem.stepper.error_order
        if order is None or isinstance(problem.term, BoundSDE):
            raise ValueError(
                f"method {problem.stepper.name!r} does not choose a first step; use an "
                "adaptive ODE method, or the accepted step"
            )
        start = self._engine_time(t)
        with torch.no_grad():
            flat = layout.to_engine(y, "y").detach()
            k = problem.term.f(start.to(flat.dtype), flat)
            return initial_step(
                problem.term,
                start,
                flat,
                k,
                problem.t1 - start,
                problem.controller.tolerances,
                order,
            )

    def embedded_step(
        self,
        t: Tensor,
        y: State,
        h: Tensor,
        k1: Literal["attached", "frozen"] = "attached",
    ) -> tuple[Tensor, Tensor]:
        """Error and stiffness estimates of one more step of the same method.

        From state `y` at `t (rows,)` over `h (rows,)`; returns `(rows,)` each, NaN
        where the method has no such estimate. Differentiable in y and in the vector
        field, not in `t` and `h`; `k1="frozen"` takes the first stage of a method that
        shares it with the step before as a constant. An SDE's step takes fresh noise
        from torch's global generator.
        """
        problem, layout = self.record.problem, self.record.layout
        start = self._engine_time(t)
        flat = layout.to_engine(y, "y").contiguous()
        length = h.detach().to(start.dtype)
        noise = None
        if isinstance(problem.term, BoundSDE):
            normal = torch.randn(
                problem.term.noise_shape, dtype=flat.dtype, device=flat.device
            )
            noise = normal * length.sqrt().to(flat.dtype).unsqueeze(1)
        stepper = problem.stepper
        increment = Increment(length.to(flat.dtype).unsqueeze(1), noise)
        carry = stepper.start(problem.term, start, flat)
        if k1 == "frozen":
            carry = tuple(part.detach() for part in carry)
        stages = stepper.workspace(flat, graph=torch.is_grad_enabled())
        out = stepper.step(problem.term, start, flat, increment, carry, stages)
        return problem.error_ratio(flat, out), problem.stiffness(flat, out)

    def _engine_time(self, t: Tensor) -> Tensor:
        problem = self.record.problem
        t = t.detach().to(problem.t0.dtype).reshape(-1)
        if t.shape[0] == 1:
            t = t.expand(problem.rows)
        if t.shape[0] != problem.rows:
            raise ValueError(
                f"t has {t.shape[0]} times, this solve steps {problem.rows} rows; pass "
                "one time per sample, or one where the batch shares its steps"
            )
        return -t if self.record.layout.reverse else t

    def _times(self, t: Tensor) -> Tensor:
        problem, layout = self.record.problem, self.record.layout
        if not problem.dense:
            raise ValueError("the solution was not kept; solve with dense=True")
        return read_times(t, "t", layout, problem.t0, problem.t1)


def read_times(t: Tensor, name: str, layout: Layout, t0: Tensor, t1: Tensor) -> Tensor:
    """Times to read as engine times, `(rows, k)` or, given so, `(batch, k)`.

    Raises TypeError or ValueError if they do not fit or lie outside the interval.
    """
    if not isinstance(t, Tensor) or not t.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, got {_kind(t)}")
    batch = layout.structure.batch
    if t.ndim not in (1, 2) or (t.ndim == 2 and t.shape[0] != batch):
        raise ValueError(
            f"{name} has shape {tuple(t.shape)}; pass (k,) or ({batch}, k)"
        )
    times = t.detach().to(device=t0.device, dtype=t0.dtype)
    times = -times if layout.reverse else times
    times = times.expand(layout.rows, -1) if times.ndim == 1 else times
    if layout.shared and times.shape[0] == batch:
        t0, t1 = t0.expand(batch), t1.expand(batch)
    ulp = 4.0 * torch.finfo(t.dtype).eps * torch.maximum(t0.abs(), t1.abs())
    slack = ulp.unsqueeze(1)
    outside = (times < t0.unsqueeze(1) - slack) | (times > t1.unsqueeze(1) + slack)
    if bool((outside | ~torch.isfinite(times)).any()):
        raise ValueError(f"{name} lies outside the interval of the solve, or is NaN")
    return snap(times, t0, t1).contiguous()


def snap(times: Tensor, t0: Tensor, t1: Tensor) -> Tensor:
    """Times `(rows, k)` inside [t0, t1]; what is t1 but for rounding becomes t1."""
    ulp = 8.0 * torch.finfo(t1.dtype).eps * torch.maximum(t0.abs(), t1.abs())
    times = torch.maximum(times, t0.unsqueeze(1))
    late = times > (t1 - ulp).unsqueeze(1)
    return torch.where(late & (t1 > t0).unsqueeze(1), t1.unsqueeze(1), times)


def unflatten_reads(layout: Layout, flat: Tensor) -> State:
    """`(rows, k, dim)` or `(batch, k, dim)` to the state, leaves `(batch, k, ...)`."""
    reads = flat.shape[1]
    if layout.shared and flat.shape[0] == 1:
        structure = layout.structure
        flat = flat.reshape(reads, structure.batch, structure.width).transpose(0, 1)
    return layout.structure.unflatten(flat, (reads,))


def stats_of(layout: Layout, outcome: Outcome) -> Stats:
    """Statistics per sample."""
    tape, batch = outcome.tape, layout.structure.batch

    def spread(value: Tensor) -> Tensor:
        return value.expand(*value.shape[:-1], batch) if layout.shared else value

    t = tape.grid(tape.t)
    return Stats(
        evaluations=spread(outcome.evaluations),
        accepted=spread(tape.accepted),
        rejected=spread(tape.rejected),
        t=spread(-t if layout.reverse else t),
        step=spread(tape.grid(tape.h)),
        error_estimate=spread(outcome.error),
        stiffness=spread(outcome.stiffness),
        valid=spread(tape.valid),
    )


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
