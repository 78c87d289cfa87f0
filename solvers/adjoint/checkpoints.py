"""Going back over steps of which few are remembered: binomial checkpointing.

Places are kept on a stack. What lies between the last one and the step whose turn it is
gets walked again, and on the way more places are kept where there is room. With c of
them and every step walked at most r times that reaches C(c + r, r) steps back, and no
scheme reaches more: Griewank and Walther, *Algorithm 799: revolve* (2000).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeVar

Place = TypeVar("Place")

Remembered = int | Literal["all", "sqrt", "log"]


def check_remembered(states: object) -> None:
    """Raises ValueError for what is no number of places."""
    whole = isinstance(states, int) and not isinstance(states, bool) and states >= 1
    if not whole and states not in ("all", "sqrt", "log"):
        raise ValueError(
            f"states must be an integer >= 1, 'all', 'sqrt' or 'log', got {states!r}"
        )


def room(states: Remembered, steps: int) -> int:
    """How many places to keep at a time for so many steps."""
    if isinstance(states, int):
        return states
    if states == "sqrt":
        return max(1, math.ceil(math.sqrt(2 * steps)))
    return max(1, math.ceil(math.log2(steps + 1)))


def go_back(
    steps: int,
    first: Place,
    places: int,
    walk: Callable[[Place, int, int], Place],
    visit: Callable[[int, Place], None],
) -> None:
    """Visit the steps with the places before them, last step first.

    `first` is the place before step 0; `walk(place, a, b)` takes steps a to b - 1 from
    the place before step a; at most `places` are kept at a time.
    """
    kept, end = [(0, first)], steps
    while end:
        start, place = kept[-1]
        if end - start == 1:
            visit(start, place)
            kept.pop()
            end = start
        elif len(kept) == places:
            visit(end - 1, walk(place, start, end - 1))
            end -= 1
        else:
            ahead = start + _stride(end - start, places - len(kept))
            kept.append((ahead, walk(place, start, ahead)))


def _stride(steps: int, places: int) -> int:
    """How far ahead to keep the next place, with room for so many more."""
    again = 1
    while _reach(places, again) < steps:
        again += 1
    return _reach(places, again - 1)


def _reach(places: int, again: int) -> int:
    """Steps that can be visited if each is walked at most `again` times."""
    return math.comb(places + 1 + again, again)
