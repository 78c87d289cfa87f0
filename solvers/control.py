"""Cubic Hermite control path through irregular observations with gaps.

The one interpolation scheme so far; it fills gaps, keeps piecewise coefficients and
satisfies `nde.solvers.path.Path`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class HermiteCubic:
    """Cubic Hermite path whose knot slopes are backward differences.

    Once differentiable. The slope at a knot is the difference quotient of the interval
    before it (at the first knot: of the first interval), so no observation after the
    next one is looked at, except by the filling of gaps.

    Missing values (NaN) are filled per channel before: linearly between two
    observations, with the first observation before it, with the last one after it, and
    with 0 in a channel without any. Outside the time range of a sample the path is
    constant.

    Args:
        times: `(L,)` for the whole batch or `(batch, L)`, `L >= 1`, strictly
            increasing. Shorter series are padded by repeating their last time; whatever
            `values` holds on the padding is ignored.
        values: `(batch, L, channels)`, NaN where nothing was observed. Same dtype as
            `times`. Gradients reach the observed entries.

    Raises:
        ValueError: shapes that do not fit, no time at all, times that are not finite or
            not increasing, infinite values.
        TypeError: dtypes that differ or are not floating point.

    Source: J. Morrill, P. Kidger, L. Yang, T. Lyons, Neural controlled differential
    equations for online prediction tasks (2021), section on Hermite cubics.
    """

    times: Tensor
    values: Tensor
    knots: Tensor = field(init=False, repr=False)
    coefficients: Tensor = field(init=False, repr=False)
    rows: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.times, self.values)
        real = _real(self.times)
        filled = _fill(self.times, self.values, real)
        object.__setattr__(self, "knots", self.times.contiguous())
        object.__setattr__(self, "coefficients", _coefficients(self.times, filled))
        rows = torch.arange(filled.shape[0], device=filled.device)
        object.__setattr__(self, "rows", rows)

    @property
    def channels(self) -> int:
        """Number of channels of the path."""
        return self.values.shape[-1]

    def evaluate(self, t: Tensor) -> Tensor:
        """Value of the path.

        Args:
            t: 0-dim or `(batch,)`, dtype of `times`.

        Returns:
            `(batch, channels)`.
        """
        s, a, b, c, d = self._local(t)
        return torch.addcmul(a, torch.addcmul(b, torch.addcmul(c, d, s), s), s)

    def derivative(self, t: Tensor) -> Tensor:
        """Time derivative of the path; 0 outside the time range of a sample.

        Args:
            t: 0-dim or `(batch,)`, dtype of `times`.

        Returns:
            `(batch, channels)`.
        """
        s, _, b, c, d = self._local(t)
        slope = torch.addcmul(b, torch.add(2 * c, d * s, alpha=3), s)
        inside = (t >= self.knots[..., 0]) & (t <= self.knots[..., -1])
        return slope * inside.unsqueeze(-1)

    def _local(self, t: Tensor) -> tuple[Tensor, ...]:
        """Time since the left knot and the coefficients of the interval `t` lies in."""
        knots = self.knots
        if t.dtype != knots.dtype:
            raise TypeError(
                f"the path has {knots.dtype} times but was asked at a {t.dtype} time; "
                "convert the time first"
            )
        if knots.ndim == 1 and t.ndim == 0:
            inside = t.clamp(knots[0], knots[-1]).reshape(1)
            left = torch.searchsorted(knots, inside).sub_(1).clamp_(min=0)
            rows = self.coefficients.index_select(1, left).squeeze(1)
            return inside - knots.index_select(0, left), *rows.unbind(1)
        inside = t.expand(self.rows.shape).clamp(knots[..., 0], knots[..., -1])
        if knots.ndim == 1:
            left = torch.searchsorted(knots, inside).sub_(1).clamp_(min=0)
            start = knots.index_select(0, left)
        else:
            found = torch.searchsorted(knots, inside.unsqueeze(1))
            found = found.sub_(1).clamp_(min=0)
            start, left = knots.gather(1, found).squeeze(1), found.squeeze(1)
        rows = self.coefficients[self.rows, left]
        return (inside - start).unsqueeze(1), *rows.unbind(1)


def _check(times: Tensor, values: Tensor) -> None:
    if values.ndim != 3:
        raise ValueError(
            "values must be (batch, L, channels), received shape "
            f"{tuple(values.shape)}; add the missing axis with unsqueeze"
        )
    batch, length = values.shape[:2]
    if times.shape != (length,) and times.shape != (batch, length):
        raise ValueError(
            f"times must be ({length},) or ({batch}, {length}) to fit values of shape "
            f"{tuple(values.shape)}, received {tuple(times.shape)}"
        )
    if length == 0:
        raise ValueError("a path needs at least one time, received none (L = 0)")
    if not (times.is_floating_point() and values.is_floating_point()):
        raise TypeError(
            f"times and values must be floating point, received {times.dtype} and "
            f"{values.dtype}; convert them with .to(torch.float32)"
        )
    if times.dtype != values.dtype:
        raise TypeError(
            f"times are {times.dtype} but values are {values.dtype}; convert one of "
            "them, the path is computed in a single dtype"
        )
    if not bool(torch.isfinite(times).all()):
        raise ValueError(
            "times hold NaN or infinity; pad short series by repeating their last time"
        )
    step = times.diff(dim=-1)
    resumed = (step[..., :-1] <= 0) & (step[..., 1:] > 0)
    if bool((step < 0).any()) or bool(resumed.any()):
        raise ValueError(
            "times must increase strictly along the last axis (only the padding at the "
            "end may repeat the last time); sort each series and merge equal times"
        )
    if bool(torch.isinf(values).any()):
        raise ValueError("values hold an infinity; mark missing values with NaN")


def _real(times: Tensor) -> Tensor:
    """True at observation times, False on the padding; shape of `times`."""
    first = torch.ones_like(times[..., :1], dtype=torch.bool)
    return torch.cat([first, times.diff(dim=-1) > 0], dim=-1)


def _fill(times: Tensor, values: Tensor, real: Tensor) -> Tensor:
    """Values with every gap filled, `(batch, L, channels)`."""
    seen = ~values.isnan() & real.unsqueeze(-1)
    # Zeros, not NaN, enter the arithmetic below: NaN * 0 in a backward pass is NaN.
    known = torch.where(seen, values, 0.0)
    batch, length, channels = values.shape
    index = torch.arange(length, device=values.device).view(1, length, 1)
    before = torch.where(seen, index, -1).cummax(dim=1).values
    after = torch.where(seen, index, length).flip(1).cummin(dim=1).values.flip(1)
    has_before, has_after = before >= 0, after < length
    before, after = before.clamp(min=0), after.clamp(max=length - 1)
    grid = times.expand(batch, length).unsqueeze(-1).expand(values.shape)
    t_before, t_after = grid.gather(1, before), grid.gather(1, after)
    y_before, y_after = known.gather(1, before), known.gather(1, after)
    gap = t_after - t_before
    weight = (grid - t_before) / torch.where(gap > 0, gap, 1.0)
    between = torch.lerp(y_before, y_after, weight)
    one_sided = torch.where(has_before, y_before, torch.where(has_after, y_after, 0.0))
    inner = torch.where(has_before & has_after, between, one_sided)
    return torch.where(seen, known, inner)


def _coefficients(times: Tensor, filled: Tensor) -> Tensor:
    """Rows a, b, c, d of a + b s + c s^2 + d s^3, `(batch, intervals, 4, channels)`.

    With slopes m at the left knot and q = (y1 - y0) / h at the right one (the backward
    difference there is the interval's own quotient), Hermite's conditions reduce to
    c = 2 (q - m) / h and d = -(q - m) / h^2.
    """
    if filled.shape[1] == 1:
        flat = torch.zeros_like(filled)
        return torch.stack([filled, flat, flat, flat], dim=2)
    h = times.diff(dim=-1).unsqueeze(-1)
    safe = torch.where(h > 0, h, 1.0)
    # On the padding the difference of the forward-filled values is exactly 0.
    quotient = filled.diff(dim=1) / safe
    slope = torch.cat([quotient[:, :1], quotient[:, :-1]], dim=1)
    bend = (quotient - slope) / safe
    return torch.stack([filled[:, :-1], slope, 2 * bend, -bend / safe], dim=2)
