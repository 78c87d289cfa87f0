"""Weights that adjust themselves during a training, toward a target.

The training tells them after each step what it measured; between measurements a weight
is constant. Both begin at zero, so that no guess of the penalty's size is needed.
Gradient norms cost a backward pass for each penalty, and are told now and then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

# State of a weight: numbers by name, NaN for what is not known yet.
WeightState = dict[str, float]


@dataclass(frozen=True)
class Measured:
    """What a training step tells.

    `progress` in [0, 1] of the training was done, `evaluations` the mean number of the
    field's calls per sample, `own` the norm of the gradient of the penalty without its
    weight, `others` the sum of the norms of the gradients of the task's loss and of
    the other penalties, weighted; both None where they were not measured.
    """

    progress: float
    evaluations: float
    own: float | None = None
    others: float | None = None

    def weight_for(self, share: float) -> float | None:
        """The weight with which the penalty has that share of the gradient norms."""
        if self.own is None or self.others is None:
            return None
        weight = share / (1.0 - share) * self.others / max(self.own, 1e-300)
        # Also where the penalty has no gradient, which no weight makes any larger.
        return weight if self.own > 0.0 and 0.0 < weight < math.inf else None


@runtime_checkable
class AutoWeight(Protocol):
    """A schedule that learns from the training; `state` is all it has learned."""

    def at(self, progress: float) -> float:
        """The weight now."""

    def update(self, measured: Measured) -> None:
        """Take in what a step measured."""

    def state(self) -> WeightState:
        """What `restore` needs to go on exactly."""

    def restore(self, state: WeightState) -> None:
        """Go on from a state. Raises ValueError if it is another weight's."""


class AutoShare:
    """Holds the penalty's share of the gradient norm: ||w g|| = share * sum of norms.

    The sum is over the task's loss and all penalties. Each measurement moves the
    logarithm of the weight by `rate` of the way to the one that would have met the
    target; the first one moves it all the way.

    Args:
        share: the target, in (0, 1).
        rate: in (0, 1].

    Raises ValueError naming the argument.
    """

    def __init__(self, share: float, rate: float = 0.3) -> None:
        _check_inside("share", share)
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate must lie in (0, 1], got {rate}")
        self.share, self.rate = share, rate
        self._value = 0.0

    def at(self, progress: float) -> float:
        return self._value

    def update(self, measured: Measured) -> None:
        wanted = measured.weight_for(self.share)
        if wanted is None:
            return
        if self._value == 0.0:
            self._value = wanted
        else:
            self._value *= (wanted / self._value) ** self.rate

    def state(self) -> WeightState:
        return {"value": self._value}

    def restore(self, state: WeightState) -> None:
        (self._value,) = _values(state, self.state())


class AutoEvaluations:
    """Holds evaluations at no more than `ratio` of the unregularized model's.

    These are `reference`; where it is None, the first `free` share of the training
    goes without the penalty, and what the model costs toward its end (the running mean
    over about ten steps) is the reference. A model whose cost would have grown later is
    then compared with what it was: train once without, and give that number, for a
    fair one.

    After that the weight rises by a factor exp(rate x) in each step, where evaluations,
    in the same running mean, are at 1 + x of the target, and falls likewise, x at most
    1. It sets out from a tenth of the gradient norm, and the last measurement holds it
    between 1/1000 and 9/10 of that.

    Args:
        ratio: the target, in (0, 1).
        reference: evaluations per sample of the unregularized model.
        free: share of the training, in (0, 1).
        rate: above 0.

    Raises ValueError naming the argument.
    """

    _FIRST, _LEAST, _MOST = 0.1, 1e-3, 0.9
    _MEMORY = 0.9

    def __init__(
        self,
        ratio: float,
        reference: float | None = None,
        free: float = 0.1,
        rate: float = 0.05,
    ) -> None:
        _check_inside("ratio", ratio)
        _check_inside("free", free)
        if reference is not None and not 0.0 < reference < math.inf:
            raise ValueError(f"reference must be finite and > 0, got {reference}")
        if not 0.0 < rate < math.inf:
            raise ValueError(f"rate must be finite and > 0, got {rate}")
        self.ratio, self.reference, self.free, self.rate = ratio, reference, free, rate
        self._value = 0.0
        self._found = math.nan if reference is None else float(reference)
        self._mean = self._least = self._most = math.nan

    def at(self, progress: float) -> float:
        return self._value

    def update(self, measured: Measured) -> None:
        if not math.isfinite(measured.evaluations):
            return
        memory = 0.0 if math.isnan(self._mean) else self._MEMORY
        kept = 0.0 if memory == 0.0 else memory * self._mean
        self._mean = kept + (1.0 - memory) * measured.evaluations
        if math.isnan(self._found):
            if measured.progress < self.free:
                return
            self._found = self._mean
        excess = self._mean / (self.ratio * self._found) - 1.0
        if self._value > 0.0:
            self._value *= math.exp(self.rate * min(excess, 1.0))
        elif excess > 0.0:
            self._value = measured.weight_for(self._FIRST) or 0.0
        self._bound(measured)

    def _bound(self, measured: Measured) -> None:
        least = measured.weight_for(self._LEAST)
        most = measured.weight_for(self._MOST)
        if least is not None and most is not None:
            self._least, self._most = least, most
        if self._value > 0.0 and not math.isnan(self._least):
            self._value = min(max(self._value, self._least), self._most)

    def state(self) -> WeightState:
        return {
            "value": self._value,
            "reference": self._found,
            "mean": self._mean,
            "least": self._least,
            "most": self._most,
        }

    def restore(self, state: WeightState) -> None:
        self._value, self._found, self._mean, self._least, self._most = _values(
            state, self.state()
        )


def _check_inside(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")


def _values(state: WeightState, own: WeightState) -> list[float]:
    """The numbers of a state in the order of `own`."""
    if state.keys() != own.keys():
        raise ValueError(
            f"this weight has the state {list(own)}, received {list(state)}; restore "
            "it to the kind of weight that it was saved from"
        )
    return [float(state[name]) for name in own]
