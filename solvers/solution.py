"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor

from nde.solvers import dense, extra_step
from nde.solvers.between import read_between
from nde.solvers.bound import BoundODE, BoundSDE
from nde.solvers.controller import ErrorScale
from nde.solvers.diagnosis import Explanation, explain
from nde.solvers.divergence import path_kl
from nde.solvers.engine import Run
from nde.solvers.ensemble import Ensemble
from nde.solvers.extra_step import StepNoise
from nde.solvers.integral import integral_of
from nde.solvers.moving_ends import shifted, slope_at
from nde.solvers.state import State, map_tensors
from nde.solvers.stats import Stats, spread
from nde.solvers.term import Layout
from nde.solvers.times import read_times


@dataclass(frozen=True)
class Occurrences:
    """The events of a solve, first to last, per sample.

    `time (batch, k)`, with its graph, NaN where a sample met fewer; `index (batch, k)`
    which of the events, -1 there; `count (batch,)`.
    """

    time: Tensor
    index: Tensor
    count: Tensor


@dataclass(frozen=True)
class Solution:
    """A solved equation; with `dense=True` also a path in time.

    `ts` as given; `ys` has the structure of y0, its leaves `(batch, T, ...)`, NaN at
    times that were not reached; `final` is the state at each sample's own last time, or
    where it ended; `probes` `(batch, k, ...)` at `probe_times`, None without. `status
    (batch,)` holds values of `Status`. `events` None without any to look for. `runs`
    are the engine's runs: one, and one more for every reset. `path_kl (batch, T)` for
    an `SDETerm` with a prior: its divergence from it along each path, from ts[0] on.
    `ensemble` for a solve of many paths, whose batch is `batch * paths` throughout.
    `integral (batch, T, width)` for an `ODETerm` with an integrand, from ts[0] on.
    `foreign` if another solver did it, so that no step has estimates.
    """

    ts: Tensor
    ys: State = field(repr=False)
    final: State = field(repr=False)
    probes: State | None = field(repr=False)
    status: Tensor
    stats: Stats
    events: Occurrences | None
    runs: tuple[Run, ...] = field(repr=False)
    path_kl: Tensor | None = field(default=None, repr=False)
    ensemble: Ensemble | None = None
    integral: Tensor | None = field(default=None, repr=False)
    foreign: bool = False

    @property
    def record(self) -> Run:
        """The engine's only run. Raises ValueError if there were resets."""
        if len(self.runs) > 1:
            raise ValueError(
                "this solve has resets, and its steps belong to several runs; steps of "
                "one run are in solution.runs"
            )
        return self.runs[0]

    def evaluate(self, t: Tensor) -> State:
        """The solution at times `t`, inside the interval, differentiable, also in t.

        `t (k,)` for all samples or `(batch, k)`: leaves `(batch, k, ...)`. `as_path`
        gives one time of each sample. An SDE is read by a shorter step from the start
        of the one that holds t, along the same Brownian path, and not differentiable in
        t; that calls drift and diffusion as they are by then. With `paths`, `t` may be
        that of each sample given. Raises ValueError without `dense=True`, or outside
        the interval.
        """
        return _unflatten(self._layout, _joined(self.runs, self._times(t), _path))

    def derivative(self, t: Tensor) -> State:
        """The solution's time derivative at `t`, as `evaluate`.

        Raises ValueError for an SDE, whose paths have none.
        """
        if isinstance(self.runs[0].problem.term, BoundSDE):
            raise ValueError("the path of an SDE has no derivative in time")
        layout, times = self._layout, self._times(t)
        slope = _joined(self.runs, times, _slope)
        return _unflatten(layout, -slope if layout.reverse else slope)

    def as_path(self) -> SolvedPath:
        """The solution as a path that a vector field may read.

        For a state that is one tensor, with `dense=True`.
        """
        self._check_dense()
        return SolvedPath(self)

    def explain(self) -> Explanation:
        """Why the solve cost what it did, and which setting to change: print it.

        Read off the statistics; the field is not called.
        """
        return explain(self.runs, self.status, self.stats)

    @property
    def _layout(self) -> Layout:
        return self.runs[0].layout

    def _times(self, t: Tensor) -> Tensor:
        self._check_dense()
        problem, ensemble = self.runs[0].problem, self.ensemble
        if (
            ensemble is not None
            and t.ndim == 2
            and len(t) * ensemble.count == len(self.status)
        ):
            t = t.repeat_interleave(ensemble.count, dim=0)
        return read_times(t, "t", self._layout, problem.t0, problem.t1)

    def _check_dense(self) -> None:
        if not self.runs[0].problem.dense:
            raise ValueError("the solution was not kept; solve with dense=True")

    def step_at(self, t: Tensor) -> Tensor:
        """Length of the accepted step that holds `t`, clipped to the end.

        `t (rows,)`, one per sample, or `(1,)` where the batch shares its steps;
        returns the same shape, float64, without gradient.
        """
        return self.clipped(t, self.whole_step_at(t))

    def whole_step_at(self, t: Tensor) -> Tensor:
        """Length of the accepted step that holds `t`, as `step_at`, not clipped."""
        engine = extra_step.engine_time(self.record, t)
        return extra_step.whole_step(self.record, engine)

    def clipped(self, t: Tensor, h: Tensor) -> Tensor:
        """A step `h (rows,)` from `t (rows,)`, no longer than up to the end."""
        engine = extra_step.engine_time(self.record, t)
        return torch.minimum(h, self.record.problem.t1 - engine).clamp_min(0.0)

    def accepted_step(self, number: Tensor) -> tuple[Tensor, Tensor, State]:
        """Start, length and start state of accepted steps, without gradient.

        `number (rows,)` counts each sample's accepted steps from 0. Raises ValueError
        if the solve kept no states, because nothing in it required gradients, or its
        adjoint does without.
        """
        kept = extra_step.kept_step(self.record, number)
        if kept is None:
            raise ValueError(
                "this solve kept no accepted steps, as nothing in it required grad or "
                "gradients were off, or its adjoint keeps none; solve outside of "
                "torch.no_grad(), with adjoint=Recompute()"
            )
        return kept

    def first_step(self, t: Tensor, y: State) -> Tensor:
        """The step with which a solve would set out from `y` at `t`: `(rows,)`.

        Hairer's automatic initial step, clipped to the end, without gradient. Raises
        ValueError for an SDE, or a method without an error estimate.
        """
        return extra_step.first_step(self.record, t, y)

    def embedded_step(
        self,
        t: Tensor,
        y: State,
        h: Tensor,
        k1: Literal["attached", "frozen"] = "attached",
        *,
        scale: ErrorScale | None = None,
        noise: StepNoise = "fresh",
    ) -> tuple[Tensor, Tensor]:
        """Error and stiffness estimates of one more step of the same method.

        From state `y` at `t (rows,)` over `h (rows,)`; returns `(rows,)` each, NaN
        where the method has no such estimate. Differentiable in y and in the vector
        field, not in `t` and `h`; `k1="frozen"` takes the first stage of a method that
        shares it with the step before as a constant. `scale` "attached" or "detached":
        whether atol + rtol |y| passes gradients; None as in the solve.

        An SDE's step takes fresh noise from torch's global generator, or, with
        `noise="same"`, that of the solve over the same time. Raises ValueError if the
        solve's motion does not tell it: one on a grid knows accepted steps alone.
        """
        step = extra_step.extra_step(self.record, t, y, h, noise)
        return step.estimates(k1, scale)


