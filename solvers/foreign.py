"""Solves that another solver did, told so that local regularizers can step along them.

Any solver will do: of its solve only times and states are needed, whatever gradients
these carry, and the steps that a regularizer takes are of a method of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.bound import bind
from nde.solvers.brownian import BrownianMotion
from nde.solvers.choice import chosen_stepper
from nde.solvers.controller import FixedSteps
from nde.solvers.engine import Run
from nde.solvers.problem import Problem
from nde.solvers.solution import Solution
from nde.solvers.state import State, map_tensors, structure_of
from nde.solvers.stats import Stats
from nde.solvers.stepper import Stepper
from nde.solvers.tape import Tape
from nde.solvers.term import Layout, Term
from nde.solvers.times import user_times
from nde.solvers.tolerances import Tolerance, fit_tolerances
from nde.solvers.types import Status, time_dtype


class TakenStep(NamedTuple):
    """A step that a solver accepted: from state `y`, leaves `(batch, ...)`, at `t`,
    of positive length `h`."""

    t: float
    h: float
    y: State


class StepRecorder(nn.Module):
    """A vector field of torchdiffeq that keeps the steps which its solves accept.

    Pass it in place of the field `func(t, y)` to `odeint` or `odeint_adjoint` with an
    adaptive method: these call `callback_accept_step`. Values and gradients are those
    of `func`. `take()` hands the steps over, so that each is of one solve.
    """

    def __init__(self, func: nn.Module) -> None:
        super().__init__()
        self.func = func
        self._steps: list[TakenStep] = []

    def forward(self, t: Tensor, y: State) -> State:
        """The field."""
        value: State = self.func(t, y)
        return value

    def callback_accept_step(self, t0: Tensor, y0: State, dt: Tensor) -> None:
        """Keep a step."""
        y = map_tensors(lambda leaf: leaf.detach().clone(), y0)
        self._steps.append(TakenStep(float(t0.detach()), float(dt.detach()), y))

    def take(self) -> list[TakenStep]:
        """The steps since the last call, first to last."""
        steps, self._steps = self._steps, []
        return steps


@dataclass(frozen=True)
class ProbedTimes:
    """Output times together with those that regularizers drew, for any solver.

    `ts (T,)` strictly monotone; `probe_times (k,)` inside of it, or None. Solve for
    `all`, `(n,)`, and `split` what comes out.

    Raises ValueError for other shapes.
    """

    ts: Tensor
    probe_times: Tensor | None

    def __post_init__(self) -> None:
        for name, times in (("ts", self.ts), ("probe_times", self.probe_times)):
            if times is not None and times.ndim != 1:
                raise ValueError(
                    f"{name} has shape {tuple(times.shape)}; another solver takes one "
                    "time for the batch, so pass (k,): draw for t0, t1 of shape (1,)"
                )

    @property
    def all(self) -> Tensor:
        """Every time once, in the order of `ts`, with its graph."""
        times, order, new = self._sorted
        return times[order[new]]

    def split(self, states: State) -> tuple[State, State | None]:
        """States at `ts` and at `probe_times`, from those at `all`.

        Leaves `(n, batch, ...)` to `(T, batch, ...)`, and to `(batch, k, ...)` as a
        `Solution` has them.
        """
        _, order, new = self._sorted
        at = torch.empty_like(order)
        at[order] = new.cumsum(0) - 1
        count = len(self.ts)
        ys = map_tensors(lambda leaf: leaf[at[:count]], states)
        if self.probe_times is None:
            return ys, None
        return ys, map_tensors(lambda leaf: leaf[at[count:]].transpose(0, 1), states)

    @property
    def _sorted(self) -> tuple[Tensor, Tensor, Tensor]:
        """All times as given, their order, and which in it differ from the last."""
        times = self.ts
        if self.probe_times is not None:
            times = torch.cat([times, self.probe_times.to(times)])
        plain, reverse = times.detach(), bool(self.ts[-1] < self.ts[0])
        order = torch.argsort(plain, descending=reverse, stable=True)
        new = torch.ones_like(order, dtype=torch.bool)
        new[1:] = plain[order].diff() != 0
        return times, order, new


def foreign_solution(
    term: Term,
    ts: Tensor,
    ys: State,
    *,
    method: str | Stepper,
    probes: State | None = None,
    steps: Sequence[TakenStep] | None = None,
    step: float | None = None,
    rtol: Tolerance = 1e-3,
    atol: Tolerance = 1e-6,
    noise: BrownianMotion | None = None,
) -> Solution:
    """A solve that another solver did, as local regularizers take it.

    The batch has shared its steps, so that one error is that of all of it. Where the
    steps are not known each output time but the last begins one, as long as `step`, or
    as up to the next output.

    Args:
        term: what was solved, with the same functions; it is called for extra steps.
        ts: output times `(T,)`, at least two.
        ys: states at `ts`, leaves `(T, batch, ...)`, with their graph.
        method: of the extra steps; for the like of theirs, that of the solve.
        probes: states at drawn times, leaves `(batch, k, ...)`, with their graph.
        steps: what the solver accepted, first to last, as `StepRecorder` has them.
        step: length of the solver's steps, where it was fixed.
        rtol, atol: by which errors are divided: those of the solve.
        noise: the Brownian motion of the solve, for `noise="same"`; torchsde's as
            `nde.solvers.brownian.FromTorchsde(bm)`.

    Returns:
        `Solution`, whose steps have no estimates, and which counts no evaluations.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    if steps is not None and step is not None:
        raise ValueError("steps and step both say how long steps were; give one")
    if step is not None and not step > 0.0:
        raise ValueError(f"step must be > 0, got {step}")
    if ts.ndim != 1 or len(ts) < 2:
        raise ValueError(
            f"ts has shape {tuple(ts.shape)}; pass the times of the solve, (T,), at "
            "least two"
        )
    outputs = map_tensors(lambda leaf: leaf.transpose(0, 1), ys)
    begin = map_tensors(lambda leaf: leaf[0].detach(), ys)
    structure = structure_of(begin)
    times = user_times(ts.detach(), None, structure.batch, term)
    layout = Layout(structure, shared=True, reverse=times.reverse)
    flat = layout.to_engine(begin, "ys").contiguous()
    clock = ts.detach().to(device=flat.device, dtype=time_dtype(flat.device))
    if steps is None:
        gaps = clock.diff().abs().tolist()
        steps = [
            TakenStep(t, gap if step is None else step, _at(ys, i))
            for i, (t, gap) in enumerate(zip(clock[:-1].tolist(), gaps, strict=True))
        ]
    if not steps:
        raise ValueError(
            "steps is empty; pass StepRecorder's of this solve, taken once, from an "
            "adaptive method of torchdiffeq, or leave it out"
        )
    engine = -clock if layout.reverse else clock
    first = min(step.h for step in steps)
    controller = FixedSteps(first, rtol=rtol, atol=atol)
    problem = Problem(
        term=bind(term, layout),
        stepper=chosen_stepper(term, method, controller, noise),
        controller=controller,
        t0=engine[:1],
        t1=engine[-1:],
        y0=flat,
        reads=engine.unsqueeze(0),
        dense=False,
        keep=True,
        max_steps=len(steps),
        tolerances=fit_tolerances(rtol, atol, None, layout, flat),
        noise=noise,
    )
    tape = _tape(problem, steps, _at(ys, -1), layout)
    nothing = flat.new_full((len(steps), 1), torch.nan)
    outcome = Outcome(
        tape=tape,
        y_end=tape.y_end,
        polynomials=tape.polynomials,
        evaluations=torch.zeros_like(tape.accepted),
        graph=(nothing, nothing),
    )
    run = Run(
        problem=problem,
        outcome=outcome,
        layout=layout,
        reads=problem.reads,
        probes=None,
        t_end=problem.t1,
        active=torch.ones_like(problem.t1, dtype=torch.bool),
    )
    return Solution(
        ts=ts,
        ys=outputs,
        final=map_tensors(lambda leaf: leaf[-1], ys),
        probes=probes,
        status=tape.status.expand(structure.batch),
        stats=Stats((run,)),
        events=None,
        runs=(run,),
        foreign=True,
    )


