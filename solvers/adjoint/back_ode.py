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

from nde.solvers import dense
from nde.solvers.adjoint.backward import looks_at, vjp, watched
from nde.solvers.adjoint.captured import Captured
from nde.solvers.adjoint.forward import find_steps, start
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

    def solved(
        self,
        g_end: Tensor | None,
        g_polynomials: Tensor | None,
        totals: list[Tensor | None],
    ) -> Tensor:
        """The gradient in y0; those of captured tensors are added to `totals`."""
        marks = _marks(self.problem, self.tape, g_end, g_polynomials)
        # An infinite gradient is no state to step from.
        lost = ~torch.isfinite(marks.grads).all(dim=2).all(dim=1)
        grads = torch.where(lost[:, None, None], 0.0, marks.grads)
        equation = _AdjointEquation(self, totals)
        intervals = marks.times.shape[1] - 1
        looks = looks_at(intervals, self.captured)
        a, missed = grads[:, 0], []
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
                z = self._interval(equation, (begin, end), active, y, a)
                found, a = z.tensor_split(2, dim=1)
                known = torch.where(active.unsqueeze(1), marks.states[:, k + 1], found)
                missed.append(self._missed(found, known))
            a = a + grads[:, k + 1]
        _warn_of_drift(missed)
        if bool(lost.any()):
            a = torch.where(lost.unsqueeze(1), torch.nan, a)
            for index, total in enumerate(totals):
                if total is not None:
                    totals[index] = torch.full_like(total, torch.nan)
        return a

    def _missed(self, found: Tensor, known: Tensor) -> Tensor:
        """By how many tolerances a state was missed, of what is coarser: there or back."""
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
    ) -> Tensor:
        """State and gradient, side by side, at the end of an interval backward, from
        those at its begin."""
        # Rows without a way to go show the field what another one does.
        source = standing_in(active)
        begun = torch.cat([y, a], dim=1)
        z, t0 = begun[source], -times[0][source]
        t1 = torch.where(active, -times[1], t0)
        problem = self._reversed(equation, t0, t1, z)
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
        return torch.where(active.unsqueeze(1), tape.y_end, begun)

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


class _AdjointEquation:
    """The equation of y and a side by side, `(rows, 2 dim)`, as a field of engine time.

    It observes the steps backward, and adds what captured tensors get from each that
    was accepted: sum_i h b_i a_i^T df/dp at the method's stages i. The field is called
    once more for these, since what a step weighs in each row is only known after it;
    and rows that did not move show it where they last set out, for a gradient of zero
    would not survive an infinite derivative at the end of a rejected step.
    """

    def __init__(self, back: BackODE, totals: list[Tensor | None]) -> None:
        self._problem, self._totals = back.problem, totals
        self._f, self._tableau = back.problem.term.f, back.stepper.tableau
        self._context, self._captured = back.captured.replay()
        self._stages: list[tuple[Tensor, Tensor]] = []
        self._shown: tuple[Tensor, Tensor] | None = None
        self._h: Step | None = None

    def f(self, t: Tensor, z: Tensor) -> Tensor:
        """The derivative of y and a in forward time."""
        y, a = z.detach().tensor_split(2, dim=1)
        y = y.contiguous().requires_grad_()
        with torch.enable_grad(), self._context:
            slope = self._f(t, y)
        (grad,) = vjp((slope,), (a,), (y,), (), [])
        if self._captured:
            self._stages.append((t, z))
        return torch.cat([slope.detach(), -grad], dim=1)

    def begin(self, t: Tensor, z: Tensor) -> None:
        """Before the first step of an interval from `t`, in backward time."""
        self._shown = self._now(t), z

    def attempt(self, t: Step, y: Tensor, h: Step) -> None:
        """A step follows; those of a grid are accepted."""
        self.settle()
        observer = self._problem.observer
        if observer is not None:
            observer.replay(-t, y.tensor_split(2, dim=1)[0], h)
        self._stages, self._h = [], h
        if self._tableau.fsal:
            # The first stage was found with some step before, in each row another one.
            self._stages.append((self._now(t), y))

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
        if h is None or not self._captured:
            return
        stages = self._stages[: self._tableau.stages]
        if isinstance(h, Tensor):
            moved = h > 0
            assert self._shown is not None
            stages = [_where(moved, stage, self._shown) for stage in stages]
            self._shown = stages[0]
            h = h.to(stages[0][1].dtype).unsqueeze(1)
        for weight, (t, z) in zip(self._tableau.b, stages, strict=True):
            if weight == 0.0:
                continue
            y, a = z.tensor_split(2, dim=1)
            with torch.enable_grad(), self._context:
                slope = self._f(t, y.contiguous())
            vjp((slope,), (weight * h * a,), (), self._captured, self._totals)

    def _now(self, t: Step) -> Tensor:
        """Backward time as the stages have it, forward."""
        y = self._problem.y0
        if isinstance(t, float):
            return y.new_full(() if self._problem.common else (1,), -t)
        return -t.to(y.dtype)


