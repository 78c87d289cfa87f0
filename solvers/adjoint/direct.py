"""Direct: plain autograd through the accepted steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nde.solvers.adjoint.captured import Captured
from nde.solvers.adjoint.forward import evaluations, fill, find_steps
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.loop import can_record, run_recorded
from nde.solvers.march import fixed_tape, march
from nde.solvers.problem import Problem
from nde.solvers.schedule import Schedule, replay_of


@dataclass(frozen=True)
class Direct:
    """Gradients by automatic differentiation of the steps taken.

    Where the host decides, a graph is recorded while the steps are found, and that of
    a rejected one dropped. Else adaptive steps are found first and then replayed with
    a graph. Memory grows with steps times stages; supports double backward, and
    `torch.func` transforms and forward mode around the solve, where step sizes are
    constants too. Call backward() outside of autocast regions, as torch advises: inside
    it lowers the sums of the solve too, which other adjoints keep as they were.
    """

    def run(
        self,
        problem: Problem,
        plan: Schedule | None,
        carry: tuple[Tensor, ...],
        captured: Captured,
    ) -> Outcome:
        """Solve with gradients."""
        if plan is None and can_record(problem):
            recorded = run_recorded(problem, carry)
            return Outcome(
                tape=recorded.detached(),
                y_end=recorded.y_end,
                polynomials=recorded.polynomials,
                evaluations=evaluations(problem, recorded),
                graph=(
                    recorded.grid(recorded.error),
                    recorded.grid(recorded.stiffness),
                ),
            )
        if plan is None:
            tape = find_steps(problem, plan, carry)
            result = march(problem, replay_of(tape), carry, tape.slot_rows)
        else:
            tape = fixed_tape(problem, plan)
            result = march(problem, plan, carry, tape.slot_rows)
            tape = fill(tape, problem, result)
        return Outcome(
            tape=tape,
            y_end=result.y_end,
            polynomials=result.polynomials,
            evaluations=evaluations(problem, tape),
            graph=(
                result.error.where(tape.valid, 0.0),
                result.stiffness.where(tape.valid, 0.0),
            ),
        )