def _at(ys: State, index: int) -> State:
    return map_tensors(lambda leaf: leaf[index].detach(), ys)


def _tape(
    problem: Problem, steps: Sequence[TakenStep], end: State, layout: Layout
) -> Tape:
    """The steps as the engine would have recorded them, without estimates."""
    count = len(steps)
    number = torch.arange(count, device=problem.y0.device)
    table = problem.t0.new_tensor([(step.t, step.h) for step in steps])
    rows = [layout.to_engine(step.y, "steps") for step in steps]
    none = problem.y0.new_full((count,), torch.nan)
    t = -table[:, 0] if layout.reverse else table[:, 0]
    inside = bool(((t >= problem.t0) & (t < problem.t1) & (table[:, 1] > 0)).all())
    if not inside or bool((t.diff() <= 0).any()):
        raise ValueError(
            "steps do not follow one another inside the interval of ts; pass those of "
            "this solve alone: StepRecorder.take() once for each"
        )
    return Tape(
        step=number,
        row=torch.zeros_like(number),
        t=t,
        # Solvers that interpolate step beyond the end.
        h=torch.minimum(table[:, 1], problem.t1 - t),
        fresh=None,
        error=none,
        stiffness=none,
        y=torch.cat(rows).to(problem.y0),
        carry=(),
        slots=number[:0],
        polynomials=problem.y0[:0].unsqueeze(1),
        y_end=layout.to_engine(end, "ys"),
        carry_end=(),
        t_end=problem.t1,
        accepted=number.new_tensor([count]),
        rejected=number.new_tensor([0]),
        status=number.new_tensor([int(Status.SUCCESS)]),
    )
