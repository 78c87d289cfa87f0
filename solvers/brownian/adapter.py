"""Brownian motions of torchsde as a solve asks for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nde.solvers.brownian.increment import BrownianIncrement, Levy

# What `levy_area_approximation` of torchsde covers.
_GIVES: dict[str, tuple[Levy, ...]] = {
    "none": ("none",),
    "space-time": ("none", "space-time"),
    "davie": ("none", "space-time", "area"),
    "foster": ("none", "space-time", "area"),
}


@dataclass(frozen=True, eq=False)
class FromTorchsde:
    """A Brownian motion that is called as those of torchsde 0.2.6.

    `bm(ta, tb)` returns W, with `return_U=True` also U, the integral of W_s - W_ta, and
    with `return_A=True` also the Levy area; it has `shape (batch, m)` and maybe
    `levy_area_approximation`. It is asked for one interval after another, in order.
    `t0`, `t1`: where it is defined; it is never asked outside, not even by a rounding.

    Raises ValueError if the shape has not two axes.
    """

    bm: Callable[..., Any]
    t0: float = -math.inf
    t1: float = math.inf

    def __post_init__(self) -> None:
        shape = self.bm.shape  # type: ignore[attr-defined]
        if len(shape) != 2:
            raise ValueError(f"bm must have shape (batch, m), got {tuple(shape)}")

    @property
    def size(self) -> tuple[int, int]:
        """(batch, m)."""
        batch, m = self.bm.shape  # type: ignore[attr-defined]
        return batch, m

    @property
    def gives(self) -> tuple[Levy, ...]:
        """The areas that it has."""
        return _GIVES[getattr(self.bm, "levy_area_approximation", "none")]

    def increment(self, ta: float, tb: float, levy: Levy = "none") -> BrownianIncrement:
        """Increment from `ta` to `tb > ta`.

        Raises ValueError outside [t0, t1], or for an area that it has not.
        """
        slack = 8 * max(math.ulp(ta), math.ulp(tb))
        # Written so that NaN is refused.
        if not self.t0 - slack <= ta < tb <= self.t1 + slack:
            raise ValueError(
                f"bm covers [{self.t0}, {self.t1}], was asked for [{ta}, {tb}]: give "
                "it a wider span, or times inside this one"
            )
        if levy not in self.gives:
            wanted = "'space-time'" if levy == "space-time" else "'foster'"
            raise ValueError(
                f"bm gives no Levy area ({levy}); make it with "
                f"levy_area_approximation={wanted}"
            )
        h = tb - ta
        ta, tb = max(ta, self.t0), min(tb, self.t1)
        if levy == "none":
            return BrownianIncrement(self.bm(ta, tb))
        if levy == "space-time":
            w, u = self.bm(ta, tb, return_U=True)
            return BrownianIncrement(w, u / h - w / 2)
        w, u, area = self.bm(ta, tb, return_U=True, return_A=True)
        return BrownianIncrement(w, u / h - w / 2, area)
