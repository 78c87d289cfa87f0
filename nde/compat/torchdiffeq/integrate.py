"""`odeint` and `odeint_dense`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nde.compat.torchdiffeq.failure import InvalidInput, failed
from nde.compat.torchdiffeq.grid import states_on_grid
from nde.compat.torchdiffeq.options import (
    ADAPTIVE,
    FIXED,
    MAX_GRID,
    MAX_STEPS,
    SCIPY,
    adaptive,
    checked,
)
from nde.compat.torchdiffeq.packing import Packing, State, packing_of
from nde.compat.torchdiffeq.scipy_solver import scipy_solve
from nde.compat.torchdiffeq.steps import CALLBACKS, Callbacks, callbacks_of
from nde.compat.torchdiffeq.until_event import until_event
from nde.solvers import (
    PID,
    Direct,
    ODETerm,
    Recompute,
    Solution,
    SolveError,
    solve,
)

Func = Callable[[Tensor, State], State]


def odeint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, State], Tensor] | None = None,
) -> Any:
    """Integrate dy/dt = func(t, y) from y(t[0]) = y0, differentiable through the steps.

    Args:
        func: of a 0-dim time and a state.
        y0: a tensor of any shape, or a tuple of tensors.
        t: `(T,)`, strictly increasing or decreasing.
        rtol, atol: a number, a tensor that broadcasts to y0, or one for each member.
        method: dopri5 by default.
        options: of the method.
        event_fn: of time and state; the solve ends where any of its values reaches
            zero or changes sign. `t[1]` then gives the direction alone.

    Returns:
        The states at `t`, `(T, *y0.shape)`, or a tuple of such. With `event_fn` the
        time of the event, and the states where the solve began and ended, `(2, ...)`.

    Raises:
        ValueError, TypeError, InvalidInput: bad input.
        SolveFailed: the end was not reached.
    """
    job = prepare(func, y0, t, rtol, atol, method, options, event_fn)
    return job.run(Direct())


def odeint_dense(
    func: Func,
    y0: State,
    t0: Any,
    t1: Any,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[[Any], State]:
    """The solution from t0 to t1 as a function of time, differentiable.

    It takes one time, or several `(k,)` for `(k, *y0.shape)`, between t0 and t1. An
    adaptive method. Raises as `odeint`.
    """
    kind = t0.dtype if isinstance(t0, Tensor) else torch.float64
    t = torch.stack([torch.as_tensor(end).to(kind) for end in (t0, t1)])
    job = prepare(func, y0, t, rtol, atol, method, options, None)
    if job.method not in ADAPTIVE:
        raise InvalidInput(
            f"odeint_dense needs an adaptive method, {', '.join(ADAPTIVE)}; got "
            f"{job.method}"
        )
    solution = job.solve(job.y0, job.t, Direct(), dense=True)

    def dense_output(t: Any) -> State:
        times = torch.as_tensor(t, dtype=None if isinstance(t, Tensor) else kind)
        states = job.packing.series(solution.evaluate(times.reshape(-1)))
        if times.ndim:
            return states
        if isinstance(states, tuple):
            return tuple(part[0] for part in states)
        return states[0]

    return dense_output


@dataclass(frozen=True)
class Job:
    """A solve as it was asked for, checked and laid out for the engine.

    `y0` is the engine's state and `given` the user's.
    """

    func: Func
    given: State
    packing: Packing
    y0: Tensor
    t: Tensor
    reverse: bool
    rtol: Any
    atol: Any
    method: str
    options: dict[str, Any]
    event_fn: Callable[[Tensor, State], Tensor] | None
    observer: Callbacks | None

    def run(self, adjoint: Direct | Recompute) -> Any:
        """The states at `t`, or with an event its time and the states at both ends."""
        if self.event_fn is not None:
            return until_event(self, adjoint)
        if len(self.t) == 1:
            return self.packing.series(self.y0.unsqueeze(1))
        if self.method == SCIPY:
            ys = scipy_solve(self.term(), self.y0, self.t, self)
        elif self.method in FIXED:
            ys = states_on_grid(self, adjoint)
        else:
            ys = self.solve(self.y0, self.t, adjoint).ys
        return self.packing.series(ys)

    def term(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The field in engine layout."""
        return self.packing.field(self.func)

    @property
    def max_steps(self) -> int:
        """Steps that the solve may attempt."""
        if self.method in FIXED:
            return MAX_GRID + 1
        return int(self.options.get("max_num_steps", MAX_STEPS))

    def controller(self) -> PID:
        """That of an adaptive method."""
        return adaptive(self.method, self.options, self.packing, self.rtol, self.atol)

    def solve(
        self, y0: Tensor, t: Tensor, adjoint: Direct | Recompute, **changes: Any
    ) -> Solution:
        """A solve by the engine, whose errors are those of this package."""
        arguments: dict[str, Any] = {
            "method": {**ADAPTIVE, **FIXED}[self.method],
            "adjoint": adjoint,
            "batch": "shared",
            "max_steps": self.max_steps,
            "observer": self.observer,
        } | changes
        if "controller" not in arguments:
            arguments["controller"] = self.controller()
        try:
            return solve(ODETerm(self.term()), y0, t, **arguments)
        except SolveError as error:
            limit = arguments["max_steps"]
            raise failed(error, f" ({limit}>={limit})") from None
        except ValueError as error:
            if bool(torch.isfinite(y0).all()) and bool(torch.isfinite(t).all()):
                raise
            raise InvalidInput(str(error)) from None


