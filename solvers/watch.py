"""Event functions in engine layout, and their signs along a solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers.state import State
from nde.solvers.term import Layout

Condition = Callable[..., Tensor]
Reset = Callable[..., State]


@dataclass(frozen=True)
class Event:
    """A sample's solve ends, or jumps, where `condition` changes sign.

    Args:
        condition: `(t, y)` to `(batch,)`, as a field is called, and with `args` if the
            solve has them; smooth in both, so that the time it changes sign can be
            differentiated (implicit function theorem).
        direction: 1 for changes from negative to positive, -1 for the other way, 0 for
            both.
        reset: None ends the sample, with status `EVENT`. Else `(t, y)` to the state
            from which the sample goes on; what other samples get is not used.
        samples: times inside every step at which the sign is looked at besides its end,
            on the interpolant: with 0, two changes within one step go unseen.

    A condition that is zero where the solve begins does not fire there.
    Raises TypeError or ValueError naming the argument.
    """

    condition: Condition
    direction: int = 0
    reset: Reset | None = None
    samples: int = 0

    def __post_init__(self) -> None:
        for name, value in (("condition", self.condition), ("reset", self.reset)):
            if not callable(value) and not (name == "reset" and value is None):
                raise TypeError(
                    f"{name} must be callable as {name}(t, y), got "
                    f"{type(value).__name__}"
                )
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"direction must be -1, 0 or 1, got {self.direction!r}")
        if isinstance(self.samples, bool) or not isinstance(self.samples, int):
            raise TypeError(f"samples must be an integer, got {self.samples!r}")
        if self.samples < 0:
            raise ValueError(f"samples must be >= 0, got {self.samples}")


@dataclass(frozen=True)
class Watch:
    """The events of a solve in engine layout.

    A *channel* is an event of a row: there are as many as events, or where one row is
    the whole batch, events times samples. `fired (channels, rows)` marks those that
    ended the solve before this one, whose sign at the start says nothing.
    """

    events: tuple[Event, ...]
    layout: Layout
    fired: Tensor | None

    @property
    def channels(self) -> int:
        """How many signs each row has."""
        each = self.layout.structure.batch if self.layout.shared else 1
        return len(self.events) * each

    @property
    def samples(self) -> int:
        """Looks inside every step."""
        return max(event.samples for event in self.events)

    def values(self, t: Tensor, y: Tensor) -> Tensor:
        """Conditions at engine time `t (rows,)` and `y (rows, dim)`: per channel.

        Raises TypeError or ValueError if a condition returns anything but `(batch,)`.
        """
        layout = self.layout
        state = layout.structure.unflatten(layout.to_batch(y))
        clock = layout.clock(t.to(y.dtype))
        wanted = torch.Size((layout.structure.batch,))
        found = []
        for number, event in enumerate(self.events):
            value = layout.call(event.condition, clock, state)
            if not isinstance(value, Tensor) or value.shape != wanted:
                shown = (
                    f"shape {tuple(value.shape)}"
                    if isinstance(value, Tensor)
                    else type(value).__name__
                )
                raise ValueError(
                    f"the condition of event {number} returned {shown}; it must return "
                    f"one number per sample, shape {tuple(wanted)}"
                )
            found.append(value.reshape(-1, layout.rows))
        return torch.cat(found)

    def begin(self, t: Tensor, y: Tensor) -> Tensor:
        """Signs where the solve begins: `(channels, rows)`, zero where none counts."""
        sign = self.values(t, y).sign()
        return sign if self.fired is None else sign.masked_fill(self.fired, 0.0)

    def look(self, sign: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Which channels changed sign `(channels, rows)`, and the signs from now on.

        Zero is on neither side: it counts as a change when it is reached, and not where
        a solve begins. A condition that is not finite counts as a change, so that it
        is found out.
        """
        new = value.sign()
        wanted = self._directions(sign)
        crossed = (sign * new <= 0) & (sign != 0) & (wanted * sign <= 0)
        crossed = crossed | ~torch.isfinite(value)
        return crossed, torch.where(new != 0, new, sign)

    def _directions(self, like: Tensor) -> Tensor:
        each = self.channels // len(self.events)
        directions = [float(e.direction) for e in self.events for _ in range(each)]
        return like.new_tensor(directions).unsqueeze(1)
