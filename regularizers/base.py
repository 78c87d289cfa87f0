"""What a regularizer is, and how several are applied to one solve.

A regularizer may ask for times before the solve, and turns the solution into one number
after it. To write your own, give a class these members; it need not inherit anything.
Integrals along the solution and moved end times are kinds of their own, see `integral`
and `end_time`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nde.regularizers.weight import Weight, weight_at
from nde.solvers import Solution
from nde.solvers.controller import ErrorScale
from nde.solvers.state import State, map_tensors


class Regularizer(Protocol):
    """A penalty on what a solve costs.

    One that reads recorded errors may also have `scale`, "attached", "detached" or
    None, for how a layer is to solve: the `error_scale` of the controller.
    """

    @property
    def name(self) -> str:
        """As it appears in logs and on the command line."""

    @property
    def weight(self) -> Weight:
        """Factor of the penalty in the loss."""

    def times(self, t0: Tensor, t1: Tensor) -> Tensor | None:
        """Times at which it wants the state, in [t0, t1), or None.

        `t0`, `t1` `(rows,)`: one row per sample, or one where the batch shares its
        steps. Returns `(rows, k)`.
        """

    def __call__(
        self, solution: Solution, times: Tensor | None, states: State | None
    ) -> Tensor:
        """The penalty, 0-dim: the mean over the batch.

        `times (rows, k)` are those it asked for, `states` the solution there, leaves
        `(batch, k, ...)`.
        """


@dataclass(frozen=True)
class Draw:
    """The times that several regularizers drew for one solve."""

    regularizers: tuple[Regularizer, ...]
    times: tuple[Tensor | None, ...]

    @property
    def probe_times(self) -> Tensor | None:
        """What to pass to `solve`: `(batch, k)`, or `(k,)` for a shared batch."""
        wanted = [times for times in self.times if times is not None]
        if not wanted:
            return None
        probes = torch.cat(wanted, dim=1)
        return probes[0] if probes.shape[0] == 1 else probes

    @property
    def error_scale(self) -> ErrorScale | None:
        """What regularizers ask of `error_scale` of the controller; None if nothing.

        Raises ValueError if they ask for both.
        """
        asked = [getattr(one, "scale", None) for one in self.regularizers]
        scales: list[ErrorScale] = [scale for scale in asked if scale is not None]
        if len(set(scales)) > 1:
            raise ValueError(
                "one regularizer has scale='attached' and another scale='detached', "
                "but a solve records errors in one way; give all of them the same"
            )
        return scales[0] if scales else None

    def penalties(self, solution: Solution) -> dict[str, Tensor]:
        """Each regularizer's value, by name, without its weight."""
        values = {}
        first = 0
        for regularizer, times in zip(self.regularizers, self.times, strict=True):
            states = None
            if times is not None:
                last = first + times.shape[1]
                states = _between(solution.probes, first, last)
                first = last
            values[regularizer.name] = regularizer(solution, times, states)
        return values

    def total(self, penalties: dict[str, Tensor], progress: float) -> Tensor:
        """The weighted sum, for a training of which `progress` in [0, 1] is done."""
        parts = [
            penalties[regularizer.name] * weight_at(regularizer.weight, progress)
            for regularizer in self.regularizers
        ]
        return torch.stack(parts).sum() if parts else torch.zeros(())


def draw(regularizers: Sequence[Regularizer], t0: Tensor, t1: Tensor) -> Draw:
    """Let each regularizer draw its times for a solve from `t0` to `t1` `(rows,)`.

    Random numbers come from torch's global generator. Raises ValueError if two share a
    name.
    """
    names = [regularizer.name for regularizer in regularizers]
    if len(set(names)) < len(names):
        raise ValueError(f"regularizers {names} share a name; give each once")
    return Draw(
        tuple(regularizers),
        tuple(regularizer.times(t0, t1) for regularizer in regularizers),
    )


def _between(probes: State, first: int, last: int) -> State:
    return map_tensors(lambda leaf: leaf[:, first:last], probes)
