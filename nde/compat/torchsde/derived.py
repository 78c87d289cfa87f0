"""`BrownianPath` and `BrownianTree`: motions that begin at a given place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nde.compat.torchsde.brownian import BaseBrownian, Device
from nde.compat.torchsde.interval import BrownianInterval, Entropy
from nde.solvers.brownian import BrownianBridge
from nde.solvers.brownian import BrownianTree as Tree


class _Placed(BaseBrownian):
    """A motion that begins at `w0`: asked for one time it tells where it is."""

    def __init__(self, w0: Tensor, interval: BrownianInterval) -> None:
        self._w0, self._interval = w0, interval

    def __call__(
        self, t: Any, tb: Any = None, return_U: bool = False, return_A: bool = False
    ) -> Any:
        """The place at `t`, or the increment from t to `tb`; see `BrownianInterval`."""
        found = self._interval(t, tb, return_U=return_U, return_A=return_A)
        if tb is None and not (return_U or return_A):
            return found + self._w0
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}(interval={self._interval})"

    @property
    def motion(self) -> Tree | BrownianBridge:
        """What a solve asks, with samples and motions as (batch, m)."""
        return self._interval.motion

    @property
    def dtype(self) -> torch.dtype:
        """Of the increments."""
        return self._interval.dtype

    @property
    def device(self) -> Device:
        """Of the increments."""
        return self._interval.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the increments."""
        return self._interval.shape

    @property
    def levy_area_approximation(self) -> str:
        """'none'."""
        return self._interval.levy_area_approximation


class BrownianPath(_Placed):
    """Brownian motion on [t0, t0 + 1] from `w0`. `window_size` has no effect."""

    def __init__(self, t0: Any, w0: Tensor, window_size: int = 8) -> None:
        interval = BrownianInterval(
            t0=t0, t1=t0 + 1, size=tuple(w0.shape), dtype=w0.dtype, device=w0.device
        )
        super().__init__(w0, interval)


class BrownianTree(_Placed):
    """Brownian motion on [t0, t1] from `w0`, maybe to `w1`.

    `t1` is t0 + 1 by default; `w0` has any shape. `entropy` is a seed, or one for each
    entry of the first axis of w0, whose path is then the same in any company. `tol` as
    for `BrownianInterval`; `pool_size`, `cache_depth` and `safety` have no effect.
    """

    def __init__(
        self,
        t0: Any,
        w0: Tensor,
        t1: Any = None,
        w1: Tensor | None = None,
        entropy: Entropy | None = None,
        tol: float = 1e-6,
        pool_size: int = 24,
        cache_depth: int = 9,
        safety: float | None = None,
    ) -> None:
        interval = BrownianInterval(
            t0=t0,
            t1=t0 + 1 if t1 is None else t1,
            size=tuple(w0.shape),
            dtype=w0.dtype,
            device=w0.device,
            entropy=entropy,
            tol=tol,
            pool_size=pool_size,
            halfway_tree=True,
            W=None if w1 is None else w1 - w0,
        )
        super().__init__(w0, interval)