@dataclass(frozen=True)
class SolvedPath:
    """A dense solution as a `Path`: `t` 0-dim, or `(batch,)` one time per sample."""

    solution: Solution

    def evaluate(self, t: Tensor) -> State:
        """Value at `t`: leaves `(batch, ...)`."""
        return map_tensors(_FIRST, self.solution.evaluate(_column(t)))

    def derivative(self, t: Tensor) -> State:
        """Time derivative at `t`."""
        return map_tensors(_FIRST, self.solution.derivative(_column(t)))


_FIRST = itemgetter((slice(None), 0))


def _column(t: Tensor) -> Tensor:
    """One time of all samples `(1,)`, or of each `(batch, 1)`."""
    return t.reshape(1) if t.ndim == 0 else t.unsqueeze(1)


def solution_of(
    ts: Tensor, runs: tuple[Run, ...], status: Tensor, paths: int | None = None
) -> Solution:
    """What the runs of a solve give, which had so many paths of each sample."""
    layout, probes = runs[0].layout, runs[0].probes
    structure, status = layout.structure, status.expand(layout.structure.batch)
    flat = layout.to_batch(runs[-1].outcome.y_end)
    read = _per_sample(layout, _joined(runs, runs[0].reads, _value))
    ode = isinstance(runs[0].problem.term, BoundODE)
    ys = structure.unflatten(read, read.shape[1:2])
    return Solution(
        ts=ts,
        ys=ys,
        final=structure.unflatten(flat),
        probes=(
            None
            if probes is None
            else _unflatten(layout, _joined(runs, probes, _value))
        ),
        status=status,
        stats=Stats(runs),
        events=_occurrences(runs),
        runs=runs,
        path_kl=None if ode else path_kl(structure, read),
        ensemble=None if paths is None else Ensemble(ys, status, paths),
        integral=integral_of(structure, read) if ode and structure.hidden else None,
    )


