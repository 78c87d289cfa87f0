"""`solve`: check what is asked, lay it out for the engine, run, hand back."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from nde.solvers.adjoint import Adjoint, Backsolve, Recompute, Reversible
from nde.solvers.brownian import NoiseSource
from nde.solvers.choice import (
    check_dense,
    check_integrand,
    check_mixing,
    check_options,
    check_restarts,
    checked_events,
    chosen_stepper,
)
from nde.solvers.controller import PID, Controller, StepTo
from nde.solvers.divergence import COLUMNS
from nde.solvers.engine import Setup, run
from nde.solvers.ensemble import Repeat
from nde.solvers.failure import error_of
from nde.solvers.hybrid import run_with_resets
from nde.solvers.methods import (
    SYMPLECTIC_METHODS,
)
from nde.solvers.precision import lowered, own, raised
from nde.solvers.solution import Solution, solution_of
from nde.solvers.state import State, structure_of
from nde.solvers.stepper import Stepper
from nde.solvers.symplectic import check_pair
from nde.solvers.term import Layout, ODETerm, SDETerm, Term
from nde.solvers.times import Times, UserTimes, as_times, read_times, user_times
from nde.solvers.tolerances import fit_tolerances, least_rtol
from nde.solvers.types import Observer, Status
from nde.solvers.watch import Event

# The field should see at least so many different times.
_FINE = 1000.0


def solve(
    term: Term,
    y0: State,
    ts: Times,
    *,
    method: str | Stepper = "tsit5",
    controller: Controller | None = None,
    adjoint: Adjoint | None = None,
    batch: Literal["per_sample", "shared"] = "per_sample",
    args: Any = None,
    ts_mask: Tensor | None = None,
    noise: NoiseSource | None = None,
    paths: int | None = None,
    events: Sequence[Event] = (),
    max_events: int = 1000,
    probe_times: Tensor | None = None,
    dense: bool = False,
    max_steps: int = 4096,
    throw: bool = True,
    observer: Observer | None = None,
) -> Solution:
    """Solve an ODE or SDE for every sample of a batch.

    Under `torch.autocast` the term's functions run in low precision and get and give
    float32; a y0 in low precision becomes float32. Rounding of what they compute in it
    looks like error, so ask for rtol=1e-3 (bfloat16) or 1e-4 (float16) and more, or
    steps get short without getting better. Inside of `torch.func` transforms
    and forward mode only `adjoint=Direct()` works, without events and derivatives in
    ts; under `vmap` all members have the same times and take the same steps, and a
    failure of one is an error.

    Args:
        term: `ODETerm` or `SDETerm`.
        y0: initial state, a tensor `(batch, ...)` or nested tuples (named ones too),
            lists, dicts; float32 or float64, real or complex.
        ts: output times `(T,)`, or `(batch, T)` per sample; monotone, increasing or
            (ODE) decreasing. The first is where y0 holds, the last where the sample
            ends. In `(batch, T)` NaN marks places without a time; there the solution
            repeats the one before. May require grad (ODE). Numbers in a list, tuple or
            array of numpy take y0's precision and device.
        method: a name from `ODE_METHODS` or `SDE_METHODS`, or a `Stepper` (for an SDE a
            `StochasticMethod`).
        controller: `PID(rtol, atol)` (default, 1e-3 and 1e-6), `FixedSteps(step)` or
            `StepTo(times)`; methods without an error estimate need one of the latter.
        adjoint: `Recompute()` (default) or `Direct()`; `Reversible()`, exact without
            storing states, with method `McCallumFoster(base)` for an ODE and
            "reversible_heun" for an SDE; `Backsolve()`, approximate without storing
            states, for ODEs and Stratonovich equations.
        batch: "per_sample" gives each sample its own steps; "shared" ties the batch to
            one step, judged by the RMS over all of it. Where samples have their own
            times, a field may not let one of them depend on others.
        args: given to the term's functions, conditions and resets after time and state,
            if not None. Tensors in nested tuples, lists and dicts get gradients. They
            are passed on as they are, also with `paths`.
        ts_mask: bool `(batch, T)`, True where a time counts.
        noise: the Brownian motion of an SDE, or its seed, as of `BrownianTree`; by
            default one from torch's generator. A seed makes a `BrownianGrid` on a grid,
            else a `BrownianTree`, which gives the same path on all steps. Any other
            `BrownianMotion` is asked for one step of all samples after another.
        paths: so many Brownian paths of every sample of an SDE. Those of a sample stand
            beside each other in a batch of `batch * paths`, which is what the term's
            functions, `noise` and its seeds, tolerances and the norm have to do with;
            y0 and times given per sample are repeated. `Solution.ensemble` has moments.
        events: `Event`s that end a sample, or from which it goes on with another state
            (ODE only).
        max_events: resets of a sample; where one more would follow it ends with status
            `MAX_EVENTS`.
        probe_times: further times to read `(k,)` or `(batch, k)`, in any order.
        dense: keep every step, for `Solution.evaluate`. An SDE's path is then drawn
            from a tree.
        max_steps: attempted steps per sample, over the whole interval (up to the first
            event, and from one to the next).
        throw: raise on failure; else failed samples end early with their `status`,
            and what they did not reach is NaN.
        observer: is told of every step.

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
    check_options(controller, adjoint, batch, max_steps, max_events)
    stepper = chosen_stepper(term, method, controller, noise)
    if isinstance(adjoint, (Reversible, Backsolve)):
        adjoint.check(term, stepper, controller)
    if isinstance(controller, PID) and (
        controller.classical or isinstance(term, SDETerm)
    ):
        controller = controller.for_method(stepper.gains)
    events = checked_events(stepper, events)
    check_restarts(stepper, controller)
    if dense:
        check_dense(term, stepper, noise)
    y0 = raised(y0)
    structure = structure_of(y0)
    if isinstance(term, ODETerm) and stepper.name in SYMPLECTIC_METHODS:
        check_pair(stepper.name, structure)
    if isinstance(term, SDETerm):
        check_mixing(term, structure)
        if term.prior is not None:
            structure = replace(structure, hidden=COLUMNS)
    elif term.integrand is not None:
        check_integrand(stepper, events)
        structure = replace(structure, hidden=term.integrand.width)
    ts = as_times(ts, y0, structure)
    times = user_times(ts, ts_mask, structure.batch, term)
    if batch == "shared" and times.table.ndim == 2:
        raise ValueError(
            "batch='shared' ties all samples to one time, but ts has times per sample "
            f"(shape {tuple(times.table.shape)}); pass ts as (T,), or "
            "batch='per_sample'"
        )
    if paths is not None:
        repeat = Repeat(paths, structure.batch, term)
        structure = replace(structure, batch=structure.batch * paths)
        y0, ts = repeat.state(y0), repeat.table("ts", ts)
        times = replace(times, table=repeat.table("ts", times.table))
        probe_times = repeat.table("probe_times", probe_times)
        controller = repeat.controller(controller)
    resets = any(event.reset for event in events)
    if resets and batch == "shared" and structure.batch > 1:
        raise ValueError(
            "batch='shared' ties all samples to one time, where an event of one would "
            "reset them all; use batch='per_sample' with resets"
        )
    common = not events and _common(stepper, controller, adjoint, times, probe_times)
    layout = Layout(structure, batch == "shared", times.reverse, common, args)
    # A copy: neither the solve nor a field that works in place touches y0 itself.
    engine_y0 = layout.to_engine(y0, "y0").clone(memory_format=torch.contiguous_format)
    tolerances = fit_tolerances(
        controller.rtol, controller.atol, controller.norm, layout, engine_y0
    )
    if controller.error_scale == "detached":
        tolerances = replace(tolerances, detached=True)
    if isinstance(controller, PID):
        floor = least_rtol(engine_y0.dtype, stepper.noise)
        if tolerances.unresolved(engine_y0.detach(), floor):
            _warn_unresolved(controller, floor, engine_y0.dtype)
        # Also where y0 is too small to tell: the state may grow.
        tolerances = tolerances.at_least(floor)
    device = engine_y0.device
    setup = Setup(
        term=lowered(term, device, engine_y0.dtype),
        layout=layout,
        stepper=stepper,
        controller=controller,
        tolerances=tolerances,
        adjoint=adjoint,
        noise=noise,
        events=events,
        dense=dense,
        max_steps=max_steps,
        throw=throw,
        observer=observer,
    )
    reads = times.engine(layout, engine_y0)
    _warn_coarse_time(reads.detach(), engine_y0.dtype)
    probes = None
    if probe_times is not None:
        t0, t1 = reads[:, 0].detach(), reads[:, -1].detach()
        probes = read_times(probe_times, "probe_times", layout, t0, t1).detach()
    with own(device):
        if resets:
            runs, status = run_with_resets(setup, engine_y0, reads, probes, max_events)
        else:
            runs = (run(setup, engine_y0, reads, probes),)
            status = runs[0].outcome.tape.status
    if throw and bool(((status != Status.SUCCESS) & (status != Status.EVENT)).any()):
        raise error_of(runs, status)
    return solution_of(ts, runs, status, paths)


