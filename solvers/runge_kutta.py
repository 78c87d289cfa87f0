"""Explicit Runge-Kutta steps from a tableau."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.arithmetic import slope_size
from nde.solvers.bound import Bound
from nde.solvers.stages import StageBuffer, Stages, StageStack
from nde.solvers.tableau import ButcherTableau, on_device
from nde.solvers.types import Increment, Step, StepOut, time_dtype


@dataclass(frozen=True)
class ExplicitRungeKutta:
    """Any explicit Runge-Kutta method; the tableau is all that differs.

    Error: h sum_i (b_i - b_hat_i) k_i, twice for methods with two embedded solutions.
    Stiffness: |k_i - k_j| / |g_i - g_j| for two
    stages at equal time with inputs g, about the largest eigenvalue of the Jacobian
    (Shampine 1977; Hairer and Wanner, *Solving ODEs II*, p. 22).
    """

    tableau: ButcherTableau

    @property
    def name(self) -> str:
        return self.tableau.name

    @property
    def error_order(self) -> int | None:
        return self.tableau.error_order

    @property
    def has_stiffness(self) -> bool:
        return self.tableau.stiffness_pair is not None

    @property
    def stability(self) -> float:
        return self.tableau.stability

    @property
    def has_interpolant(self) -> bool:
        return True

    @property
    def gains(self) -> tuple[float, float, float]:
        return self.tableau.gains

    @property
    def noise(self) -> float:
        return self.tableau.noise

    @property
    def extra_evaluations(self) -> int:
        return len(self.tableau.extra_c)

    @property
    def if_apart(self) -> str | None:
        return None

    @property
    def start_evaluations(self) -> int:
        return 1 if self.tableau.fsal else 0

    def evaluations(self, steps: Tensor) -> Tensor:
        return steps * self.tableau.evaluations

    def workspace(self, y: Tensor, graph: bool) -> Stages:
        return StageStack(self.tableau, y) if graph else StageBuffer(self.tableau, y)

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        # A copy: the field may return the same tensor at every call.
        return (term.f(t.to(y.dtype), y).clone(),) if self.tableau.fsal else ()

    def interpolant(self, k: Tensor) -> Tensor:
        # Weights of methods with many stages are large and cancel: float32 would leave
        # three digits.
        if self.tableau.extra_c:
            k = k.to(time_dtype(k.device))
        dense = on_device(self.tableau, k.device, k.dtype).dense
        # One product per step: a single large one would round by the batch's size.
        return torch.bmm(dense.expand(k.shape[0], -1, -1), k)

    def extend(
        self, term: Bound, t: Step, y: Tensor, inc: Increment, stages: Stages | None
    ) -> None:
        if not self.tableau.extra_c:
            return
        assert stages is not None
        nodes = on_device(self.tableau, y.device, y.dtype).extra_c
        h = inc.dt if isinstance(inc.dt, float) else inc.dt.squeeze(1)
        for i, node in enumerate(nodes.unbind(0), start=self.tableau.stages):
            time = (node * h + t).to(y.dtype)
            stages.append(term.f(time, stages.input(y, inc.dt, i)))

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        assert stages is not None
        tableau, h = self.tableau, inc.dt
        times = stage_times(tableau, t, h, y)
        stages.begin(carry[0] if carry else term.f(times[0], y))
        pair = tableau.stiffness_pair or ()
        inputs: dict[int, Tensor] = {}
        y1 = y
        for i in range(1, tableau.stages):
            y1 = stages.input(y, h, i)
            stages.append(term.f(times[i], y1))
            if i in pair:
                inputs[i] = y1
        if not tableau.fsal:
            y1 = stages.solution(y, h)
        stiffness = None
        if tableau.stiffness_pair is not None:
            i, j = tableau.stiffness_pair
            visible = term.layout.visible
            stiffness = slope_size(
                visible(stages.stage(i) - stages.stage(j)),
                visible(inputs[i] - inputs[j]),
                y.dtype,
            )
        return StepOut(
            y1=y1,
            error=None if tableau.b_error is None else stages.error(h),
            stiffness=stiffness,
            carry=(stages.last(),) if tableau.fsal else (),
            stages=stages,
            error_coarse=(
                None if tableau.b_error_coarse is None else stages.error_coarse(h)
            ),
        )


def stage_times(
    tableau: ButcherTableau, t: Step, h: Step, y: Tensor
) -> tuple[Tensor, ...]:
    """Engine time of each stage, `(rows,)` in y's dtype."""
    numbers = on_device(tableau, y.device, y.dtype)
    if isinstance(t, float):
        return torch.mul(numbers.c_state, h).add_(t).unbind(0)
    assert isinstance(h, Tensor)
    return torch.addcmul(t, numbers.c, h.squeeze(1)).to(y.dtype).unbind(0)
