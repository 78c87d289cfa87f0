"""What a solve asks of a Brownian motion that is given to it."""

from __future__ import annotations

from typing import Protocol

from nde.solvers.brownian.increment import BrownianIncrement, Levy


class BrownianMotion(Protocol):
    """A Brownian motion on [t0, t1] that can be asked for its increments.

    `size` is (batch, m): samples, and motions of each.
    """

    @property
    def t0(self) -> float: ...

    @property
    def t1(self) -> float: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def increment(self, ta: float, tb: float, levy: Levy = "none") -> BrownianIncrement:
        """Increment from `ta` to `tb`, `(batch, m)`, with the areas asked for.

        Raises ValueError outside [t0, t1], or for areas that it does not have.
        """
        ...
