"""One run of the engine: a problem laid out, solved, and judged."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nde.solvers.additive import check_additive
from nde.solvers.adjoint import Adjoint, Backsolve, Direct
from nde.solvers.adjoint.captured import Captured, captured_tensors
from nde.solvers.adjoint.forward import find_steps, plain, start
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.apart import warn_if_apart
from nde.solvers.bound import BoundSDE, bind
from nde.solvers.brownian import NoiseSource
from nde.solvers.clock import check_clock
from nde.solvers.controller import PID, Controller, StepTo
from nde.solvers.driving import check_motion, motion_of
from nde.solvers.locate import Cut, cut_at_events, evaluations
from nde.solvers.loop import can_record
from nde.solvers.moving_ends import moving_end, moving_events, moving_start
from nde.solvers.own_noise import check_own_noise, check_own_noise_later
from nde.solvers.problem import Problem
from nde.solvers.salvage import (
    cut_short,
    failed,
    last_good_steps,
    reached,
    takes_own_times,
)
from nde.solvers.schedule import Schedule, fixed_grid
from nde.solvers.stepper import Stepper
from nde.solvers.stops import engine_times, stops_of
from nde.solvers.tape import Tape
from nde.solvers.term import Layout, Term
from nde.solvers.times import snap
from nde.solvers.tolerances import Tolerances
from nde.solvers.transforms import in_vmap, transformed
from nde.solvers.types import Observer, Status
from nde.solvers.watch import Event, Watch


@dataclass(frozen=True)
class Setup:
    """What stays the same from run to run of a solve."""

    term: Term
    layout: Layout
    stepper: Stepper
    controller: Controller
    tolerances: Tolerances
    adjoint: Adjoint
    noise: NoiseSource | None
    events: tuple[Event, ...]
    dense: bool
    max_steps: int
    throw: bool
    observer: Observer | None = None

    @property
    def fixed(self) -> bool:
        """Whether steps are known beforehand."""
        return not isinstance(self.controller, PID)

    @property
    def lands(self) -> bool:
        """Whether steps have to be told to end where something is read."""
        if self.stepper.has_interpolant:
            # The gradient of what is read inside a step has no place on the way back.
            return isinstance(self.adjoint, Backsolve)
        # A grid without interpolant does so by itself.
        return not self.fixed


@dataclass(frozen=True)
class Run:
    """A finished run: `reads (rows, T)` and `t_end (rows,)` with their graph.

    `active (rows,)` are the rows that it moved.
    """

    problem: Problem
    outcome: Outcome
    layout: Layout
    reads: Tensor
    probes: Tensor | None
    t_end: Tensor
    active: Tensor


def run(
    setup: Setup,
    y0: Tensor,
    reads: Tensor,
    probes: Tensor | None,
    margin: Tensor | None = None,
) -> Run:
    """Solve from `reads[:, 0]` to `reads[:, -1]`.

    `y0 (rows, dim)`, `reads (rows, T)` engine times, both with their graph; `probes`
    as `read_times` gives them; `margin (channels, rows)` as for `Watch`.
    """
    layout, controller = setup.layout, setup.controller
    graph = torch.is_grad_enabled() and reads.requires_grad
    moving = reads if graph else reads.detach()
    # Copies: the field sees these, and must not be able to change the user's ts.
    t0 = moving[:, 0].detach().clone()
    t1 = moving[:, -1].detach().clone()
    moving = snap(moving, t0, t1)
    wanted = moving.detach()
    if probes is not None:
        wanted = torch.cat([wanted, probes.detach().reshape(layout.rows, -1)], dim=1)
    term = bind(setup.term, layout)
    gap = y0.dtype if setup.stepper.has_interpolant else None
    landings = wanted if setup.lands else None
    problem = Problem(
        term=term,
        stepper=setup.stepper,
        controller=controller,
        t0=t0,
        t1=t1,
        y0=y0,
        reads=wanted.contiguous(),
        dense=setup.dense,
        keep=torch.is_grad_enabled() or transformed(),
        max_steps=setup.max_steps,
        tolerances=setup.tolerances,
        stops=stops_of(controller, layout, t0, t1, gap, landings),
        grid=(
            engine_times("times", controller.times, layout, t0)
            if isinstance(controller, StepTo)
            else None
        ),
        watch=Watch(setup.events, layout, margin) if setup.events else None,
        common=layout.common,
        observer=setup.observer,
    )
    # A grid or a motion that is refused is so before the field is called.
    if isinstance(term, BoundSDE):
        problem = replace(problem, noise=motion_of(problem, setup.noise))
    plan = _plan(setup, problem) if setup.fixed else None
    if plan is None and isinstance(term, BoundSDE):
        check_motion(problem)
    try:
        spent: Tensor | int = check_clock(problem) if margin is None else 0
        spent = spent + check_additive(problem)
        if plan is None:
            spent = spent + check_own_noise(problem)
        begun = moving_start(problem, moving[:, 0]) if graph else problem
        outcome = _steps(setup, begun, plan)
        if plan is None:
            ended = outcome.tape
            check_own_noise_later(problem, ended.t_end, ended.y_end)
    except Exception as error:
        _explain(problem, error)
        raise
    spent = spent + warn_if_apart(problem, outcome.tape.detached())
    if setup.events:
        spent = spent + evaluations(problem, outcome.tape, setup.fixed)
    if setup.events or spent:
        outcome = replace(outcome, evaluations=outcome.evaluations + spent)
    t_end = outcome.tape.t_end
    if graph:
        outcome = moving_end(problem, outcome, moving[:, -1])
    if setup.events:
        outcome, t_end = moving_events(problem, outcome)
    return Run(
        problem=problem,
        outcome=outcome,
        layout=layout,
        reads=moving,
        probes=probes,
        t_end=t_end,
        active=t1 > t0,
    )


def _plan(setup: Setup, problem: Problem) -> Schedule:
    """The steps of a fixed grid, with their noise."""
    plan = fixed_grid(problem, problem.noise)
    moved = plan.noise
    if moved is not None and not isinstance(setup.adjoint, Direct):
        parts = (moved.w, moved.levy)
        if any(part is not None and part.requires_grad for part in parts):
            raise ValueError(
                "noise depends on tensors that require grad, which "
                f"{type(setup.adjoint).__name__}() would lose; solve with "
                "adjoint=Direct(), or detach them"
            )
    return plan


def _steps(setup: Setup, problem: Problem, plan: Schedule | None) -> Outcome:
    """The steps of a problem, with the rows that failed put to rest."""
    if plan is None:
        return _run(setup, problem, None)
    cut: Cut | None = None
    if problem.watch is not None:
        with torch.no_grad():
            carry = start(problem)
        cut = cut_at_events(problem, plan, carry)
        plan = cut.plan
    outcome = _run(setup, problem, plan)
    if cut is not None:
        outcome = replace(outcome, tape=_ended(outcome.tape, cut))
    tape = outcome.tape
    broken = tape.status == Status.NON_FINITE_FIELD
    if bool(broken.any()):
        steps, cause = last_good_steps(problem, plan)
        status = torch.where(broken, cause, tape.status)
        t_end = torch.where(broken, reached(plan, steps, problem), tape.t_end)
        spent, rest = outcome.evaluations, problem
        if problem.common and takes_own_times(problem):
            # Then rows that rest need not meet times at which they failed.
            rest, plan = replace(problem, common=False), replace(plan, shared=None)
        outcome = _run(setup, rest, cut_short(plan, steps))
        outcome = replace(outcome, evaluations=spent)
        outcome = failed(outcome, status, t_end, tape.channel)
    return outcome


def _ended(tape: Tape, cut: Cut) -> Tape:
    """A tape whose rows ended at the events of a plan, unless they failed before."""
    good = tape.status == Status.SUCCESS
    return replace(
        tape,
        status=torch.where(good, cut.status, tape.status),
        t_end=torch.where(good, cut.t_end, tape.t_end),
        channel=torch.where(good, cut.channel, -1),
    )


def _run(setup: Setup, problem: Problem, plan: Schedule | None) -> Outcome:
    if transformed():
        return _run_transformed(setup.adjoint, problem, plan)
    if not torch.is_grad_enabled():
        return plain(problem, find_steps(problem, plan, start(problem)))
    adjoint = setup.adjoint
    known = plan is not None or problem.y0.requires_grad
    if isinstance(adjoint, Direct) and (known or can_record(problem)):
        # A graph is recorded, whatever else the term uses.
        return adjoint.run(problem, plan, start(problem), Captured())
    named = None if isinstance(adjoint, Direct) else adjoint.parameters
    before = _random_state(problem.y0.device)
    if named is not None:
        with torch.no_grad():
            carry = start(problem)
        wanted = tuple(p for p in named if p.requires_grad)
        captured = Captured(wanted, chosen=True, used=len(wanted))
    else:
        carry, captured = _watched_start(problem)
    random = not torch.equal(before, _random_state(problem.y0.device))
    if not (problem.y0.requires_grad or captured.tensors):
        return plain(problem, find_steps(problem, plan, carry))
    if random and not isinstance(adjoint, Direct):
        _warn_of_random(adjoint)
    return adjoint.run(problem, plan, carry, captured)


def _run_transformed(
    adjoint: Adjoint, problem: Problem, plan: Schedule | None
) -> Outcome:
    """`_run` inside of transforms, where tensors do not tell what depends on what.

    RuntimeError where something in them would be lost, or a failure could not be told
    apart by members of an ensemble.
    """
    if not isinstance(adjoint, Direct):
        raise RuntimeError(
            f"adjoint={type(adjoint).__name__}() is a custom autograd function, which "
            "torch.func transforms and forward mode cannot look into; solve with "
            "adjoint=Direct() inside of them"
        )
    outcome = adjoint.run(problem, plan, start(problem), Captured())
    status = outcome.tape.status
    short = (status != Status.SUCCESS) & (status != Status.EVENT)
    if bool(short.any()) and in_vmap():
        raise RuntimeError(
            "a solve under vmap did not reach the end in some member; solve for the "
            "members one by one to see which and why"
        )
    return outcome


def _explain(problem: Problem, error: Exception) -> None:
    """Tell an error what the user's functions got, if their first call raises one."""
    try:
        with torch.no_grad():
            problem.term.probe(problem.start_time, problem.y0.detach().clone())
    except Exception:
        layout = problem.term.layout
        t = layout.clock(problem.start_time)
        leaves = ", ".join(
            str((layout.structure.batch, *leaf.shape))
            for leaf in layout.structure.leaves
        )
        shape = "0-dim" if t.ndim == 0 else f"of shape {tuple(t.shape)}, one per sample"
        hint = "" if t.ndim == 0 else "; t[:, None] combines with a state (batch, dim)"
        error.add_note(
            f"This was the first call of the solve: t is {shape}{hint}; the state has "
            f"shape {leaves}"
            + ("" if layout.args is None else "; args are passed third")
        )


def _warn_of_random(adjoint: Adjoint) -> None:
    warnings.warn(
        "the term draws random numbers when it is called, as dropout does, and "
        f"adjoint={type(adjoint).__name__}() calls it again on the way back, with "
        "others: gradients would be those of another solve. Draw them before the "
        "solve, or use adjoint=Direct()",
        stacklevel=5,
    )


def _random_state(device: torch.device) -> Tensor:
    """Of the global generator that a field on the device draws from."""
    cuda = device.type == "cuda"
    return torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state()


def _watched_start(problem: Problem) -> tuple[tuple[Tensor, ...], Captured]:
    """The first carry, and the tensors requiring grad that the term uses."""
    carry: tuple[Tensor, ...] = ()

    def call() -> tuple[Tensor, ...]:
        nonlocal carry
        carry = start(problem)
        if not carry and problem.rows:
            problem.term.probe(problem.start_time, problem.y0)
        return carry

    term = problem.term
    functions = (*term.functions, term.layout.args)
    captured = captured_tensors(call, functions, (problem.y0,))
    return carry, captured