# Reads one run at `times (rows, k)` or `(batch, k)`.
_Reader = Callable[[Run, Tensor], Tensor]


def _value(run: Run, times: Tensor) -> Tensor:
    problem, outcome = run.problem, run.outcome
    flat = dense.read(problem, outcome.tape, times, outcome.y_end, outcome.polynomials)
    if problem.interpolates or not times.requires_grad:
        return flat
    # A method that is read at its steps alone tells no slope; the field does.
    inside = (times > problem.t0.unsqueeze(1)) & (times < problem.t1.unsqueeze(1))
    columns = []
    for value, t, real in zip(
        flat.unbind(1), times.unbind(1), inside.unbind(1), strict=True
    ):
        slope = slope_at(problem, t, value)
        columns.append(shifted(value, t, torch.where(real.unsqueeze(1), slope, 0.0)))
    return torch.stack(columns, dim=1)


def _path(run: Run, times: Tensor) -> Tensor:
    """`_value`, whose time derivative is the solution's also at both ends."""
    if not run.problem.interpolates:
        return read_between(run.problem, run.outcome, times)
    value, problem = _value(run, times), run.problem
    # Tensors are looked at even where the ends alone are read: a solve that is driven
    # by this one finds out in its first call what it depends on.
    if not (times.requires_grad or run.outcome.polynomials.requires_grad):
        return value
    slope = _slope(run, times.detach()).detach()
    t0, t1 = (
        bound.repeat_interleave(len(times) // max(problem.rows, 1)).unsqueeze(1)
        for bound in (problem.t0, problem.t1)
    )
    ends = ((times <= t0) | (times >= t1)).unsqueeze(2) & torch.isfinite(slope)
    moved = (times - times.detach()).unsqueeze(2).to(value.dtype)
    return value + torch.where(ends, slope, 0.0) * moved


def _slope(run: Run, times: Tensor) -> Tensor:
    outcome = run.outcome
    found, polynomials, _, theta = dense.pick(
        run.problem, outcome.tape, times, outcome.polynomials
    )
    slope = dense.derivative(polynomials, theta).to(outcome.y_end.dtype)
    flat = slope.new_full((*times.shape, slope.shape[-1]), torch.nan)
    return flat.index_put((found,), slope)


def _joined(runs: tuple[Run, ...], times: Tensor, reader: _Reader) -> Tensor:
    """Reads of several runs, each from where it begins; resets show to their right."""
    flat = reader(runs[0], times)
    plain = times.detach()
    for run in runs[1:]:
        began = run.problem.t0.unsqueeze(1)
        later = (plain > began) & run.active.unsqueeze(1)
        flat = torch.where(later.unsqueeze(2), reader(run, times), flat)
    return flat


def _unflatten(layout: Layout, flat: Tensor) -> State:
    """`(rows, k, dim)` or `(batch, k, dim)` to the state, leaves `(batch, k, ...)`."""
    return layout.structure.unflatten(_per_sample(layout, flat), flat.shape[1:2])


def _per_sample(layout: Layout, flat: Tensor) -> Tensor:
    """`(rows, k, dim)` or `(batch, k, dim)` to `(batch, k, dim of a sample)`."""
    if not layout.shared or flat.shape[0] != 1:
        return flat
    structure = layout.structure
    return flat.reshape(flat.shape[1], structure.batch, structure.width).transpose(0, 1)


def _occurrences(runs: tuple[Run, ...]) -> Occurrences | None:
    """What events the runs ended in."""
    layout, watch = runs[0].layout, runs[0].problem.watch
    if watch is None:
        return None
    times, numbers = [], []
    for run in runs:
        channel = run.outcome.tape.channel
        assert channel is not None
        met = (channel >= 0) & run.active
        time = torch.where(met, -run.t_end if layout.reverse else run.t_end, torch.nan)
        number = watch.event_of(channel)
        times.append(spread(layout, time))
        numbers.append(spread(layout, torch.where(met, number, -1)))
    index = torch.stack(numbers, dim=1)
    count = (index >= 0).sum(dim=1)
    # After a last reset nothing more may have happened.
    most = max(1, int(count.max())) if count.numel() else 1
    return Occurrences(torch.stack(times, dim=1)[:, :most], index[:, :most], count)
