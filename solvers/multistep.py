"""Adams methods: fixed steps from the derivatives at the last four points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from nde.solvers.arithmetic import along, clock, later
from nde.solvers.bound import Bound
from nde.solvers.stages import Stages
from nde.solvers.types import MEMORY, Increment, Step, StepOut

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class Adams:
    """Adams-Bashforth, or with `corrected` Adams-Bashforth-Moulton, of order 4.

    y1 = y0 + h sum_i w_i f_i: the cubic through four derivatives, integrated over the
    step. The points are the last four, or the end and the last three: then the end is
    predicted, evaluated, corrected and evaluated again (PECE). The weights are those of
    the points as they lie, so that order 4 holds on any grid; on a uniform one 24 w is
    (55, -59, 37, -9) and (9, 19, -5, 1). Three steps of the classical Runge-Kutta
    method, also of order 4, begin.

    Hairer, Norsett, Wanner, *Solving ODEs I*, III.1, eq. 1.5 and 1.9, and III.5. The
    order is kept low because stability is lost with it: on the negative real axis
    Adams-Bashforth methods reach 0.30 at order 4, 0.024 at order 8 and 0.0017 at order
    12, where mild problems diverge. Steps are read by the cubic Hermite polynomial.
    There is no error estimate, as steps are not adapted. `Recompute` stores four
    derivatives a step.
    """

    name: str
    corrected: bool
    stability: float
    error_order: int | None = None
    has_stiffness: bool = False
    has_interpolant: bool = True
    gains: tuple[float, float, float] = (0.0, 1.0, 0.0)
    noise: float = 0.0
    extra_evaluations: int = 0
    if_apart: str | None = None
    start_evaluations: int = 1

    def evaluations(self, steps: Tensor) -> Tensor:
        each = 2 if self.corrected else 1
        return steps * each + steps.clamp_max(MEMORY) * (4 - each)

    def interpolant(self, k: Tensor) -> Tensor:
        k0, k1, slope = k.unbind(1)
        return torch.stack([k0, 3 * slope - 2 * k0 - k1, k0 + k1 - 2 * slope], dim=1)

    def extend(
        self, term: Bound, t: Step, y: Tensor, inc: Increment, stages: Stages | None
    ) -> None:
        pass

    def workspace(self, y: Tensor, graph: bool) -> Stages | None:
        return None

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        # A copy: the field may return the same tensor at every call.
        first = term.f(t.to(y.dtype), y).clone()
        return (first, *(torch.zeros_like(first) for _ in range(MEMORY)))

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        h = inc.dt
        end = clock(later(t, h), y)
        if inc.index < MEMORY:
            slope = _runge_kutta(term, t, y, h, carry[0], end)
        else:
            predictor, corrector = weights(inc, y)
            slope = _mean(predictor, carry)
            if self.corrected:
                k = term.f(end, along(y, slope, h))
                slope = _mean(corrector, (k, *carry[:-1]))
        y1 = along(y, slope, h)
        k1 = term.f(end, y1).clone()
        return StepOut(
            y1=y1,
            error=None,
            stiffness=None,
            carry=(k1, *carry[:-1]),
            stages=_Ends(carry[0], k1, slope),
        )


EXPLICIT_ADAMS = Adams("explicit_adams", corrected=False, stability=0.3)
IMPLICIT_ADAMS = Adams("implicit_adams", corrected=True, stability=1.2848)


@dataclass(frozen=True)
class _Ends:
    """Derivatives at both ends of a step, and their mean (y1 - y0) / h."""

    k0: Tensor
    k1: Tensor
    slope: Tensor

    def all(self) -> Tensor:
        return torch.stack([self.k0, self.k1, self.slope])


def weights(inc: Increment, y: Tensor) -> tuple[Sequence[Step], Sequence[Step]]:
    """Of the predictor, newest point first, and of the corrector, end point first.

    Numbers where the step is one; else `(rows, 1)` in y's dtype, of no meaning but
    finite where the step is zero.
    """
    if isinstance(inc.dt, float):
        scale, back, last = inc.dt or 1.0, 0.0, [0.0]
        for size in reversed(inc.past):
            assert isinstance(size, float)
            back -= size
            last.append(back / scale)
        return _on_host(last), _on_host([1.0, *last[:-1]])
    assert isinstance(inc.past, Tensor)
    h = inc.dt.to(inc.past.dtype).squeeze(1)
    moves = h > 0
    sizes = torch.where(moves, inc.past / h.where(moves, 1.0), 1.0)
    behind = sizes.flip(0).cumsum(0).neg()
    before = torch.cat([torch.zeros_like(behind[:1]), behind])
    after = torch.cat([torch.ones_like(behind[:1]), before[:-1]])
    # Both in one: `(4, 2, rows)`, where rolling pairs each point with the others.
    points = torch.stack([before, after], dim=1)
    found = _weight(points, *(points.roll(shift, 0) for shift in (1, 2, 3)))
    predictor, corrector = found.to(y.dtype).unsqueeze(3).unbind(1)
    return predictor.unbind(0), corrector.unbind(0)


def _on_host(points: list[float]) -> list[float]:
    return [_weight(x, *points[:i], *points[i + 1 :]) for i, x in enumerate(points)]


def _weight(x: Number, p: Number, q: Number, r: Number) -> Number:
    """Integral over [0, 1] of the cubic that is 1 at x and 0 at p, q and r."""
    area = 1 / 4 - (p + q + r) / 3 + (p * (q + r) + q * r) / 2 - p * q * r
    return area / ((x - p) * (x - q) * (x - r))


def _mean(factors: Sequence[Step], derivatives: Sequence[Tensor]) -> Tensor:
    total = derivatives[0] * factors[0]
    for factor, k in zip(factors[1:], derivatives[1:], strict=True):
        total = along(total, k, factor)
    return total


def _runge_kutta(
    term: Bound, t: Step, y: Tensor, h: Step, k: Tensor, end: Tensor
) -> Tensor:
    """(y1 - y0) / h of the classical method, from k = f(t, y)."""
    middle = clock(later(t, 0.5 * h), y)
    total = k
    k = term.f(middle, along(y, k, 0.5 * h))
    total = torch.add(total, k, alpha=2.0)
    k = term.f(middle, along(y, k, 0.5 * h))
    total = torch.add(total, k, alpha=2.0)
    k = term.f(end, along(y, k, h))
    return (total + k) / 6
