"""Step-size control: error norms, the PID controller, fixed steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

# Ratios are floored here before they enter the history of a PI or PID controller, so
# that one lucky step does not make the next one reckless.
_RATIO_FLOOR = 1e-4


@dataclass(frozen=True)
class Tolerances:
    """Relative and absolute tolerance.

    Raises TypeError or ValueError if they are no finite numbers >= 0, or both zero.
    """

    rtol: float
    atol: float

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            _number(name, value)
            if not value >= 0.0 or math.isinf(value):
                raise ValueError(f"{name} must be finite and >= 0, got {value}")
        if self.rtol == 0.0 and self.atol == 0.0:
            raise ValueError(
                "rtol and atol cannot both be 0: no step would ever be accepted; set "
                "one of them"
            )

    def ratio(self, error: Tensor, y0: Tensor, y1: Tensor) -> Tensor:
        """RMS of error / (atol + rtol max(|y0|, |y1|)) per row: `(rows,)`.

        A step is good enough at 1 or below (Hairer, Norsett, Wanner I, eq. II.4.11).
        """
        size = torch.maximum(y0.abs(), y1.abs())
        return _rms(
            error / torch.add(_constant(self.atol, size), size, alpha=self.rtol)
        )

    def norm(self, value: Tensor, y: Tensor) -> Tensor:
        """RMS of value / (atol + rtol |y|) per row."""
        size = y.abs()
        return _rms(
            value / torch.add(_constant(self.atol, size), size, alpha=self.rtol)
        )


@dataclass(frozen=True)
class PID:
    """Adaptive steps under a PID controller, one per sample.

    h_next = h safety r_n^-(i+p+d)/k r_{n-1}^(p+2d)/k r_{n-2}^-d/k with r the error
    ratio of accepted steps and k the order of the error estimate, the factor clamped to
    [factor_min, factor_max] (Soderlind 2003). The defaults are an I controller;
    pcoeff=0.4, icoeff=0.3 is the PI controller common for order 5. `first_step` in
    units of ts; None chooses it (Hairer, Norsett, Wanner I, II.4).

    Raises TypeError or ValueError naming the argument.
    """

    rtol: float = 1e-3
    atol: float = 1e-6
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0
    first_step: float | None = None

    def __post_init__(self) -> None:
        Tolerances(self.rtol, self.atol)
        for name in ("pcoeff", "icoeff", "dcoeff"):
            _number(name, getattr(self, name))
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        if not self.pcoeff + self.icoeff + self.dcoeff > 0.0:
            raise ValueError(
                "pcoeff + icoeff + dcoeff must be > 0, else large errors would not "
                f"shorten the step; got {self.pcoeff}, {self.icoeff}, {self.dcoeff}"
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

    @cached_property
    def tolerances(self) -> Tolerances:
        """What errors are measured against."""
        return Tolerances(self.rtol, self.atol)

    def begin(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """History before the first step, one entry per row of `ratio`."""
        return torch.zeros_like(ratio), torch.zeros_like(ratio)

    def adapt(
        self, h: Tensor, ratio: Tensor, history: tuple[Tensor, Tensor], order: int
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Judge a step: `(accept, h_next, history)`, each per row."""
        accept = ratio <= 1.0
        power_n, power_1, power_2 = self._powers(order)
        # Powers as exponentials: `pow` rounds the last few elements of a tensor apart,
        # so that a sample's steps would depend on the size of its batch.
        log = torch.nan_to_num(ratio, nan=math.inf).log()
        factor = torch.add(_constant(math.log(self.safety), log), log, alpha=power_n)
        if power_1 or power_2:
            last, before = history
            factor = torch.add(factor, last, alpha=power_1)
            factor = torch.add(factor, before, alpha=power_2)
            log = log.clamp_min(math.log(_RATIO_FLOOR))
            history = (
                torch.where(accept, log, last),
                torch.where(accept, last, before),
            )
        factor = factor.exp_().clamp_(self.factor_min, self.factor_max)
        return accept, h * factor, history

    def adapt_host(
        self, h: float, ratio: float, history: tuple[float, float], order: int
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
        if accept:
            history = (math.log(max(ratio, _RATIO_FLOOR)), history[0])
        return accept, h * factor, history

    def _powers(self, order: int) -> tuple[float, float, float]:
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        return -(i + p + d) / order, (p + 2.0 * d) / order, -d / order


@dataclass(frozen=True)
class FixedSteps:
    """Steps of one length, in units of ts.

    A uniform grid from the first time, its last step clipped to the end; for an SDE or
    a symplectic method, every interval between outputs is cut into equal steps no
    longer than `step`. The tolerances only scale the error estimates that are recorded.

    Raises TypeError or ValueError naming the argument.
    """

    step: float
    rtol: float = 1e-3
    atol: float = 1e-6

    def __post_init__(self) -> None:
        _positive("step", self.step)
        Tolerances(self.rtol, self.atol)

    @cached_property
    def tolerances(self) -> Tolerances:
        """What errors are measured against."""
        return Tolerances(self.rtol, self.atol)


Controller = PID | FixedSteps


def _constant(value: float, like: Tensor) -> Tensor:
    return _constant_on(value, like.device, like.dtype)


@lru_cache(maxsize=256)
def _constant_on(value: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device=device)


def _rms(value: Tensor) -> Tensor:
    root = 1.0 / math.sqrt(max(value.shape[-1], 1))
    return torch.mul(torch.linalg.vector_norm(value, dim=-1), root)


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def _positive(name: str, value: object) -> None:
    _number(name, value)
    assert isinstance(value, (int, float))
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be finite and > 0, got {value}")
