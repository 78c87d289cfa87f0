"""All that the regularizers of a layer do to one solve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nde.regularizers.base import Draw, Regularizer, draw
from nde.regularizers.end_time import EndTime
from nde.regularizers.integral import IntegralRegularizer, Integrals
from nde.regularizers.weight import weight_at
from nde.solvers import Solution
from nde.solvers.state import State, structure_of
from nde.solvers.term import Term

AnyRegularizer = Regularizer | IntegralRegularizer | EndTime


@dataclass(frozen=True)
class Applied:
    """What was drawn for one solve.

    `ts` to solve for, `probe_times` to read besides, see `Draw`.
    """

    ts: Tensor
    draw: Draw
    integrals: Integrals | None

    @property
    def probe_times(self) -> Tensor | None:
        """What to pass to `solve`."""
        return self.draw.probe_times

    def beside(self, term: Term) -> Term:
        """The term to solve. Raises ValueError for an integral along an SDE."""
        return term if self.integrals is None else self.integrals.beside(term)

    def penalties(self, solution: Solution) -> dict[str, Tensor]:
        """Each penalty by name, without its weight."""
        found = self.draw.penalties(solution)
        if self.integrals is not None:
            found |= self.integrals.penalties(solution)
        return found

    def weights(self, progress: float) -> dict[str, float]:
        """Each penalty's weight when `progress` in [0, 1] of the training is done."""
        priced: list[Regularizer | IntegralRegularizer] = [*self.draw.regularizers]
        if self.integrals is not None:
            priced += self.integrals.regularizers
        return {one.name: weight_at(one.weight, progress) for one in priced}


def apply(
    regularizers: Sequence[AnyRegularizer], y0: State, ts: Tensor, *, one_row: bool
) -> Applied:
    """Let each regularizer draw what it needs for a solve from `y0` at times `ts`.

    `one_row` where the batch shares its steps. Random numbers come from torch's global
    generator. Raises TypeError for what is no regularizer, ValueError if two share a
    name.
    """
    ends = [one for one in regularizers if isinstance(one, EndTime)]
    others = [one for one in regularizers if not isinstance(one, EndTime)]
    along = [one for one in others if isinstance(one, IntegralRegularizer)]
    after = [one for one in others if not isinstance(one, IntegralRegularizer)]
    for one in after:
        if not hasattr(one, "times"):
            raise TypeError(
                f"{one!r} is no regularizer; give it the members of Regularizer, "
                "IntegralRegularizer or EndTime of nde.regularizers"
            )
    names = [regularizer.name for regularizer in regularizers]
    if len(set(names)) < len(names):
        raise ValueError(f"regularizers {names} share a name; give each once")
    for end in ends:
        ts = end.moved(ts)
    structure = structure_of(y0)
    rows = 1 if one_row else structure.batch
    t0, t1 = (ts[..., place].detach().double().expand(rows) for place in (0, -1))
    integrals = None
    if along:
        like = structure.flatten(y0, "y0").detach()
        integrals = Integrals(tuple(along), tuple(one.noise(like) for one in along))
    return Applied(ts, draw(after, t0, t1), integrals)
