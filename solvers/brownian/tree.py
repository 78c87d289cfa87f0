"""Brownian motion at any times, in any order, from a seed alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor

from nde.solvers.brownian.area import levy_area
from nde.solvers.brownian.counter import normals, sample_keys, subkeys
from nde.solvers.brownian.dyadic import Dyadic
from nde.solvers.brownian.increment import BrownianIncrement, Levy
from nde.solvers.brownian.seed import Seed, check_seed

# Times are kept to this fraction of the span, so that what rounding did to a dyadic
# time is undone.
_TICKS = 2.0**50
_DEEPEST = 48
# Normals that are drawn at once, at most.
_CHUNK = 2**20
# On a CPU, where more would leave its cache, and memory be given back and taken anew.
_BLOCK = 2**16
# In place of a node, where Levy areas are drawn: no node is numbered so.
_AREA = -1


@dataclass(frozen=True, eq=False)
class Position:
    """A Brownian motion at a time: all that its increments need of it.

    `x (batch,)`: time, as a fraction of the span; `w (batch, m)`: W; `k (batch, m)`:
    the integral of W from `t0`. All float64, maybe under further leading axes.
    """

    x: Tensor
    w: Tensor
    k: Tensor

    def where(self, rows: Tensor, other: Position) -> Position:
        """This in the given rows `(batch,)` or `(1,)`, in others the other."""
        rows = rows.to(self.x.device)
        wide = rows.unsqueeze(-1)
        return Position(
            torch.where(rows, self.x, other.x),
            torch.where(wide, self.w, other.w),
            torch.where(wide, self.k, other.k),
        )


@dataclass(frozen=True, eq=False)
class BrownianTree:
    """Brownian motion on [t0, t1], a function of seed, sample, time and `tol` alone.

    Nothing that is told depends on earlier questions: a time asked twice gives the same
    bits, and all devices give the same path to their rounding.

    `seed`: an int in [0, 2**63) of the batch, whose sample i is keyed by (seed, i); or
    an int64 tensor `(batch,)`, one per sample, whose path is then the same in any
    company. `size`: (batch, m), of the increments. `dtype`: of the increments, default
    float32; times and positions are float64. `tol`: times in one leaf, an interval of
    at most this length, do not have the exact joint law (each time alone does, and so
    do times of different leaves): steps should be longer. Default (t1 - t0) * 2**-16;
    the cost of a question grows with log2((t1 - t0) / tol), its memory does not.

    Raises TypeError or ValueError for a seed as above, ValueError unless t0 < t1 are
    finite, tol in (0, t1 - t0), size positive and as long as the seeds.

    Source: Jelincic, Foster, Kidger 2024, *Single-seed generation of Brownian paths and
    integrals for adaptive and high order SDE solvers*; summed over the levels at once.
    """

    seed: Seed
    t0: float
    t1: float
    size: tuple[int, int]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    tol: float | None = None
    _keys: Tensor = field(init=False, repr=False)
    _levels: Dyadic = field(init=False, repr=False)
    _recent: dict[float, Position] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not (self.t0 < self.t1 and math.isfinite(self.t1 - self.t0)):
            raise ValueError(
                f"t0 < t1 must be finite, got t0={self.t0} and t1={self.t1}"
            )
        batch, m = self.size
        if batch < 0 or m < 1:
            raise ValueError(f"size must be (batch, m) with m >= 1, got {self.size}")
        if isinstance(self.seed, Tensor) and len(self.seed) != batch:
            raise ValueError(
                f"{len(self.seed)} seeds were given for a batch of {batch}"
            )
        if not self.dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating one, got {self.dtype}")
        device = torch.device(self.device)
        object.__setattr__(self, "_keys", sample_keys(self.seed, batch, device))
        object.__setattr__(
            self, "_levels", Dyadic.of(self.t1 - self.t0, self._depth(), device)
        )

    def _depth(self) -> int:
        span = self.t1 - self.t0
        tol = span * 2.0**-16 if self.tol is None else self.tol
        if not 0 < tol < span:
            raise ValueError(f"tol must lie in (0, t1 - t0) = (0, {span}), got {tol}")
        depth = math.ceil(math.log2(span / tol))
        if depth > _DEEPEST:
            raise ValueError(
                f"tol must be at least 2**-{_DEEPEST} of t1 - t0 = {span}, where "
                f"times of float64 still differ, got {tol}"
            )
        return depth

    @property
    def resolution(self) -> float:
        """Length of a leaf, at most `tol`."""
        return self._levels.span * 2.0 ** -self._depth()

    def at(self, t: Tensor) -> Position:
        """W and its integral at `t`, float64 of shape `()`, `(1,)` or `(batch,)`.

        Times outside [t0, t1] are taken as its ends, unasked: `increment` checks.
        """
        x = self._fraction(t.detach().to(self._keys.device)).reshape(-1)
        value = self._values(x, self._keys)
        return Position(x.expand(self.size[0]), value[:, 0], value[:, 1])

    def between(self, a: Position, b: Position, levy: Levy) -> BrownianIncrement:
        """Increment from `a` to `b`, `(batch, m)` in `dtype`. See `increment`."""
        w = b.w - a.w
        moved = w.to(self.dtype)
        if levy == "none":
            return BrownianIncrement(moved)
        h = ((b.x - a.x) * self._levels.span).unsqueeze(-1)
        # K(b) - K(a) - h W(a) is the integral of W - W(a), which is h (w/2 + H).
        mean = (b.k - a.k - h * a.w) / torch.where(h == 0, 1, h)
        levied = (mean - w / 2).to(self.dtype)
        if levy == "space-time":
            return BrownianIncrement(moved, levied)
        pairs = self._pairs(a.x, b.x)
        area = levy_area(h.squeeze(-1).abs(), moved, levied, pairs)
        return BrownianIncrement(moved, levied, area)

    def increment(
        self, ta: float | Tensor, tb: float | Tensor, levy: Levy = "none"
    ) -> BrownianIncrement:
        """Increment from `ta` to `tb`, `(batch, m)` in `dtype`.

        Times are floats or tensors `()`, `(1,)` or `(batch,)`, per sample. From a later
        to an earlier time: of the path read backwards, where W and the area change
        sign and H does not. `levy`: "space-time" adds H, "area" adds H and A.

        A is drawn given (W, H) of its own interval (see `levy_area`): unlike W and H it
        does not add up over adjacent intervals.

        Raises ValueError if a time is NaN, outside [t0, t1] or of another shape.
        """
        _check_levy(levy)
        start, end = self.ends(ta, tb)
        return self.between(self._recalled(start), self._recalled(end), levy)

    def _recalled(self, t: Tensor) -> Position:
        """`at` a time of all samples; the last two are remembered, for questions about
        one interval after another."""
        if t.ndim or t.device.type != "cpu":
            return self.at(t)
        time = float(t)
        known = self._recent.pop(time, None)
        self._recent[time] = known = self.at(t) if known is None else known
        if len(self._recent) > 2:
            self._recent.pop(next(iter(self._recent)))
        return known

    def ends(self, ta: float | Tensor, tb: float | Tensor) -> tuple[Tensor, Tensor]:
        """Times as float64 tensors on the device; raises as `increment`."""
        start, end = self._times("ta", ta), self._times("tb", tb)
        self._check(start, end)
        return start, end

    def increments(self, t: Tensor, h: Tensor, levy: Levy) -> BrownianIncrement:
        """Increments over [t, t + h], `(steps, batch, m)` in `dtype`.

        `t, h` float64, both `(steps,)` or `(steps, batch)`; h = 0 gives zeros. As
        `increment` of each step, to rounding, but nodes and ends that steps share are
        computed once.

        Raises ValueError if a time is NaN or outside [t0, t1] or a shape is another.
        """
        _check_levy(levy)
        batch, m = self.size
        if t.shape != h.shape or t.shape[1:] not in ((), (batch,)):
            raise ValueError(
                "t and h must both be (steps,) or (steps, batch) with a batch of "
                f"{batch}, got {tuple(t.shape)} and {tuple(h.shape)}"
            )
        device = self._keys.device
        t, h = (v.detach().to(device, torch.float64) for v in (t, h))
        self._check(t, t + h)
        start, end = self._fraction(t), self._fraction(t + h)
        # One time computed in two ways is one time: fewer questions, and increments
        # that add up.
        near = (end[:-1] - start[1:]).abs() <= 2 * self._slack() / self._levels.span
        end[:-1] = torch.where(near, start[1:], end[:-1])
        end = torch.where(h == 0, start, end)
        steps = max(1, _CHUNK // (self._levels.terms * max(batch * m, 32)))
        pieces = zip(torch.split(start, steps), torch.split(end, steps), strict=True)
        return _joined([self._steps(a, b, levy) for a, b in pieces])

    def _steps(self, start: Tensor, end: Tensor, levy: Levy) -> BrownianIncrement:
        """Increments between fractions `(steps,)` or `(steps, batch)`."""
        if start.ndim == 1:
            x, index = torch.unique(torch.cat((start, end)), return_inverse=True)
            value = self._shared(x)
            x = x.unsqueeze(-1)
            first, last = index.view(2, -1)
        else:
            chained = bool((end[:-1] == start[1:]).all())
            x = torch.cat((start, end[-1:] if chained else end))
            keys = self._keys.expand(x.shape).reshape(-1)
            value = self._values(x.reshape(-1), keys).view(*x.shape, 2, self.size[1])
            first = torch.arange(len(start), device=x.device)
            last = first + (1 if chained else len(start))
        w, k = value.unbind(-2)
        a, b = (Position(x[n], w[n], k[n]) for n in (first, last))
        return self.between(a, b, levy)

    def _pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """A normal for each pair of coordinates: of the interval, and its direction."""
        m = self.size[1]
        pairs = m * (m - 1) // 2
        keys = subkeys(self._keys, torch.full_like(self._keys, _AREA))
        for end in (torch.minimum(a, b), torch.maximum(a, b)):
            keys = subkeys(keys, end.view(torch.int64))
        normal = torch.cat(normals(keys, -(-pairs // 2), self.dtype), dim=-1)
        return normal[..., :pairs] * (b - a).sign().unsqueeze(-1)

    def _values(self, x: Tensor, keys: Tensor) -> Tensor:
        """W and K `(rows, 2, m)` of samples `keys (rows,)` at `x (rows,)` or `(1,)`."""
        nodes, weights = self._levels.read(x)
        keys = subkeys(keys.unsqueeze(-1), nodes)
        weights = weights.flatten(-2).expand(len(keys), -1, -1)
        block = _BLOCK if keys.device.type == "cpu" else _CHUNK
        rows = max(1, block // (self._levels.terms * self.size[1]))
        return torch.cat(
            [
                self._sums(part, weight)
                for part, weight in zip(
                    torch.split(keys, rows), torch.split(weights, rows), strict=True
                )
            ]
        )

    def _sums(self, keys: Tensor, weights: Tensor) -> Tensor:
        normal = torch.cat(normals(keys, self.size[1], self.dtype), dim=1)
        # In float64: small differences of large sums follow.
        return torch.bmm(weights, normal.to(torch.float64))

    def _shared(self, x: Tensor) -> Tensor:
        """W and K `(n, batch, 2, m)` of all samples at ascending `x (n,)`.

        Nodes that several times share are drawn once, and only if they count at one.
        """
        nodes, weights = self._levels.read(x)
        counts = weights != 0
        needed = counts.flatten(1, 2).any(1)
        # As x ascends, so do the nodes of each level: equal ones are neighbours.
        column = nodes.T.reshape(-1)
        fresh = torch.ones_like(column, dtype=torch.bool)
        torch.ne(column[1:], column[:-1], out=fresh[1:])
        slot = fresh.cumsum(0) - 1
        distinct = column[fresh]
        kept = torch.zeros_like(distinct, dtype=torch.bool)
        kept[slot[needed.T.reshape(-1)]] = True
        drawn = distinct[kept]
        row = (kept.cumsum(0) - 1)[slot].view(self._levels.terms, len(x)).T

        keys = subkeys(self._keys, drawn.unsqueeze(-1))
        table = torch.cat(normals(keys, self.size[1], self.dtype)).to(torch.float64)
        second = torch.tensor([[0], [len(drawn)]], device=x.device)
        index = (row[:, None, None] + second).expand_as(counts)[counts]
        lengths = counts.flatten(2).sum(-1).flatten()
        sums = torch.nn.functional.embedding_bag(
            index,
            table.flatten(1),
            lengths.cumsum(0) - lengths,
            mode="sum",
            per_sample_weights=weights[counts],
        )
        return sums.view(len(x), 2, *self.size).transpose(1, 2)

    def _fraction(self, t: Tensor) -> Tensor:
        ticks = ((t.double() - self.t0) * (_TICKS / self._levels.span)).round_()
        return ticks.mul_(1 / _TICKS).clamp_(0, 1)

    def _slack(self) -> float:
        """How far rounding may move a time."""
        return 8 * max(math.ulp(self.t0), math.ulp(self.t1))

    def _times(self, name: str, t: float | Tensor) -> Tensor:
        device = self._keys.device
        time = torch.as_tensor(t, dtype=torch.float64, device=device).detach()
        if time.shape not in ((), (1,), (self.size[0],)):
            raise ValueError(
                f"{name} must be a float or a tensor (), (1,) or (batch,) with a batch "
                f"of {self.size[0]}, got one of shape {tuple(time.shape)}"
            )
        return time

    def _check(self, *times: Tensor) -> None:
        times = tuple(t for t in times if t.numel())
        if not times:
            return
        low = torch.stack([t.min() for t in times]).min().item()
        high = torch.stack([t.max() for t in times]).max().item()
        slack = self._slack()
        # Written so that NaN is refused.
        if not (low >= self.t0 - slack and high <= self.t1 + slack):
            raise ValueError(
                f"the Brownian motion covers [{self.t0}, {self.t1}], was asked for "
                f"[{low}, {high}]: give it a wider span, or times inside this one"
            )


def _check_levy(levy: object) -> None:
    if levy not in get_args(Levy):
        raise ValueError(f"levy must be one of {get_args(Levy)}, got {levy!r}")


def _joined(parts: list[BrownianIncrement]) -> BrownianIncrement:
    def all_of(values: list[Tensor | None]) -> Tensor | None:
        given = [v for v in values if v is not None]
        return torch.cat(given) if given else None

    return BrownianIncrement(
        torch.cat([p.w for p in parts]),
        all_of([p.levy for p in parts]),
        all_of([p.area for p in parts]),
    )
