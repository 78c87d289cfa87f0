"""Problems with known solutions, shared by the tests of solvers and regularizers.

Every field takes `t` 0-dim or `(batch,)` and `y` `(batch, dim)`, as a user's would.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Factory arguments of a tensor.
KIND = dict[str, torch.dtype | torch.device]
Field = Callable[[Tensor, Tensor], Tensor]


def column(t: Tensor) -> Tensor:
    """`t`, 0-dim or `(batch,)`, as `(1, 1)` or `(batch, 1)`: ready to meet a state."""
    return t.reshape(-1, 1)


@dataclass(frozen=True)
class Problem:
    """An initial value problem; `exact(t, y0)` maps `(batch or 1, T)` and
    `(batch, dim)` to `(batch, T, dim)`, for states that start at `t0`."""

    name: str
    field: Field
    exact: Callable[[Tensor, Tensor], Tensor]
    start: tuple[tuple[float, ...], ...]
    t0: float
    t1: float

    def y0(self, **kind: torch.dtype | torch.device) -> Tensor:
        """The starting states, `(batch, dim)`."""
        return torch.tensor(self.start, **kind)

    def ts(self, count: int, **kind: torch.dtype | torch.device) -> Tensor:
        """`count` equal output times from t0 to t1, `(count,)`."""
        return torch.linspace(self.t0, self.t1, count, **kind)

    def solution(self, ts: Tensor, y0: Tensor) -> Tensor:
        """The exact states `(batch, T, dim)` at `ts`, `(T,)` or `(batch, T)`."""
        return self.exact(ts if ts.ndim == 2 else ts[None], y0)


def _decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def _decay_exact(t: Tensor, y0: Tensor) -> Tensor:
    return y0[:, None] * torch.exp(-t)[..., None]


def _oscillator(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack((y[:, 1], -y[:, 0]), -1)


def _oscillator_exact(t: Tensor, y0: Tensor) -> Tensor:
    c, s = t.cos()[..., None], t.sin()[..., None]
    swapped = torch.stack((y0[:, 1], -y0[:, 0]), -1)
    return c * y0[:, None] + s * swapped[:, None]


def _quadratic(t: Tensor, y: Tensor) -> Tensor:
    return -2 * column(t) * y * y


def _quadratic_exact(t: Tensor, y0: Tensor) -> Tensor:
    return 1 / (1 / y0[:, None] + (t * t)[..., None])


def _spiral(t: Tensor, y: Tensor) -> Tensor:
    t = column(t)
    growth = (1 - (y * y).sum(-1, keepdim=True)) * t.cos()
    return growth * y + (1 + t / 2) * torch.stack((-y[:, 1], y[:, 0]), -1)


def _spiral_exact(t: Tensor, y0: Tensor) -> Tensor:
    # In polar form: r' = r (1 - r^2) cos t and angle' = 1 + t / 2.
    square = (y0 * y0).sum(-1)[:, None]
    radius = (1 + (1 / square - 1) * torch.exp(-2 * t.sin())).rsqrt()
    angle = torch.atan2(y0[:, 1], y0[:, 0])[:, None] + t + t * t / 4
    return torch.stack((radius * angle.cos(), radius * angle.sin()), -1)


DECAY = Problem("decay", _decay, _decay_exact, ((1.0,), (-2.0,)), 0.0, 2.0)
OSCILLATOR = Problem(
    "oscillator",
    _oscillator,
    _oscillator_exact,
    ((1.0, 0.0), (0.3, -0.8), (0.0, 2.0)),
    0.0,
    3.0,
)
QUADRATIC = Problem(
    "quadratic", _quadratic, _quadratic_exact, ((1.0, 0.5), (0.3, 2.0)), 0.0, 1.5
)
SPIRAL = Problem(
    "spiral",
    _spiral,
    _spiral_exact,
    ((0.3, 0.1), (-0.4, 0.5), (0.2, -0.9)),
    0.0,
    2.0,
)
PROBLEMS = (DECAY, OSCILLATOR, QUADRATIC, SPIRAL)


class TimedMLP(nn.Module):
    """A small tanh network of state and time, with fixed, seeded weights.

    A `gain` above 1 makes it livelier, so that errors stand clear of rounding.
    """

    def __init__(
        self, dim: int, width: int = 16, seed: int = 0, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.inner = nn.Linear(dim + 1, width)
        self.outer = nn.Linear(width, dim)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                size = gain / width**0.5
                p.copy_(size * torch.randn(p.shape, generator=generator))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        t = column(t).expand(y.shape[0], 1)
        return self.outer(torch.tanh(self.inner(torch.cat((y, t), -1))))


def normal(
    shape: tuple[int, ...], seed: int, **kind: torch.dtype | torch.device
) -> Tensor:
    """Standard normal numbers that are the same on every device, of `shape`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(**kind)
