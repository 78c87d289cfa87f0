"""`solve`: check what is asked, lay it out for the engine, run, hand back."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from nde.solvers import dense as reading
from nde.solvers.adjoint import Adjoint, Direct, Recompute
from nde.solvers.adjoint.captured import captured_tensors
from nde.solvers.adjoint.forward import find_steps, plain, start
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.brownian import BrownianGrid, fresh_seed
from nde.solvers.controller import PID, Controller, FixedSteps
from nde.solvers.failure import (
    cut_short,
    error_of,
    failed,
    last_good_steps,
    reached,
)
from nde.solvers.march import Schedule, fixed_grid
from nde.solvers.methods import (
    ODE_METHODS,
    SDE_METHODS,
    SYMPLECTIC_METHODS,
    method_named,
)
from nde.solvers.problem import Problem
from nde.solvers.solution import (
    Record,
    Solution,
    read_times,
    snap,
    stats_of,
    unflatten_reads,
)
from nde.solvers.state import State, structure_of
from nde.solvers.stepper import Stepper
from nde.solvers.symplectic import check_pair
from nde.solvers.term import BoundSDE, Layout, ODETerm, SDETerm, Term, bind
from nde.solvers.types import Status


def solve(
    term: Term,
    y0: State,
    ts: Tensor,
    *,
    method: str = "tsit5",
    controller: Controller | None = None,
    adjoint: Adjoint | None = None,
    batch: Literal["per_sample", "shared"] = "per_sample",
    noise: BrownianGrid | None = None,
    probe_times: Tensor | None = None,
    dense: bool = False,
    max_steps: int = 4096,
    throw: bool = True,
) -> Solution:
    """Solve an ODE or SDE for every sample of a batch.

    Args:
        term: `ODETerm` or `SDETerm`.
        y0: initial state, a tensor `(batch, ...)` or nested tuples, lists, dicts.
        ts: output times `(T,)`, or `(batch, T)` per sample; monotone, increasing or
            (ODE) decreasing. The first is where y0 holds.
        method: a name from `ODE_METHODS` or `SDE_METHODS`.
        controller: `PID(rtol, atol)` (default, 1e-3 and 1e-6) or `FixedSteps(step)`,
            which SDEs and methods without an error estimate need.
        adjoint: `Recompute()` (default) or `Direct()`.
        batch: "per_sample" gives each sample its own steps; "shared" ties the batch to
            one step, judged by the RMS over all of it.
        noise: the Brownian motion of an SDE; by default seeded from torch's generator.
        probe_times: further times to read `(k,)` or `(batch, k)`, in any order.
        dense: keep the interpolant of every step, for `Solution.evaluate`.
        max_steps: attempted steps per sample.
        throw: raise on failure; else failed samples end early with their `status`,
            and what they did not reach is NaN.

    Returns:
        `Solution`.

    Raises:
        TypeError, ValueError: bad input, before any step, naming the argument.
        SolveError: a sample could not reach the end; names samples, time, cause, fix.
    """
    if not isinstance(term, (ODETerm, SDETerm)):
        raise TypeError(
            f"term must be ODETerm(f) or SDETerm(drift, diffusion), got "
            f"{type(term).__name__}"
        )
    controller = PID() if controller is None else controller
    adjoint = Recompute() if adjoint is None else adjoint
    _check_options(controller, adjoint, batch, max_steps)
    stepper = _stepper(term, method, controller, noise)
    if dense and not stepper.has_interpolant:
        what = "a path of an SDE" if isinstance(term, SDETerm) else f"{method!r}"
        raise ValueError(
            f"dense=True keeps interpolants, which {what} does not have; put the times "
            "in ts or probe_times"
        )
    structure = structure_of(y0)
    if isinstance(term, ODETerm) and stepper.name in SYMPLECTIC_METHODS:
        check_pair(stepper.name, structure)
    ts, reverse = _check_times(ts, structure.batch, term)
    if batch == "shared" and ts.ndim == 2:
        raise ValueError(
            f"batch='shared' ties all samples to one time, but ts has shape "
            f"{tuple(ts.shape)}; pass ts as (T,), or batch='per_sample'"
        )
    # On one grid nothing is decided per sample. A grid that is not read inside its
    # steps lands on each sample's probes.
    fixed = isinstance(controller, FixedSteps)
    own_probes = probe_times is not None and probe_times.ndim == 2
    common = ts.ndim == 1 and not (own_probes and not stepper.has_interpolant)
    common = fixed and common
    layout = Layout(structure, batch == "shared", reverse, common)
    # A copy: neither the solve nor a field that works in place touches y0 itself.
    engine_y0 = layout.to_engine(y0, "y0").clone(memory_format=torch.contiguous_format)
    reads = ts.to(device=engine_y0.device, dtype=torch.float64)
    reads = -reads if reverse else reads
    reads = reads.expand(layout.rows, -1) if reads.ndim == 1 else reads
    t0, t1 = reads[:, 0].contiguous(), reads[:, -1].contiguous()
    reads = snap(reads, t0, t1)
    all_reads, probes = reads, None
    if probe_times is not None:
        probes = read_times(probe_times, "probe_times", layout, t0, t1)
        all_reads = torch.cat([reads, probes.reshape(layout.rows, -1)], dim=1)
    problem = Problem(
        term=bind(term, layout),
        stepper=stepper,
        controller=controller,
        t0=t0,
        t1=t1,
        y0=engine_y0,
        reads=all_reads.contiguous(),
        common=common,
        dense=dense,
        keep=torch.is_grad_enabled(),
        max_steps=max_steps,
    )
    if not fixed:
        _warn_if_unresolved(problem)
    plan = _grid(problem, noise) if fixed else None
    outcome = _run(problem, plan, adjoint)
    if bool((outcome.tape.status != Status.SUCCESS).any()):
        if plan is not None:
            steps = last_good_steps(problem, plan)
            status, t_end = outcome.tape.status, reached(plan, steps, problem)
            if not throw:
                rest = replace(problem, common=False)
                outcome = _run(rest, cut_short(plan, steps), adjoint)
            outcome = failed(outcome, status, t_end)
        if throw:
            raise error_of(layout, outcome)

    def read(times: Tensor) -> State:
        flat = reading.read(
            problem, outcome.tape, times, outcome.y_end, outcome.polynomials
        )
        return unflatten_reads(layout, flat)

    return Solution(
        ts=ts,
        ys=read(reads),
        final=structure.unflatten(layout.to_batch(outcome.y_end)),
        probes=None if probes is None else read(probes),
        status=outcome.tape.status.expand(structure.batch),
        stats=stats_of(layout, outcome),
        record=Record(problem, outcome, layout),
    )


def _grid(problem: Problem, noise: BrownianGrid | None) -> Schedule:
    if isinstance(problem.term, BoundSDE) and noise is None:
        noise = BrownianGrid(fresh_seed())
    return fixed_grid(problem, noise)


def _run(problem: Problem, plan: Schedule | None, adjoint: Adjoint) -> Outcome:
    if not torch.is_grad_enabled():
        return plain(problem, find_steps(problem, plan, start(problem)))
    if isinstance(adjoint, Direct) and plan is not None:
        return adjoint.run(problem, plan, start(problem), ())
    carry, captured = _watched_start(problem)
    if not (problem.y0.requires_grad or captured):
        return plain(problem, find_steps(problem, plan, carry))
    return adjoint.run(problem, plan, carry, captured)


def _watched_start(
    problem: Problem,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The first carry, and the tensors requiring grad that the term uses."""
    carry: tuple[Tensor, ...] = ()

    def call() -> None:
        nonlocal carry
        carry = start(problem)
        if not carry and problem.rows:
            problem.term.probe(problem.start_time, problem.y0)

    term = problem.term
    functions = (
        (term.term.drift, term.term.diffusion)
        if isinstance(term, BoundSDE)
        else (term.term.f,)
    )
    captured = captured_tensors(call, functions, (problem.y0,))
    return carry, captured