def _where(
    rows: Tensor, value: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Time and state of one in some rows, of another in the rest."""
    t = torch.where(rows, value[0], other[0])
    return t, torch.where(rows.unsqueeze(1), value[1], other[1])


@dataclass(frozen=True)
class _Marks:
    """Where the way back starts anew, latest first, in forward engine time.

    `times (rows, n)`: the end of each row, what is read inside, and its start, which
    also fills rows that have fewer. `states (rows, n, dim)` are the computed ones,
    `grads (rows, n, dim)` the gradients of what was read there.
    """

    times: Tensor
    states: Tensor
    grads: Tensor


def _marks(
    problem: Problem, tape: Tape, g_end: Tensor | None, g_polynomials: Tensor | None
) -> _Marks:
    start, end = problem.t0.unsqueeze(1), tape.t_end.unsqueeze(1)
    inside = (problem.reads > start) & (problem.reads < end)
    reads = _falling(torch.where(inside, problem.reads, start))
    again = torch.zeros_like(inside)
    again[:, 1:] = reads[:, 1:] == reads[:, :-1]
    reads = _falling(torch.where(again, start, reads))
    reads = reads[:, (reads > start).any(dim=0)]
    times = torch.cat([end, reads, start], dim=1)
    y_end, polynomials = tape.y_end, tape.polynomials
    states = dense.read(problem, tape, times, y_end, polynomials).detach()
    states[:, 0] = y_end
    grads = torch.zeros_like(states)
    if g_end is not None:
        grads[:, 0] = g_end
    if g_polynomials is None or not tape.slots.numel():
        return _Marks(times, states, grads)
    entry, found = dense.locate(problem, tape, times)
    slot = tape.slot[entry]
    found = found & (slot >= 0) & (times > start) & (times < end)
    entry, picked = entry[found], g_polynomials[slot[found]]
    read = picked[:, 0]
    if problem.interpolates:
        # Read at theta, 0 or 1: all has p_0, and p_1 has h theta of it.
        h = tape.h[entry]
        late = picked[:, 1] / h.unsqueeze(1).to(picked.dtype)
        at_end = (times[found] - tape.t[entry]) > 0.5 * h
        read = torch.where(at_end.unsqueeze(1), late, read - late)
    grads[found] = read.to(grads.dtype)
    return _Marks(times, states, grads)


def _falling(times: Tensor) -> Tensor:
    return times.sort(dim=1, descending=True).values


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
    )


def _twice(value: float | Tensor) -> float | Tensor:
    return torch.cat([value, value], dim=1) if isinstance(value, Tensor) else value


def _rms_of_both(norm: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def measured(scaled: Tensor) -> Tensor:
        y, a = scaled.tensor_split(2, dim=1)
        return (0.5 * (norm(y).square() + norm(a).square())).sqrt()

    return measured


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
