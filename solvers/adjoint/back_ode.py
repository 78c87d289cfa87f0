"""The way back of an ODE: its adjoint equation, solved by steps of its own.

With a the gradient in the state, y' = f(t, y) and a' = -(df/dy)^T a are solved from the
end of each row to its start, and the gradient of a captured tensor is the integral of
a^T df/dp. Steps are judged by y and a alone, the seminorm of Kidger, Chen and Lyons,
*"Hey, that's not an ODE": faster ODE adjoints via seminorms* (2021): the integral feeds
nothing back into the equation, so it is a sum along the steps that were accepted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from nde.solvers.adjoint.backward import looks_at, of_states, vjp, watched
from nde.solvers.adjoint.captured import Captured
from nde.solvers.adjoint.forward import find_steps, start
from nde.solvers.adjoint.marks import marks_of
from nde.solvers.adjoint.node import Grads
from nde.solvers.arithmetic import standing_in
from nde.solvers.bound import BoundODE
from nde.solvers.controller import PID, Controller, StepTo
from nde.solvers.problem import Problem
from nde.solvers.runge_kutta import ExplicitRungeKutta
from nde.solvers.schedule import fixed_grid
from nde.solvers.state import Leaf, Structure
from nde.solvers.stops import engine_times, stops_of
from nde.solvers.tape import Tape
from nde.solvers.term import Layout, ODETerm
from nde.solvers.tolerances import Tolerances, fit_tolerances, least_rtol
from nde.solvers.types import SolveError, Status, Step

# Tolerances by which a state may miss the stored one: errors of steps add up.
_MISSED = 100.0


@dataclass(frozen=True)
class BackODE:
    """What the way back needs. The steps of `tape` end, or begin, where it is read."""

    problem: Problem
    tape: Tape
    captured: Captured
    stepper: ExplicitRungeKutta
    controller: Controller
    tolerances: Tolerances

    def back(self, grads: Grads, totals: list[Tensor | None]) -> Tensor:
        """The gradient in y0; those of captured tensors are added to `totals`."""
        g_end, g_polynomials = of_states(grads)
        marks = marks_of(self.problem, self.tape, g_end, g_polynomials)
        # An infinite gradient is no state to step from.
        lost = ~torch.isfinite(marks.grads).all(dim=2).all(dim=1)
        added = torch.where(lost[:, None, None], 0.0, marks.grads)
        equation = _AdjointEquation(self, totals)
        intervals = marks.times.shape[1] - 1
        looks = looks_at(intervals, self.captured)
        a, missed = added[:, 0], []
        first: Tensor | None = None
        for k in range(intervals):
            begin, end = marks.times[:, k], marks.times[:, k + 1]
            # Where nothing is asked of what follows, the gradient stays zero.
            active = (begin > end) & a.any(dim=1)
            if self.problem.common:
                active = active.any().expand_as(active)
            if bool(active.any()):
                y = marks.states[:, k]
                if intervals - 1 - k in looks:
                    call = partial(self._look, begin, y)
                    watched(call, self.problem, self.captured)
                z, first = self._interval(equation, (begin, end), active, y, a, first)
                found, a = z.tensor_split(2, dim=1)
                known = torch.where(active.unsqueeze(1), marks.states[:, k + 1], found)
                missed.append(self._missed(found, known))
            a = a + added[:, k + 1]
        _warn_of_drift(missed)
        if bool(lost.any()):
            a = torch.where(lost.unsqueeze(1), torch.nan, a)
            for index, total in enumerate(totals):
                if total is not None:
                    totals[index] = torch.full_like(total, torch.nan)
        return a

    def _missed(self, found: Tensor, known: Tensor) -> Tensor:
        """By how many tolerances a state was missed, the coarser of there and back."""
        there = self.problem.tolerances.ratio(found - known, known, known)
        off, size = (
            torch.cat([y, torch.zeros_like(y)], dim=1) for y in (found - known, known)
        )
        return torch.minimum(there, self.tolerances.ratio(off, size, size))

    def _look(self, t: Tensor, y: Tensor) -> None:
        context, _ = self.captured.replay()
        with torch.enable_grad(), context:
            now = (t[0] if self.problem.common else t).to(y.dtype)
            self.problem.term.f(now, y)

    def _interval(
        self,
        equation: _AdjointEquation,
        times: tuple[Tensor, Tensor],
        active: Tensor,
        y: Tensor,
        a: Tensor,
        first: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """State and gradient, side by side, at the end of an interval backward, from
        those at its begin; and the first step to try, here and in the next one."""
        # Rows without a way to go show the field what another one does.
        source = standing_in(active)
        begun = torch.cat([y, a], dim=1)
        z, t0 = begun[source], -times[0][source]
        t1 = torch.where(active, -times[1], t0)
        problem = replace(self._reversed(equation, t0, t1, z), first_step=first)
        equation.begin(problem.start_time, z)
        with torch.no_grad():
            carry = start(problem)
        adaptive = isinstance(self.controller, PID)
        plan = None if adaptive else fixed_grid(problem, None)
        tape = find_steps(problem, plan, carry)
        equation.settle()
        failed = active & (tape.status != Status.SUCCESS)
        if bool(failed.any()):
            raise _failure(self.problem, tape, failed)
        met = torch.where(active.unsqueeze(1), tape.y_end, begun)
        return met, self._next_step(tape, active, first)

    def _next_step(
        self, tape: Tape, active: Tensor, before: Tensor | None
    ) -> Tensor | None:
        """What the errors of the last steps let rows try next: `(rows,)`."""
        controller, order = self.controller, self.stepper.error_order
        if not isinstance(controller, PID):
            return None
        assert order is not None
        last = (tape.accepted - 1).clamp_min(0).unsqueeze(0)
        entry = tape.index.gather(0, last).squeeze(0)
        h, ratio = tape.h[entry], tape.error[entry]
        _, after, _ = controller.adapt(h, ratio, controller.begin(ratio), order)
        unknown = torch.nan if before is None else before
        return torch.where(active, after, unknown)

    def _reversed(
        self, equation: _AdjointEquation, t0: Tensor, t1: Tensor, z: Tensor
    ) -> Problem:
        """The adjoint equation in time that runs backward."""
        forward, controller = self.problem, self.controller
        layout = forward.term.layout
        mirrored = replace(layout, reverse=not layout.reverse)
        leaf = Leaf(tuple(z.shape[1:]), z.dtype)
        return Problem(
            term=BoundODE(
                ODETerm(equation.f),
                Layout(
                    structure=Structure(0, (leaf,), z.shape[0], z.dtype),
                    shared=False,
                    reverse=True,
                    common=forward.common,
                ),
            ),
            stepper=self.stepper,
            controller=controller,
            t0=t0,
            t1=t1,
            y0=z,
            reads=t0.new_zeros((z.shape[0], 0)),
            dense=False,
            keep=False,
            max_steps=forward.max_steps,
            tolerances=self.tolerances,
            stops=stops_of(controller, mirrored, t0, t1, z.dtype),
            grid=(
                engine_times("times", controller.times, mirrored, t0)
                if isinstance(controller, StepTo)
                else None
            ),
            common=forward.common,
            observer=equation,
        )


@dataclass(frozen=True)
class _Stage:
    """Where the field was called, in forward time, and its value with the graph."""

    t: Tensor
    z: Tensor
    slope: Tensor | None


class _AdjointEquation:
    """The equation of y and a side by side, `(rows, 2 dim)`, as a field of engine time.

    It observes the steps backward, and adds what captured tensors get from each that
    was accepted: sum_i h b_i a_i^T df/dp at the method's stages i. What a step weighs
    in each row is only known after it. Where some row did not move, the field is called
    once more, and such rows show it where they last set out: a gradient of zero would
    not survive an infinite derivative at the end of a rejected step.
    """

    def __init__(self, back: BackODE, totals: list[Tensor | None]) -> None:
        self._problem, self._totals = back.problem, totals
        self._field, self._tableau = back.problem.term.f, back.stepper.tableau
        self._context, self._captured = back.captured.replay()
        self._stages: list[_Stage] = []
        self._shown: _Stage | None = None
        self._h: Step | None = None

    def f(self, t: Tensor, z: Tensor) -> Tensor:
        """The derivative of y and a in forward time."""
        y, a = z.detach().tensor_split(2, dim=1)
        y = y.contiguous().requires_grad_()
        slope = self._slope(t, y)
        grad: Tensor | None = None
        if slope.requires_grad:
            keep = bool(self._captured)
            (grad,) = torch.autograd.grad(
                slope, y, a, retain_graph=keep, allow_unused=True
            )
        if self._captured:
            self._stages.append(_Stage(t, z, slope))
        back = torch.zeros_like(a) if grad is None else -grad
        return torch.cat([slope.detach(), back], dim=1)

    def begin(self, t: Tensor, z: Tensor) -> None:
        """Before the first step of an interval from `t`, in backward time."""
        self._shown = _Stage(self._now(t), z, None)

    def attempt(self, t: Step, y: Tensor, h: Step) -> None:
        """A step follows; those of a grid are accepted."""
        self.settle()
        observer = self._problem.observer
        if observer is not None:
            observer.replay(-t, y.tensor_split(2, dim=1)[0], h)
        self._stages, self._h = [], h
        if self._tableau.fsal:
            # The first stage was found with some step before, in each row another one.
            self._stages.append(_Stage(self._now(t), y, None))

    def judge(self, t: Step, y: Tensor, h: Step, accept: bool | Tensor) -> None:
        """The step was accepted, or was not."""
        if isinstance(h, Tensor):
            self._h = torch.where(torch.as_tensor(accept), h, 0.0)
        elif not accept:
            self._h = None
        self.settle()

    def replay(self, t: Step, y: Tensor, h: Step) -> None:
        """Never: the way back is taken once."""

    def settle(self) -> None:
        """Add what the last step gives to the gradients of captured tensors."""
        h, self._h = self._h, None
        stages, self._stages = self._stages[: self._tableau.stages], []
        if h is None or not self._captured:
            return
        if isinstance(h, Tensor):
            moved = h > 0
            if not bool(moved.all()):
                assert self._shown is not None
                stages = [_among(moved, stage, self._shown) for stage in stages]
            self._shown = replace(stages[0], slope=None)
            h = h.to(stages[0].z.dtype).unsqueeze(1)
        for weight, stage in zip(self._tableau.b, stages, strict=True):
            if weight == 0.0:
                continue
            y, a = stage.z.tensor_split(2, dim=1)
            slope = stage.slope
            if slope is None:
                slope = self._slope(stage.t, y.contiguous())
            vjp((slope,), (weight * h * a,), (), self._captured, self._totals)

    def _slope(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad(), self._context:
            return self._field(t, y)

    def _now(self, t: Step) -> Tensor:
        """Backward time as the stages have it, forward."""
        y = self._problem.y0
        if isinstance(t, float):
            return y.new_full(() if self._problem.common else (1,), -t)
        return -t.to(y.dtype)


def _among(rows: Tensor, stage: _Stage, other: _Stage) -> _Stage:
    """A stage of some rows, and another one of the rest, still to be called."""
    return _Stage(
        t=torch.where(rows, stage.t, other.t),
        z=torch.where(rows.unsqueeze(1), stage.z, other.z),
        slope=None,
    )


def tolerances_of(
    controller: Controller, stepper: ExplicitRungeKutta, problem: Problem
) -> Tolerances:
    """The tolerances of the way back: those asked for, for y and for a alike.

    Raises ValueError if they do not have the structure of the state.
    """
    layout, y0 = problem.term.layout, problem.y0
    asked = fit_tolerances(
        controller.rtol, controller.atol, controller.norm, layout, y0
    ).at_least(least_rtol(y0.dtype, stepper.noise))
    return Tolerances(
        rtol=_twice(asked.rtol),
        atol=_twice(asked.atol),
        norm=None if asked.norm is None else _rms_of_both(asked.norm),
        pairs=asked.pairs,
        seen=None if asked.seen is None else _of_both(asked.seen),
    )


def _twice(value: float | Tensor) -> float | Tensor:
    return torch.cat([value, value], dim=1) if isinstance(value, Tensor) else value


def _rms_of_both(norm: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def measured(scaled: Tensor) -> Tensor:
        y, a = scaled.tensor_split(2, dim=1)
        return (0.5 * (norm(y).square() + norm(a).square())).sqrt()

    return measured


def _of_both(seen: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def picked(z: Tensor) -> Tensor:
        return torch.cat([seen(part) for part in z.tensor_split(2, dim=1)], dim=1)

    return picked


def _warn_of_drift(missed: list[Tensor]) -> None:
    """One warning if the state solved backward left the one solved forward.

    `missed (rows,)` for each interval, in units of the tolerance.
    """
    worst = float(torch.stack(missed).max()) if missed else 0.0
    if worst > _MISSED:
        warnings.warn(
            "adjoint=Backsolve() solved back to a state that misses the stored one by "
            f"{worst:.0f} times the tolerance (more than {_MISSED:.0f}), and gradients "
            "are off with it: errors grow backward where the equation contracts "
            "forward; use adjoint=Recompute(), more output times, or "
            "Backsolve(controller=...) with smaller tolerances",
            stacklevel=2,
        )


def _failure(problem: Problem, tape: Tape, failed: Tensor) -> SolveError:
    """What to raise where the way back did not get to an interval's end."""
    layout = problem.term.layout
    status = Status(int(tape.status[failed][0]))
    reached = -tape.t_end[failed]
    times = (-reached if layout.reverse else reached).tolist()
    samples = failed.nonzero().view(-1).tolist()
    tried = tape.accepted + tape.rejected
    where = "the shared batch" if layout.shared else f"sample {samples[0]}"
    return SolveError(
        f"the backward solve of adjoint=Backsolve() ended in {where} at "
        f"t={times[0]:.6g} with {status.name}, after {int(tried[failed][0])} steps "
        "from where it last met an output: backward, the equation grows where it "
        "contracts forward; use adjoint=Recompute(), more output times, or another "
        "controller, method or max_steps",
        status=status,
        samples=samples,
        times=times,
        evaluations=tried[failed].tolist(),
    )
