"""Errors that are what torchdiffeq raises, and what this package raises."""

from __future__ import annotations

from nde.solvers import SolveError, Status


class InvalidInput(ValueError, AssertionError):
    """An argument that no solve can work with."""


class SolveFailed(SolveError, AssertionError):
    """A solve that did not reach the end of its interval."""


_HEAD = {
    Status.MAX_STEPS: "max_num_steps exceeded",
    Status.STEP_UNDERFLOW: "underflow in dt: no step was accurate enough",
    Status.NON_FINITE_FIELD: "non-finite values from func",
    Status.NON_FINITE_STATE: "non-finite values in state `y`",
    Status.NON_FINITE_EVENT: "non-finite values from event_fn",
}
_FIX = {
    Status.MAX_STEPS: (
        "The problem may be stiff: loosen rtol and atol, or raise "
        "options['max_num_steps']"
    ),
    Status.STEP_UNDERFLOW: (
        "The solution may blow up or jump there: end before it, or give the time of "
        "the jump as options['jump_t']"
    ),
    Status.NON_FINITE_FIELD: (
        "Look at func there: a division by zero, an overflow, the log of a negative"
    ),
    Status.NON_FINITE_STATE: (
        "The solution may explode: end before it, or take shorter steps"
    ),
    Status.NON_FINITE_EVENT: "Look at event_fn there",
}


def failed(error: SolveError, steps: str = "") -> SolveFailed:
    """The error of a solve as torchdiffeq's callers know it; `steps` its limit."""
    status, (t, *_), (count, *_) = error.status, error.times, error.evaluations
    message = (
        f"{_HEAD[status]}{steps if status == Status.MAX_STEPS else ''}, at t={t:.6g} "
        f"after {count} evaluations. {_FIX[status]}"
    )
    return SolveFailed(
        message,
        status=status,
        samples=error.samples,
        times=error.times,
        evaluations=error.evaluations,
    )
