"""Methods for SDEs driven step by step along one Brownian path on several grids."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nde.solvers import BrownianGrid, SDETerm
from nde.solvers.bound import BoundSDE, bind
from nde.solvers.brownian import BrownianIncrement
from nde.solvers.state import structure_of
from nde.solvers.stochastic import StochasticMethod
from nde.solvers.term import Layout
from nde.solvers.types import Increment, StepOut


@dataclass(frozen=True)
class Path:
    """W, H and A over equal steps, tensors `(steps, batch, ...)`."""

    h: float
    over: BrownianIncrement

    @property
    def steps(self) -> int:
        return self.over.w.shape[0]

    def joined(self) -> "Path":
        """The same path on steps twice as long."""
        left, right = (self.over.map(lambda x, i=i: x[i::2]) for i in (0, 1))
        h = a = None
        if left.levy is not None:
            h = (left.levy + right.levy) / 2 + (left.w - right.w) / 4
        if left.area is not None:
            outer = left.w[..., :, None] * right.w[..., None, :]
            a = left.area + right.area + (outer - outer.mT) / 2
        over = BrownianIncrement(left.w + right.w, h, a)
        return Path(2 * self.h, over)

    def on(self, steps: int) -> "Path":
        """The same path on so many steps."""
        return self if self.steps == steps else self.joined().on(steps)

    def increment(self, j: int, h: float | Tensor | None = None) -> Increment:
        """What drives step j; `h` as another form of its length."""
        o = self.over
        levy = None if o.levy is None else o.levy[j]
        area = None if o.area is None else o.area[j]
        return Increment(self.h if h is None else h, o.w[j], levy, area, index=j)


def brownian_path(
    steps: int, batch: int, m: int, seed: int, device: torch.device | str = "cpu"
) -> Path:
    """A path on [0, 1], with everything that a method can ask for."""
    h = torch.full((steps,), 1.0 / steps, dtype=torch.float64, device=device)
    drawn = BrownianGrid(seed).increments(h, (batch, m), torch.float64, "area")
    return Path(1.0 / steps, drawn)


def bound(term: SDETerm, y0: Tensor, *, shared: bool = False) -> BoundSDE:
    """A term in engine layout, one time for all samples."""
    layout = Layout(structure_of(y0), shared, reverse=False, common=not shared)
    found = bind(term, layout)
    assert isinstance(found, BoundSDE)
    return found


def one_step(
    method: StochasticMethod,
    term: BoundSDE,
    y: Tensor,
    t: float | Tensor,
    inc: Increment,
) -> StepOut:
    """A first step from `y (rows, dim)`."""
    now = torch.as_tensor(t, dtype=y.dtype, device=y.device)
    return method.step(term, t, y, inc, method.start(term, now, y), None)


def driven(method: StochasticMethod, term: SDETerm, y0: Tensor, path: Path) -> Tensor:
    """The state at the end of a path."""
    bound_term = bound(term, y0)
    path = Path(path.h, bound_term.driven(path.over))
    y, carry = y0, method.start(bound_term, y0.new_zeros(()), y0)
    for j in range(path.steps):
        inc = path.increment(j)
        out = method.step(bound_term, j * path.h, y, inc, carry, None)
        y, carry = out.y1, out.carry
    return y