def _common(
    stepper: Stepper,
    controller: Controller,
    adjoint: Adjoint,
    times: UserTimes,
    probe_times: Tensor | None,
) -> bool:
    """Whether all samples take the same steps, known beforehand, there and back.

    On one grid nothing is decided per sample; but a grid that is not read inside its
    steps lands on each sample's probes.
    """
    grids = [controller]
    if isinstance(adjoint, Backsolve) and adjoint.controller is not None:
        grids.append(adjoint.controller)
    own = []
    if isinstance(adjoint, Backsolve) or not stepper.has_interpolant:
        own.append(probe_times)
    for grid in grids:
        if isinstance(grid, PID):
            return False
        own += [grid.step_t, grid.jump_t]
        if isinstance(grid, StepTo):
            own.append(grid.times)
    alike = all(not isinstance(table, Tensor) or table.ndim == 1 for table in own)
    return times.table.ndim == 1 and alike


def _warn_coarse_time(reads: Tensor, dtype: torch.dtype) -> None:
    """One warning if the time that the field sees moves in jumps."""
    if dtype == torch.float64 or not reads.shape[0]:
        return
    start, end = reads[:, 0], reads[:, -1]
    far = torch.maximum(start.abs(), end.abs())
    coarse = (end > start) & (end - start < _FINE * torch.finfo(dtype).eps * far)
    if bool(coarse.any()):
        t = float(far[coarse][0])
        name = str(dtype).removeprefix("torch.")
        warnings.warn(
            f"f sees t in the dtype of y0, and near t={t:.4g} {name} moves in jumps of "
            f"{torch.finfo(dtype).eps * t:.1g}, too coarse for the interval of ts; if "
            "f depends on t, let ts begin near 0, or solve with a float64 state",
            stacklevel=3,
        )


def _warn_unresolved(controller: PID, floor: float, dtype: torch.dtype) -> None:
    """One warning if rounding alone exceeds the tolerance."""
    name = str(dtype).removeprefix("torch.")
    warnings.warn(
        f"rtol={controller.rtol}, atol={controller.atol} ask for more than {name} "
        f"resolves, where errors are rounding noise; rtol={floor:.1e} is used, its "
        "least. Ask for no less, or solve with a float64 state",
        stacklevel=3,
    )
