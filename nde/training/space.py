"""Where a sweep looks for better settings: a range or a list for each key."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nde.training.config_file import ConfigError, parse_assignment

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`; `log` for orders of size."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that must be valid for all to be."""
        return self.low, self.high


@dataclass(frozen=True)
class OneOf:
    """One of some values."""

    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that must be valid for all to be."""
        return self.values


Space = dict[str, Between | OneOf]


def parse_space(texts: Iterable[str]) -> Space:
    """`section.key=LOW..HIGH`, `=LOW..HIGH,log` or `=A,B,C` of each key.

    Raises `ConfigError` naming the text.
    """
    space: Space = {}
    for text in texts:
        key, equals, told = text.partition("=")
        key, told = key.strip(), told.strip()
        if not equals or "." not in key or not told:
            raise ConfigError(
                f"--space {text}: expected section.key=LOW..HIGH, with ,log for orders "
                "of size, or section.key=A,B,C"
            )
        if key in space:
            raise ConfigError(f"--space {text}: {key} has a space already")
        space[key] = _between(text, told) if ".." in told else _one_of(key, told)
    if not space:
        raise ConfigError(
            "nothing to search: pass --space, such as --space optim.lr=1e-4..1e-1,log"
        )
    return space


def _between(text: str, told: str) -> Between:
    ends, comma, word = told.partition(",")
    first, _, last = ends.partition("..")
    numbers = [parse_assignment(f"a.b={end}")[1] for end in (first, last)]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ConfigError(f"--space {text}: expected a number, got {number!r}")
    low, high = numbers
    log = bool(comma)
    if log and word.strip() != "log":
        raise ConfigError(f"--space {text}: expected log after the comma, got {word!r}")
    if not -math.inf < low < high < math.inf:
        raise ConfigError(f"--space {text}: expected LOW below HIGH, got {ends}")
    if log and low <= 0:
        raise ConfigError(f"--space {text}: with log LOW must be above 0, got {low}")
    return Between(low, high, log)


def _one_of(key: str, told: str) -> OneOf:
    values: list[Any] = [
        parse_assignment(f"{key}={value}")[1] for value in told.split(",")
    ]
    return OneOf(tuple(values))
