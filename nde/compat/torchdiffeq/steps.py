"""Steps on a grid that is given, and callbacks that hear of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from nde.compat.torchdiffeq.packing import Packing
from nde.solvers.arithmetic import clock, later
from nde.solvers.bound import Bound
from nde.solvers.runge_kutta import ExplicitRungeKutta
from nde.solvers.stages import Stages
from nde.solvers.stepper import Stepper
from nde.solvers.tableau import ButcherTableau, on_device
from nde.solvers.types import Increment, Step, StepOut

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


@dataclass(frozen=True)
class OnGrid:
    """A method that is read where its steps begin and end, and needs no interpolant.

    `perturb` has the field evaluated just after the start of each step and just before
    its end, for fields that jump there.
    """

    inner: Stepper
    perturb: bool
    has_interpolant: bool = False
    noise: float = 0.0
    extra_evaluations: int = 0
    error_order: int | None = None
    has_stiffness: bool = False

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def stability(self) -> float | None:
        return self.inner.stability

    @property
    def gains(self) -> tuple[float, float, float]:
        return self.inner.gains

    @property
    def if_apart(self) -> str | None:
        return self.inner.if_apart

    @property
    def start_evaluations(self) -> int:
        return self.inner.start_evaluations

    def evaluations(self, steps: Tensor) -> Tensor:
        return self.inner.evaluations(steps)

    def interpolant(self, k: Tensor) -> Tensor:
        raise AssertionError("a grid is read where its steps begin and end")

    def extend(
        self, term: Bound, t: Step, y: Tensor, inc: Increment, stages: Stages | None
    ) -> None:
        pass

    def workspace(self, y: Tensor, graph: bool) -> Stages | None:
        if isinstance(self.inner, ExplicitRungeKutta):
            return None
        return self.inner.workspace(y, graph)

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return self.inner.start(term, t, y)

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        if self.perturb:
            ends = clock(t, y), clock(later(t, inc.dt), y)
            term = cast(Bound, _Nudged(term, *ends))
        if isinstance(self.inner, ExplicitRungeKutta) and isinstance(inc.dt, float):
            y1 = _step(term, t, y, inc.dt, self.inner.tableau)
            return StepOut(y1, None, None, (), None)
        out = self.inner.step(term, t, y, inc, carry, stages)
        return StepOut(out.y1, None, None, out.carry, None)


def _step(term: Bound, t: Step, y: Tensor, h: float, tableau: ButcherTableau) -> Tensor:
    """One step. Each derivative is added where it counts as soon as it is known.

    With few stages and a graph that is shorter than weighing all of them at once.
    """
    nodes = on_device(tableau, y.device, y.dtype).c_state
    moments = torch.mul(nodes, h).add_(t).unbind(0)
    inputs, end = [y] * tableau.stages, y
    for i, moment in enumerate(moments):
        k = term.f(moment, inputs[i])
        for j in range(i + 1, tableau.stages):
            weight = tableau.a[j - 1][i]
            if weight:
                inputs[j] = torch.add(inputs[j], k, alpha=h * weight)
        if tableau.b[i]:
            end = torch.add(end, k, alpha=h * tableau.b[i])
    return end


class _Nudged:
    """A term whose field sees neither end of a step."""

    def __init__(self, term: Bound, start: Tensor, end: Tensor) -> None:
        self._field, self._start, self._end = term.f, start, end

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        after = torch.nextafter(self._start, torch.full_like(t, torch.inf))
        before = torch.nextafter(self._end, torch.full_like(t, -torch.inf))
        t = torch.where(t == self._start, after, t)
        return self._field(torch.where(t == self._end, before, t), y)


@dataclass(frozen=True)
class Callbacks:
    """Calls a function's callbacks as the engine observes its steps.

    `found` by name; times are told in `dtype`.
    """

    found: dict[str, Callable[..., Any]]
    packing: Packing
    reverse: bool
    dtype: torch.dtype

    def attempt(self, t: Step, y: Tensor, h: Step) -> None:
        """Before a step."""
        self._tell("callback_step", t, y, h)

    def judge(self, t: Step, y: Tensor, h: Step, accept: bool | Tensor) -> None:
        """After a step that may have been rejected."""
        kind = "accept" if bool(accept) else "reject"
        self._tell(f"callback_{kind}_step", t, y, h)

    def replay(self, t: Step, y: Tensor, h: Step) -> None:
        """Before a backward pass repeats a step."""
        self._tell("callback_step_adjoint", t, y, h)
        self._tell("callback_accept_step_adjoint", t, y, h)

    def _tell(self, name: str, t: Step, y: Tensor, h: Step) -> None:
        callback = self.found.get(name)
        if callback is None:
            return
        time = -float(t) if self.reverse else float(t)
        if self.packing.dtype.is_complex:
            y = torch.view_as_complex(y.reshape(-1, 2))
        options: Any = {"dtype": self.dtype, "device": y.device}
        callback(
            torch.tensor(time, **options),
            self.packing.unpack(y),
            torch.tensor(float(h), **options),
        )


def callbacks_of(func: object) -> dict[str, Callable[..., Any]]:
    """The callbacks that a function has, by name."""
    names = (*CALLBACKS, *(f"{name}_adjoint" for name in CALLBACKS))
    found = {name: getattr(func, name, None) for name in names}
    return {name: call for name, call in found.items() if call is not None}