def prepare(
    func: Func,
    y0: State,
    t: Tensor,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: dict[str, Any] | None,
    event_fn: Callable[[Tensor, State], Tensor] | None,
) -> Job:
    """Check what is asked and lay it out.

    Raises ValueError, TypeError or InvalidInput naming the argument.
    """
    if event_fn is not None and len(t) != 2:
        raise ValueError(
            "with event_fn, t gives a beginning and a direction, two times; got "
            f"{len(t)}"
        )
    packing = packing_of(y0, direct=event_fn is None)
    if not (packing.dtype.is_floating_point or packing.dtype.is_complex):
        raise TypeError(f"y0 must be floating or complex, got {packing.dtype}")
    name, chosen = checked(method, options)
    if event_fn is not None and name == SCIPY:
        raise ValueError("scipy_solver does not look for events")
    _check_times(t)
    packed = packing.pack(y0)
    if t.device != packed.device:
        warnings.warn(
            f"t is on {t.device}, y0 on {packed.device}; t is moved there", stacklevel=3
        )
        t = t.to(packed.device)
    reverse = len(t) > 1 and bool(t[0] > t[1])
    job = Job(
        func=func,
        given=y0,
        packing=packing,
        y0=packed,
        t=t,
        reverse=reverse,
        rtol=rtol,
        atol=atol,
        method=name,
        options=chosen,
        event_fn=event_fn,
        observer=None,
    )
    found = callbacks_of(func)
    if not found:
        return job
    valid = {SCIPY: 0}.get(name, 3 if name in ADAPTIVE else 1)
    invalid = {call for call in CALLBACKS[valid:] if call in found}
    if invalid:
        warnings.warn(
            f"{sorted(invalid)} are never called by method {name!r}", stacklevel=3
        )
    kept = {key: call for key, call in found.items() if key not in invalid}
    dtype = torch.float64 if name in ADAPTIVE else t.dtype
    return replace(job, observer=Callbacks(kept, packing, reverse, dtype))


def _check_times(t: object) -> None:
    if not isinstance(t, Tensor):
        raise InvalidInput(f"t must be a torch.Tensor, got {type(t).__name__}")
    if not t.is_floating_point():
        raise TypeError(f"t must have a floating dtype, got {t.dtype}")
    if t.ndim != 1:
        raise InvalidInput(f"t must be one dimensional, got shape {tuple(t.shape)}")
    if not len(t):
        raise InvalidInput("t is empty; give at least the time of y0")
    gaps = t.detach().diff()
    order = gaps < 0 if len(t) > 1 and bool(gaps[0] < 0) else gaps > 0
    if not bool(order.all()):
        index = int((~order).nonzero()[0]) + 1
        raise InvalidInput(
            f"the times in t must all rise or all fall; index {index} breaks the order"
        )
