"""What a differential-equation layer must offer to read series."""

from typing import Protocol

from torch import Tensor

from nde.models.output import LayerOutput
from nde.solvers.brownian import Seed
from nde.solvers.path import Path


class SeriesLayer(Protocol):
    """A module that follows a control path. Give your own layer these members.

    `channels` are those of the control path that it reads, `hidden` the size of its
    state; `stochastic` tells whether a seed matters.
    """

    channels: int
    hidden: int
    stochastic: bool

    def __call__(
        self, path: Path, ts: Tensor, *, seed: Seed | None = None, progress: float = 0.0
    ) -> LayerOutput:
        """States along `path` at times `ts`, `(T,)` or `(batch, T)`."""
        ...
