"""Step-size control: the PID controller, and steps that are given."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nde.solvers.tolerances import Norm, Tolerance, check_tolerances, constant

# Ratios are floored here before they enter the history of a PI or PID controller, so
# that one lucky step does not make the next one reckless.
_RATIO_FLOOR = 1e-4

# Whether what errors are divided by passes gradients.
ErrorScale = Literal["attached", "detached"]


@dataclass(frozen=True)
class PID:
    """Adaptive steps under a PID controller, one per sample.

    h_next = h safety r_n^-(i+p+d)/k r_{n-1}^(p+2d)/k r_{n-2}^-d/k with r the error
    ratio of accepted steps and k the order of the error estimate, the factor clamped to
    [factor_min, factor_max] (Soderlind 2003).

    Args:
        rtol, atol: a number; a tensor that broadcasts to a state which is one tensor;
            or the structure of y0 with numbers or tensors in it.
        pcoeff, icoeff, dcoeff: gains, by default 0, 1, 0: an I controller, which lets
            steps grow fastest, as short solves of neural ODEs need. pcoeff=0.4,
            icoeff=0.3 is the PI controller common for order 5. An SDE for which none is
            given is solved with those of its method, a PI controller: the errors of
            its steps are random.
        classical: take the gains of the method's reference code where none is given,
            if it has some: (0.2, 0.65, 0) for the pairs of order 5, with which long
            solves need 2 to 4 % fewer evaluations for the same error.
        safety, factor_min, factor_max: as above.
        first_step: in units of ts; None chooses it (Hairer, Norsett, Wanner I, II.4).
        min_step: a step of this length that still errs too much ends the sample with
            `STEP_UNDERFLOW`; with `force_min_step` it is accepted as it is.
        max_step: no step is longer.
        step_t: times to land on, `(k,)` or per sample `(batch, k)`.
        jump_t: times where the field jumps, likewise. A step ends just before each,
            and the next begins just after it.
        norm: reduces the scaled error, structured like y0, to one number per sample
            `(batch,)`, or to one where the batch shares its steps. None is the RMS.
        error_scale: "detached" makes atol + rtol |y|, by which errors are divided, a
            constant of their gradient: else a penalty on recorded errors also falls
            where states grow. No step depends on it.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    rtol: Tolerance = 1e-3
    atol: Tolerance = 1e-6
    pcoeff: float | None = None
    icoeff: float | None = None
    dcoeff: float | None = None
    classical: bool = False
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0
    first_step: float | None = None
    min_step: float = 0.0
    max_step: float = math.inf
    force_min_step: bool = False
    step_t: Tensor | None = None
    jump_t: Tensor | None = None
    norm: Norm | None = None
    error_scale: ErrorScale = "attached"

    def __post_init__(self) -> None:
        check_tolerances(self.rtol, self.atol)
        check_error_scale(self.error_scale)
        for name in ("pcoeff", "icoeff", "dcoeff"):
            gain = getattr(self, name)
            if gain is None:
                continue
            _number(name, gain)
            if not math.isfinite(gain):
                raise ValueError(f"{name} must be finite, got {gain}")
        if not sum(self.gains) > 0.0:
            raise ValueError(
                "pcoeff + icoeff + dcoeff must be > 0, else large errors would not "
                f"shorten the step; got {', '.join(map(str, self.gains))}"
            )
        if not 0.0 < self.safety <= 1.0:
            raise ValueError(f"safety must be in (0, 1], got {self.safety}")
        if not 0.0 < self.factor_min < 1.0 < self.factor_max < math.inf:
            raise ValueError(
                "factor_min and factor_max must hold 0 < factor_min < 1 < factor_max, "
                f"got {self.factor_min} and {self.factor_max}"
            )
        if self.first_step is not None:
            _positive("first_step", self.first_step)
        _number("min_step", self.min_step)
        _number("max_step", self.max_step)
        if not 0.0 <= self.min_step <= self.max_step or self.max_step == 0.0:
            raise ValueError(
                "min_step and max_step must hold 0 <= min_step <= max_step and "
                f"max_step > 0, got {self.min_step} and {self.max_step}"
            )

    @property
    def gains(self) -> tuple[float, float, float]:
        """Proportional, integral and derivative gain, with the default for those not
        given."""
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        return p or 0.0, 1.0 if i is None else i, d or 0.0

    def for_method(self, gains: tuple[float, float, float]) -> PID:
        """With the gains of a method, unless any was given."""
        if (self.pcoeff, self.icoeff, self.dcoeff) != (None, None, None):
            return self
        p, i, d = gains
        return replace(self, pcoeff=p, icoeff=i, dcoeff=d)

    @property
    def bounds(self) -> bool:
        """Whether steps have a least or a greatest length."""
        return self.min_step > 0.0 or self.max_step < math.inf

    def bound(
        self, h: Tensor, h_next: Tensor, ratio: Tensor, accept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keep steps in their bounds: `(accept, h_next, stuck)`, each per row.

        `stuck` where the shortest step allowed was not good enough.
        """
        shortest = h <= self.min_step
        if self.force_min_step:
            accept = accept | (shortest & torch.isfinite(ratio))
        return (
            accept,
            h_next.clamp(self.min_step, self.max_step),
            shortest & ~accept & (h > 0),
        )

    def bound_host(
        self, h: float, h_next: float, ratio: float, accept: bool
    ) -> tuple[bool, float, bool]:
        """`bound` for one row known on the host."""
        shortest = h <= self.min_step
        if self.force_min_step:
            accept = accept or (shortest and math.isfinite(ratio))
        h_next = min(max(h_next, self.min_step), self.max_step)
        return accept, h_next, shortest and not accept

    def begin(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """History before the first step, one entry per row of `ratio`."""
        return torch.zeros_like(ratio), torch.zeros_like(ratio)

    def adapt(
        self, h: Tensor, ratio: Tensor, history: tuple[Tensor, Tensor], order: float
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Judge a step: `(accept, h_next, history)`, each per row."""
        accept = ratio <= 1.0
        power_n, power_1, power_2 = self._powers(order)
        # Powers as exponentials: `pow` rounds the last few elements of a tensor apart,
        # so that a sample's steps would depend on the size of its batch.
        log = torch.nan_to_num(ratio, nan=math.inf).log()
        factor = torch.add(constant(math.log(self.safety), log), log, alpha=power_n)
        if power_1 or power_2:
            last, before = history
            factor = torch.add(factor, last, alpha=power_1)
            if power_2:
                factor = torch.add(factor, before, alpha=power_2)
                before = torch.where(accept, last, before)
            log = log.clamp_min(math.log(_RATIO_FLOOR))
            history = torch.where(accept, log, last), before
        factor = factor.exp_().clamp_(self.factor_min, self.factor_max)
        if power_1 < 0.0 or power_2 < 0.0:
            # Steps before were so good that a rejected one would be repeated as it is.
            factor = torch.where(accept, factor, factor.clamp_max(self.safety))
        return accept, h * factor, history

    def adapt_host(
        self, h: float, ratio: float, history: tuple[float, float], order: float
    ) -> tuple[bool, float, tuple[float, float]]:
        """`adapt` for one row known on the host, in Python numbers."""
        accept = ratio <= 1.0
        if not math.isfinite(ratio):
            return False, h * self.factor_min, history
        power_n, power_1, power_2 = self._powers(order)
        if ratio == 0.0:
            factor = self.factor_max
        else:
            log = power_n * math.log(ratio)
            log += power_1 * history[0] + power_2 * history[1]
            factor = self.safety * math.exp(min(log, 700.0))
        factor = min(max(factor, self.factor_min), self.factor_max)
        if not accept:
            factor = min(factor, self.safety)
        if accept:
            history = (math.log(max(ratio, _RATIO_FLOOR)), history[0])
        return accept, h * factor, history

    def _powers(self, order: float) -> tuple[float, float, float]:
        p, i, d = self.gains
        return -(i + p + d) / order, (p + 2.0 * d) / order, -d / order


@dataclass(frozen=True)
class FixedSteps:
    """Steps of one length, in units of ts.

    A uniform grid from the first time, its last step clipped to the end; for an SDE or
    a symplectic method, every interval between outputs is cut into equal steps no
    longer than `step`. The grid also lands on `step_t` and around `jump_t`, as for
    `PID`. The tolerances and the norm only scale the error estimates that are recorded;
    `error_scale` as for `PID`.

    Raises TypeError or ValueError naming the argument.
    """

    step: float
    rtol: Tolerance = 1e-3
    atol: Tolerance = 1e-6
    step_t: Tensor | None = None
    jump_t: Tensor | None = None
    norm: Norm | None = None
    error_scale: ErrorScale = "attached"

    def __post_init__(self) -> None:
        _positive("step", self.step)
        check_tolerances(self.rtol, self.atol)
        check_error_scale(self.error_scale)


@dataclass(frozen=True)
class StepTo:
    """Steps from each time to the next.

    `times (k,)` or per sample `(batch, k)`, in any order, NaN where a sample has fewer;
    the ends of `ts` belong to the grid in any case, and what lies outside is left out.
    The rest is as for `FixedSteps`.

    Raises TypeError or ValueError naming the argument.
    """

    times: Tensor
    rtol: Tolerance = 1e-3
    atol: Tolerance = 1e-6
    step_t: Tensor | None = None
    jump_t: Tensor | None = None
    norm: Norm | None = None
    error_scale: ErrorScale = "attached"

    def __post_init__(self) -> None:
        check_tolerances(self.rtol, self.atol)
        check_error_scale(self.error_scale)


Controller = PID | FixedSteps | StepTo


def check_error_scale(scale: object) -> None:
    """ValueError unless a known way to treat the scale of errors."""
    if scale not in ("attached", "detached"):
        raise ValueError(f"error_scale must be 'attached' or 'detached', got {scale!r}")


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def _positive(name: str, value: object) -> None:
    _number(name, value)
    assert isinstance(value, (int, float))
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be finite and > 0, got {value}")
