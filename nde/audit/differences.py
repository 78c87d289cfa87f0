"""Directional derivatives by central differences, with an estimate of their error."""

import math
from collections.abc import Callable
from dataclasses import dataclass

# Relative to the size of what is moved. Each step is a quarter of the one before, so
# that truncation falls by 16 and, of extrapolated quotients, by 256.
_LONGEST, _RATIO, _STEPS = 1e-2, 4.0, 8


@dataclass(frozen=True)
class Slope:
    """A derivative and an estimate of its absolute error."""

    value: float
    error: float


def slope(function: Callable[[float], float]) -> Slope:
    """The derivative of `function` at 0.

    Central differences with steps from 1e-2 down by factors of 4, each pair of
    neighbours extrapolated once (Richardson). The extrapolated value that differs least
    from both its neighbours is taken and that difference, or rounding if it is more, is
    the estimate of its error: long steps are spoilt by curvature and kinks, short ones
    by rounding, and where they leave no plateau the estimate is large.
    """
    steps = [_LONGEST / _RATIO**k for k in range(_STEPS)]
    quotients, size = [], 0.0
    for h in steps:
        up, down = function(h), function(-h)
        size = max(size, abs(up), abs(down))
        quotients.append((up - down) / (2 * h))
    square = _RATIO**2
    better = [
        (square * fine - coarse) / (square - 1)
        for coarse, fine in zip(quotients[:-1], quotients[1:], strict=True)
    ]
    found = Slope(math.nan, math.inf)
    for k in range(1, len(better) - 1):
        rounding = 2.0**-52 * size / steps[k + 1]
        # Of one neighbour alone it may be near by chance.
        apart = (abs(better[k] - better[j]) for j in (k - 1, k + 1))
        error = max(*apart, rounding)
        if error < found.error:
            found = Slope(better[k], error)
    return found
