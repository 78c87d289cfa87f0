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
        direction: 1 for changes from negative to positive as the solve proceeds, -1 for
            the other way, 0 for both.
        reset: None ends the sample, with status `EVENT`. Else `(t, y)` to the state
            from which the sample goes on; what other samples get is not used.
        samples: times inside every step at which the sign is looked at besides its end,
            on the interpolant: with 0, two changes within one step go unseen.

    A condition that is zero where the solve begins does not fire there. Of events at
    the same time the first in the list happens. The time of an event whose condition
    has no derivative is a constant to autograd. A batch that shares its steps
    (`batch="shared"`) ends as a whole where the first of its samples meets an event,
    and takes no resets.
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
    the whole batch, events times samples. `margin (channels, rows)`: how far from zero
    a condition counts as zero until it has been further; nonzero for events that the
    solve sets out from. None is zero.

    A *sign* is -1, 0 or 1; or half of it where a condition sets out from zero, which
    way it goes then.
    """

    events: tuple[Event, ...]
    layout: Layout
    margin: Tensor | None

    @property
    def channels(self) -> int:
        """How many signs each row has."""
        each = self.layout.structure.batch if self.layout.shared else 1
        return len(self.events) * each

    def event_of(self, channel: Tensor) -> Tensor:
        """The event that channels belong to; negative where there is none."""
        each = self.channels // len(self.events)
        return torch.div(channel, each, rounding_mode="floor")

    @property
    def samples(self) -> int:
        """Looks inside every step."""
        return max(event.samples for event in self.events)

    def values(self, t: Tensor, y: Tensor) -> Tensor:
        """Conditions at engine time `t (rows,)` and `y (rows, dim)`: per channel.

        Raises ValueError if a condition returns anything but floating `(batch,)`.
        """
        layout = self.layout
        state = layout.structure.unflatten(layout.to_batch(y))
        clock = layout.clock(t.to(y.dtype))
        wanted = torch.Size((layout.structure.batch,))
        found = []
        for number, event in enumerate(self.events):
            value = layout.call(event.condition, clock, state)
            if (
                not isinstance(value, Tensor)
                or value.shape != wanted
                or not value.is_floating_point()
            ):
                shown = (
                    f"{value.dtype} of shape {tuple(value.shape)}"
                    if isinstance(value, Tensor)
                    else type(value).__name__
                )
                raise ValueError(
                    f"the condition of event {number} returned {shown}; it must return "
                    f"one floating number per sample, shape {tuple(wanted)}"
                )
            found.append(value.reshape(-1, layout.rows))
        return torch.cat(found)

    def rates(self, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        """Derivatives of the conditions along `slope (rows, dim)`: per channel.

        Zero for a condition that has none.
        """
        inference = torch.is_inference_mode_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            now = t.detach().clone().requires_grad_()
            here = y.detach().clone().requires_grad_()
            slope = slope.detach().clone()
            try:
                value = self.values(now, here)
                rates = [_rates(part, now, here, slope) for part in self._each(value)]
            except RuntimeError as error:
                # A condition that uses tensors made in inference mode has none there.
                if not (inference and "nference" in str(error)):
                    raise
                return y.new_zeros((self.channels, y.shape[0]))
        return torch.cat(rates)

    def _each(self, value: Tensor) -> tuple[Tensor, ...]:
        """The channels of each event."""
        return torch.split(value, self.channels // len(self.events))

    def begin(self, t: Tensor, y: Tensor, slope: Callable[[], Tensor]) -> Tensor:
        """Signs where the solve begins: `(channels, rows)`.

        `slope` gives the vector field there.
        """
        value = self.values(t, y)
        near = value.abs() <= (0.0 if self.margin is None else self.margin)
        sign = value.sign()
        if not bool(near.any()):
            return sign
        rate = self.rates(t, y, slope())
        return torch.where(near, 0.5 * rate.sign(), sign)

    def look(self, sign: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Which channels changed sign `(channels, rows)`, and the signs from now on.

        Zero is on neither side: it counts as a change when it is reached, and not where
        a solve begins. A condition that is not finite counts as a change, so that it
        is found out.
        """
        new = value.sign()
        wanted = self._directions(sign)
        crossed = self.past(sign, value, self.margin) & (wanted * sign <= 0)
        crossed = crossed | ~torch.isfinite(value)
        away = self._away(sign, value, self.margin) & (new != 0)
        return crossed, torch.where(away, new, sign)

    def past(self, sign: Tensor, value: Tensor, margin: Tensor | None) -> Tensor:
        """Whether a value is no longer on the side of its sign."""
        left = (value.sign() * sign <= 0) & (sign != 0)
        return left & self._away(sign, value, margin)

    def _away(self, sign: Tensor, value: Tensor, margin: Tensor | None) -> Tensor:
        """Whether a value is no longer the zero that a solve set out from."""
        far = value.abs() > (0.0 if margin is None else margin)
        return far | (sign.abs() == 1.0)

    def _directions(self, like: Tensor) -> Tensor:
        each = self.channels // len(self.events)
        directions = [float(e.direction) for e in self.events for _ in range(each)]
        return like.new_tensor(directions).unsqueeze(1)


def _rates(value: Tensor, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """Derivative of one event's channels as t runs and y moves along `slope`."""
    if not value.requires_grad:
        return torch.zeros_like(value)
    several = value.shape[0] > 1
    # One backward pass gives the derivatives of a sum. Channels that share one time
    # are told apart by differentiating once more, in the weights of the sum.
    weights = torch.ones_like(value, requires_grad=several)
    # Conditions stand in one graph, which the first must not take apart.
    grads = torch.autograd.grad(
        value,
        (t, y),
        weights,
        retain_graph=True,
        create_graph=several,
        allow_unused=True,
    )
    rate = torch.zeros_like(value)
    along_t, along_y = grads
    if several:
        total = rate.sum()
        if along_t is not None:
            total = total + along_t.sum().to(rate.dtype)
        if along_y is not None:
            total = total + (along_y * slope).sum()
        (rate,) = torch.autograd.grad(total, weights, retain_graph=True)
        return rate
    if along_t is not None:
        rate = rate + along_t.to(rate.dtype)
    if along_y is not None:
        rate = rate + (along_y * slope).sum(dim=1)
    return rate.detach()
