"""`BrownianInterval`: Brownian motion on an interval, a function of `entropy` alone."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nde.compat.torchsde.brownian import BaseBrownian, Device
from nde.solvers.brownian import (
    BrownianBridge,
    BrownianTree,
    Levy,
    Position,
    Seed,
    fresh_seed,
)

_LEVY: dict[str, Levy] = {
    "none": "none",
    "space-time": "space-time",
    "davie": "area",
    "foster": "area",
}
# Of the span: times nearer to each other have no exact joint law.
_FINEST, _COARSEST, _DEFAULT = 2.0**-48, 2.0**-1, 2.0**-16

Entropy = int | Sequence[int] | Tensor


class BrownianInterval(BaseBrownian):
    """Brownian motion on [t0, t1], asked for intervals in any order.

    Args:
        t0, t1: numbers or tensors of one element.
        size: of an increment, any shape: the last axis are the motions of a sample,
            `()` and `(n,)` are one for each sample.
        dtype: torch's default dtype by default.
        device: the CPU by default; the path is the same on all, to rounding.
        entropy: the seed, from torch's generator by default; also one for each entry
            of the first axis of size, whose path is then the same in any company.
        dt: the step that will be asked for.
        tol: times nearer than this to each other have no exact joint law; by default,
            0, the span times 2^-16, or an eighth of dt.
        levy_area_approximation: "none", "space-time" (U), "davie" or "foster" (U and
            A; both of Foster's variance).
        W, H: increment and space-time Levy area over [t0, t1], `size`; with a graph.

    `pool_size`, `cache_size` and `halfway_tree` are accepted and have no effect.

    Raises ValueError naming the argument, TypeError for an entropy that is no int.
    """

    def __init__(
        self,
        t0: Any = 0.0,
        t1: Any = 1.0,
        size: tuple[int, ...] | None = None,
        dtype: torch.dtype | None = None,
        device: Device | None = None,
        entropy: Entropy | None = None,
        dt: Any = None,
        tol: Any = 0.0,
        pool_size: int = 8,
        cache_size: int | None = 45,
        halfway_tree: bool = False,
        levy_area_approximation: str = "none",
        W: Tensor | None = None,
        H: Tensor | None = None,
    ) -> None:
        self._t0, self._t1 = _number("t0", t0), _number("t1", t1)
        if not self._t0 <= self._t1:
            raise ValueError(
                f"t0 must not be after t1, got t0={self._t0} and t1={self._t1}"
            )
        self._dt = None if dt is None else _number("dt", dt)
        self._tol = _tolerance(tol, halfway_tree, self._dt)
        if levy_area_approximation not in _LEVY:
            raise ValueError(
                f"levy_area_approximation is {levy_area_approximation!r}; expected one "
                f"of {', '.join(_LEVY)}"
            )
        ends = {"W": W, "H": H}
        self._shape, self._dtype, self._device = _kind(size, dtype, device, ends)
        self._approximation = levy_area_approximation
        self._levy = _LEVY[levy_area_approximation]
        self._pool_size, self._cache_size = pool_size, cache_size
        self._halfway_tree = halfway_tree
        self._entropy: Entropy = fresh_seed() if entropy is None else entropy
        seed = _seed(self._entropy)
        if self._levy == "area" and isinstance(seed, Tensor) and len(self._shape) > 2:
            raise ValueError(
                f"Levy areas with an entropy for each sample need size (batch, m), got "
                f"{self._shape}"
            )
        batch, m = _flat(self._shape, isinstance(seed, Tensor))
        # Halves are too coarse to draw in.
        kind = self._dtype if self._dtype == torch.float64 else torch.float32
        # An interval of no length needs a tree of some.
        span = self._t1 - self._t0 or 1.0
        tol = self._tol or min(span * _DEFAULT, (self._dt or math.inf) / 8)
        tree = BrownianTree(
            seed,
            self._t0,
            self._t0 + span if self._t1 == self._t0 else self._t1,
            (batch, m),
            kind,
            torch.device(self._device),
            min(max(tol, span * _FINEST), span * _COARSEST),
        )
        # As (batch, m), with None for the rest.
        given = [None if v is None else v.reshape(batch, m) for v in ends.values()]
        self._motion: BrownianTree | BrownianBridge = tree
        if W is not None or H is not None:
            self._motion = BrownianBridge(tree, *given)
        self._last: tuple[float, Position] | None = None

    def __call__(
        self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False
    ) -> Any:
        """The increment from `ta` to `tb`, from t0 to `ta` if tb is None: `size`.

        With `return_U` and `return_A` a tuple of it and these, U `size`, the integral
        of W_s - W_ta, and A `(*size, size[-1])`; None where levy_area_approximation
        does not give them. Times outside [t0, t1] are taken as its ends, with a
        warning where this is more than rounding.

        Raises RuntimeError if ta > tb.
        """
        start, end = (self._t0, ta) if tb is None else (ta, tb)
        begin, stop = self._inside(float(start)), self._inside(float(end))
        if begin > stop:
            raise RuntimeError(f"ta={begin} is after tb={stop}; ask for ta <= tb")
        a, b = self._at(begin), self._at(stop)
        self._last = stop, b
        moved = self._motion.between(a, b, self._levy).map(lambda v: v.to(self._dtype))
        w = moved.w.reshape(self._shape)
        if not (return_U or return_A):
            return w
        out = [w]
        if return_U:
            levy = moved.levy
            u = None if levy is None else levy.reshape(self._shape)
            out.append(None if u is None else (stop - begin) * (w / 2 + u))  # type: ignore[arg-type]
        if return_A:
            out.append(self._area(moved.area, w))  # type: ignore[arg-type]
        return tuple(out)

    def _at(self, t: float) -> Position:
        """Where it is at a time; the next question often begins where one ended."""
        last = self._last
        if last is not None and last[0] == t and not last[1].w.requires_grad:
            return last[1]
        device = torch.device(self._device)
        return self._motion.at(torch.tensor(t, dtype=torch.float64, device=device))

    def _area(self, area: Tensor | None, w: Tensor) -> Tensor | None:
        if area is None:
            return None
        # One motion for each sample has no area.
        if len(self._shape) < 2:
            return torch.zeros_like(w)
        return area.reshape(*self._shape, self._shape[-1])

    def _inside(self, t: float) -> float:
        slack = 8 * max(math.ulp(self._t0), math.ulp(self._t1))
        if not self._t0 - slack <= t <= self._t1 + slack:
            if t != t:
                raise ValueError("ta and tb must not be NaN")
            warnings.warn(
                f"t={t} lies outside of the interval [{self._t0}, {self._t1}], whose "
                "end is taken; make it longer",
                stacklevel=3,
            )
        return min(max(t, self._t0), self._t1)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(t0={self._t0:.3f}, t1={self._t1:.3f}, "
            f"size={self._shape}, dtype={self._dtype}, device={self._device!r}, "
            f"entropy={self._entropy}, dt={self._dt}, tol={self._tol}, "
            f"pool_size={self._pool_size}, cache_size={self._cache_size}, "
            f"levy_area_approximation={self._approximation!r})"
        )

    def display_binary_tree(self) -> None:
        """Print the interval: no other is stored."""
        print(f"({self._t0}, {self._t1})")

    @property
    def motion(self) -> BrownianTree | BrownianBridge:
        """What a solve asks, with samples and motions as (batch, m)."""
        return self._motion

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the increments."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the increments."""
        return self._dtype

    @property
    def device(self) -> Device:
        """Of the increments."""
        return self._device

    @property
    def entropy(self) -> Entropy:
        """The seed, or those of the samples."""
        return self._entropy

    @property
    def levy_area_approximation(self) -> str:
        """As given."""
        return self._approximation

    @property
    def dt(self) -> float | None:
        """As given."""
        return self._dt

    @property
    def tol(self) -> float:
        """As given."""
        return self._tol

    @property
    def pool_size(self) -> int:
        """As given."""
        return self._pool_size

    @property
    def cache_size(self) -> int | None:
        """As given."""
        return self._cache_size

    @property
    def halfway_tree(self) -> bool:
        """As given."""
        return self._halfway_tree


def brownian_interval_like(
    y: Tensor,
    t0: Any = 0.0,
    t1: Any = 1.0,
    size: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
    **kwargs: Any,
) -> BrownianInterval:
    """A `BrownianInterval` with shape, dtype and device of a tensor where not given."""
    return BrownianInterval(
        t0=t0,
        t1=t1,
        size=tuple(y.shape) if size is None else size,
        dtype=y.dtype if dtype is None else dtype,
        device=y.device if device is None else device,
        **kwargs,
    )


def _number(name: str, value: Any) -> float:
    scalar = isinstance(value, Tensor) and value.numel() == 1
    if not (scalar or isinstance(value, (int, float))):
        raise ValueError(
            f"{name} must be a number or a tensor of one element, got {value!r}"
        )
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def _tolerance(tol: Any, halfway_tree: bool, dt: float | None) -> float:
    number = _number("tol", tol)
    if number < 0.0 or (halfway_tree and number == 0.0):
        least = "> 0 with halfway_tree" if halfway_tree else ">= 0"
        raise ValueError(f"tol must be {least}, got {number}")
    if halfway_tree and dt is not None:
        raise ValueError(f"dt is not used with halfway_tree; leave it out, got {dt}")
    return number


def _kind(
    size: tuple[int, ...] | None,
    dtype: torch.dtype | None,
    device: Device | None,
    ends: dict[str, Tensor | None],
) -> tuple[tuple[int, ...], torch.dtype, Device]:
    """Shape, dtype and device that the arguments agree on."""
    kind = (
        None if size is None else tuple(size),
        dtype,
        None if device is None else torch.device(device),
    )
    for name, value in ends.items():
        if value is None:
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            shown = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a floating tensor, got {shown}")
        found = (tuple(value.shape), value.dtype, value.device)
        for what, old, new in zip(
            ("size", "dtype", "device"), kind, found, strict=True
        ):
            if old not in (None, new):
                raise ValueError(f"{name} has {what} {new}, not {old} as the rest")
        kind = found
    shape, chosen, place = kind
    if shape is None:
        raise ValueError("size is not given; pass it, or W or H, which have it")
    chosen = torch.get_default_dtype() if chosen is None else chosen
    if not chosen.is_floating_point:
        raise TypeError(f"dtype must be a floating one, got {chosen}")
    return shape, chosen, (device or place or torch.device("cpu"))


def _flat(shape: tuple[int, ...], seeds: bool) -> tuple[int, int]:
    """Samples, and motions of each, that a shape is made of."""
    if len(shape) < 2:
        return math.prod(shape), 1
    if seeds:
        return shape[0], math.prod(shape[1:])
    return math.prod(shape[:-1]), shape[-1]


def _seed(entropy: Entropy) -> Seed:
    values = entropy.tolist() if isinstance(entropy, Tensor) else entropy
    if isinstance(values, (list, tuple)):
        return torch.tensor([_one_seed(v) for v in values], dtype=torch.int64)
    return _one_seed(values)


def _one_seed(entropy: Any) -> int:
    try:
        number = operator.index(entropy)
    except TypeError:
        raise TypeError(
            "entropy must be an int, or a list of them with one for each sample, got "
            f"{entropy!r}"
        ) from None
    if number < 0:
        raise ValueError(f"entropy must be >= 0, got {number}")
    return number % 2**63