def _check_options(
    controller: object, adjoint: object, batch: object, max_steps: object
) -> None:
    if not isinstance(controller, (PID, FixedSteps)):
        raise TypeError(
            f"controller must be PID(...) or FixedSteps(step), got {controller!r}"
        )
    if not isinstance(adjoint, (Direct, Recompute)):
        raise TypeError(f"adjoint must be Recompute() or Direct(), got {adjoint!r}")
    if batch not in ("per_sample", "shared"):
        raise ValueError(f"batch must be 'per_sample' or 'shared', got {batch!r}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"max_steps must be an integer >= 1, got {max_steps!r}")


def _stepper(
    term: Term, method: object, controller: Controller, noise: BrownianGrid | None
) -> Stepper:
    if isinstance(term, ODETerm):
        if noise is not None:
            raise ValueError("noise is for an SDETerm; an ODETerm has none")
        stepper = method_named(method, ODE_METHODS, "an ODETerm")
        if isinstance(controller, PID) and stepper.error_order is None:
            adaptive = [
                name for name, m in ODE_METHODS.items() if m.error_order is not None
            ]
            raise ValueError(
                f"method {stepper.name!r} has no error estimate to adapt steps by; "
                "pass controller=FixedSteps(step), or a method of "
                f"{', '.join(adaptive)}"
            )
        return stepper
    sde_stepper = method_named(method, SDE_METHODS, "an SDETerm")
    assert sde_stepper is SDE_METHODS[sde_stepper.name]
    wanted = SDE_METHODS[sde_stepper.name].interpretation
    if wanted != term.interpretation:
        fits = [
            name
            for name, m in SDE_METHODS.items()
            if m.interpretation == term.interpretation
        ]
        raise ValueError(
            f"method {sde_stepper.name!r} converges to the {wanted} solution, the term "
            f"is {term.interpretation}; use method {', '.join(fits)} or convert the "
            "drift"
        )
    if not isinstance(controller, FixedSteps):
        raise ValueError(
            "an SDETerm needs controller=FixedSteps(step): steps are not adapted along "
            "a Brownian path"
        )
    if noise is not None and not isinstance(noise, BrownianGrid):
        raise TypeError(f"noise must be BrownianGrid(seed), got {noise!r}")
    return sde_stepper


def _check_times(ts: object, batch: int, term: Term) -> tuple[Tensor, bool]:
    """`ts` as a detached tensor, and whether it decreases."""
    if not isinstance(ts, Tensor):
        raise TypeError(
            f"ts must be a torch.Tensor, got {type(ts).__name__}; use torch.tensor(ts)"
        )
    if not ts.is_floating_point():
        raise TypeError(f"ts must be floating, got {ts.dtype}; use ts.float()")
    if ts.requires_grad:
        raise ValueError(
            "ts requires grad, but gradients to times are not given; pass ts.detach()"
        )
    if ts.ndim not in (1, 2):
        raise ValueError(f"ts must be (T,) or (batch, T), got shape {tuple(ts.shape)}")
    if ts.shape[-1] == 0:
        raise ValueError("ts is empty; give at least the time of y0")
    if ts.ndim == 2 and ts.shape[0] != batch:
        raise ValueError(
            f"ts has {ts.shape[0]} rows for a batch of {batch}; pass (T,) or "
            f"({batch}, T)"
        )
    table = ts.detach().reshape(-1, ts.shape[-1])
    if not bool(torch.isfinite(table).all()):
        raise ValueError("ts has NaN or infinite entries; every time must be finite")
    gaps = table.double().diff(dim=1)
    reverse = bool((gaps < 0).any()) and not bool((gaps > 0).any())
    ordered = gaps < 0 if reverse else gaps > 0
    # A sample may repeat its last time as padding, and rest there.
    if ts.ndim == 2:
        ordered = ordered | ((gaps == 0) & (table[:, 1:] == table[:, -1:]))
    if not bool(ordered.all()):
        row, index = (~ordered).nonzero()[0].tolist()
        where = (
            f"index {index + 1}" if ts.ndim == 1 else f"row {row}, index {index + 1}"
        )
        raise ValueError(
            f"ts must be strictly monotone; the order breaks at {where} "
            f"({table[row, index]:.6g} to {table[row, index + 1]:.6g})"
        )
    if reverse and isinstance(term, SDETerm):
        raise ValueError(
            "ts decreases, but an SDETerm is solved forward in time; reverse ts"
        )
    return ts.detach(), reverse


def _warn_if_unresolved(problem: Problem) -> None:
    """One warning if rounding alone exceeds the tolerance."""
    tolerances = problem.controller.tolerances
    size = problem.y0.detach().abs()
    eps = torch.finfo(size.dtype).eps
    below = tolerances.rtol * size + tolerances.atol < 4.0 * eps * size
    if bool(below.any()):
        dtype = str(size.dtype).removeprefix("torch.")
        warnings.warn(
            f"rtol={tolerances.rtol:g}, atol={tolerances.atol:g} ask for more than "
            f"{dtype} resolves: errors will be rounding noise and steps wasted; use "
            f"rtol >= {100.0 * eps:.0e} or a float64 state",
            stacklevel=3,
        )
