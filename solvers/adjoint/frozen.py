"""Frozen: solve along the steps of an earlier solve, for finite differences."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nde.solvers.adjoint.captured import Captured
from nde.solvers.adjoint.direct import Direct
from nde.solvers.adjoint.forward import evaluations, fill, find_steps
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.march import fixed_tape, march
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule, replay_of


@dataclass(frozen=True)
class _Known:
    """The steps of a solve, and the interval that they cover."""

    steps: Schedule
    t0: Tensor
    t1: Tensor

    def fits(self, problem: Problem) -> bool:
        return (
            self.t0.shape == problem.t0.shape
            and bool(torch.equal(self.t0, problem.t0))
            and bool(torch.equal(self.t1, problem.t1))
        )


@dataclass(frozen=True)
class Frozen(Direct):
    """Values without a graph, along steps that stay those of the first round.

    All adjoints take step sizes for constants, so that the finite difference of an
    adaptive solve is not what they compute: it also moves the steps. Here the accepted
    steps, and the Brownian motion over them, are kept in a first round of solves and
    repeated, in the order of the solves, in each further round, which `again()` begins.
    Where a solve has events, or another interval than in the first round, its steps
    cannot stay and are found anew.

    Gradients must be enabled in a solve, which otherwise asks no adjoint; what comes
    out has none.
    """

    _first: list[_Known | None] = field(default_factory=list)
    _next: list[int] = field(default_factory=lambda: [0])

    def again(self) -> None:
        """Begin a round."""
        self._next[0] = 0

    @property
    def adaptive(self) -> bool:
        """Whether the first round had steps that depend on the solution."""
        return any(known is not None for known in self._first)

    def run(
        self,
        problem: Problem,
        plan: Schedule | None,
        carry: tuple[Tensor, ...],
        captured: Captured,
    ) -> Outcome:
        """Solve along the steps of the same solve in the first round."""
        with torch.no_grad():
            tape = None
            if plan is None:
                position = self._next[0]
                self._next[0] += 1
                known = self._first[position] if position < len(self._first) else None
                if known is not None and known.fits(problem):
                    plan = known.steps
                else:
                    tape = find_steps(problem, None, carry)
                if position == len(self._first):
                    assert tape is not None
                    self._first.append(
                        _Known(replay_of(tape), problem.t0, problem.t1)
                        if problem.watch is None
                        else None
                    )
            if tape is None:
                assert plan is not None
                blank = fixed_tape(problem, plan)
                tape = fill(
                    blank, problem, march(problem, plan, carry, blank.slot_rows)
                )
        return Outcome(
            tape=tape,
            y_end=tape.y_end,
            polynomials=tape.polynomials,
            evaluations=evaluations(problem, tape),
        )
