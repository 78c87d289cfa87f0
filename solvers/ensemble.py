"""Many Brownian paths of every sample of an SDE, in one batch, and their moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from nde.solvers.controller import PID, FixedSteps, StepTo
from nde.solvers.state import State, map_tensors
from nde.solvers.term import SDETerm, Term
from nde.solvers.types import Status

_Table = TypeVar("_Table", Tensor, None, Tensor | None)
_Control = TypeVar("_Control", bound=PID | FixedSteps | StepTo)


@dataclass(frozen=True)
class Repeat:
    """What is given per sample of `batch`, repeated for the paths of each.

    Raises ValueError if `paths` is no integer >= 1, or the term has no noise.
    """

    paths: int
    batch: int
    term: Term

    def __post_init__(self) -> None:
        paths = self.paths
        if isinstance(paths, bool) or not isinstance(paths, int) or paths < 1:
            raise ValueError(f"paths must be an integer >= 1 or None, got {paths!r}")
        if not isinstance(self.term, SDETerm):
            raise ValueError(
                f"paths={paths} asks for Brownian paths, and an ODETerm has none; "
                "leave paths out, or pass an SDETerm"
            )

    def state(self, y0: State) -> State:
        """Leaves `(batch, ...)` to `(batch * paths, ...)`."""
        return map_tensors(lambda leaf: leaf.repeat_interleave(self.paths, dim=0), y0)

    def table(self, name: str, times: _Table) -> _Table:
        """Times `(batch, k)` to `(batch * paths, k)`; others as they are.

        Raises ValueError if a table has another number of rows.
        """
        if not isinstance(times, Tensor) or times.ndim != 2:
            return times
        if times.shape[0] != self.batch:
            raise ValueError(
                f"{name} has shape {tuple(times.shape)} for a batch of {self.batch}; "
                f"with paths={self.paths} give one row for each sample, not for each "
                "path"
            )
        return times.repeat_interleave(self.paths, dim=0)

    def controller(self, controller: _Control) -> _Control:
        """A controller with its times repeated."""
        names = ["step_t", "jump_t"]
        if isinstance(controller, StepTo):
            names.append("times")
        given = {name: self.table(name, getattr(controller, name)) for name in names}
        return replace(controller, **given)


@dataclass(frozen=True)
class Ensemble:
    """The outputs of a solve with `paths`, and what they say of each sample.

    `ys` is the solution's, leaves `(batch * count, T, ...)`. Moments are over the paths
    that reached a time, entry by entry, NaN where none did: where paths failed they
    are those of the others, and `succeeded` tells how many these are. All have
    gradients.
    """

    ys: State = field(repr=False)
    status: Tensor = field(repr=False)
    count: int

    @property
    def paths(self) -> State:
        """Every path: leaves `(batch, count, T, ...)`."""
        return map_tensors(self._apart, self.ys)

    @property
    def succeeded(self) -> Tensor:
        """How many paths of each sample reached the end: `(batch,)`."""
        return (self._apart(self.status) == Status.SUCCESS).sum(dim=1)

    def mean(self) -> State:
        """Mean over paths: leaves `(batch, T, ...)`."""
        return map_tensors(_mean, self.paths)

    def variance(self, correction: int = 1) -> State:
        """Variance over paths, leaves `(batch, T, ...)`; real, E|z - Ez|^2, if complex.

        The sum of squares is divided by the number of paths less `correction`: 1 makes
        it unbiased, and NaN for one path; 0 gives the second central moment.
        """
        return map_tensors(lambda paths: _variance(paths, correction), self.paths)

    def quantile(self, q: float | Sequence[float] | Tensor) -> State:
        """Quantiles over paths, between neighbours linear.

        For a number q leaves are `(batch, T, ...)`, for q `(k,)` they are `(k, batch,
        T, ...)`. Raises ValueError if q is not in [0, 1] or has more axes, TypeError
        for complex outputs, which have no order.
        """
        levels = torch.as_tensor(q, dtype=torch.float64)
        if levels.ndim > 1 or not bool(((levels >= 0.0) & (levels <= 1.0)).all()):
            raise ValueError(f"q must be a number or (k,), all in [0, 1], got {q!r}")
        return map_tensors(lambda paths: _quantile(paths, levels), self.paths)

    def _apart(self, leaf: Tensor) -> Tensor:
        return leaf.reshape(len(leaf) // self.count, self.count, *leaf.shape[1:])


def _mean(paths: Tensor) -> Tensor:
    reached = ~paths.isnan()
    return torch.where(reached, paths, 0.0).sum(dim=1) / reached.sum(dim=1)


def _variance(paths: Tensor, correction: int) -> Tensor:
    reached = ~paths.isnan()
    away = torch.where(reached, paths - _mean(paths).unsqueeze(1), 0.0)
    if away.is_complex():
        away = torch.view_as_real(away)
        square = away.square().sum(dim=-1)
    else:
        square = away.square()
    freedom = (reached.sum(dim=1) - correction).clamp_min(0)
    return square.sum(dim=1) / freedom


def _quantile(paths: Tensor, levels: Tensor) -> Tensor:
    if paths.is_complex():
        raise TypeError(
            "quantiles of complex outputs are not defined; take those of their real "
            "and imaginary parts, from `paths`"
        )
    # NaN stands last.
    ordered = paths.sort(dim=1).values
    last = ((~paths.isnan()).sum(dim=1) - 1).clamp_min(0)
    flat = levels.to(paths.device).reshape(-1, *(1,) * last.ndim)
    place = flat * last
    below = place.long()
    above = torch.minimum(below + 1, last)
    wide = ordered.expand(flat.shape[0], *ordered.shape)
    low, high = (
        wide.gather(2, index.unsqueeze(2)).squeeze(2) for index in (below, above)
    )
    found = torch.lerp(low, high, (place - below).to(paths.dtype))
    return found[0] if levels.ndim == 0 else found
