"""What a control path is: a function of time that a vector field may read.

Paths know nothing of steppers or terms; layers and terms read them by this interface.
"""

from typing import Protocol

from torch import Tensor


class Path(Protocol):
    """A function of time for each sample, with its time derivative.

    `t` is 0-dim (one time for the whole batch) or `(batch,)` (one per sample); both
    methods return `(batch, channels)`.
    """

    def evaluate(self, t: Tensor) -> Tensor:
        """Value at `t`."""
        ...

    def derivative(self, t: Tensor) -> Tensor:
        """Time derivative at `t`."""
        ...
