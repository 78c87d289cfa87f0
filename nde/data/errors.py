"""What a reader says when it refuses: the error, and the nearest known name."""

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """Data that cannot be used as given: one line naming the place and the fix."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that does not exist, with the nearest one that does.

    `kind` is what the name stands for ("model", "column", ...), `known` the names
    that would have been accepted.
    """
    names = list(known)
    lowered = {candidate.lower(): candidate for candidate in reversed(names)}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f"did you mean {lowered[near[0]]!r}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}known: {', '.join(names) or 'none'}"
