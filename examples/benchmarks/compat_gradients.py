"""Time and gradient error of `odeint_adjoint`, of nde.compat and of torchdiffeq.

    python examples/benchmarks/compat_gradients.py --rounds 21

One training step, forward and backward, of a tanh MLP dim-width-dim by dopri5 from 0 to
2, with the loss at the end ("times" 1) or at ten times, at atol = rtol / 100.
torchdiffeq goes back as it does by default, or with its seminorm. Calls are those of
the field, there and back. Errors are of the gradients in y0 and all weights together,
relative to those in float64 at rtol 1e-11 by `odeint`. All take turns on one thread; a
ratio is the median over the rounds of nde's processor time over that of the other in
the same round: below 1, nde is faster.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn
from turns import clock

import nde.compat.torchdiffeq as compat

SEMINORM = {"adjoint_options": {"norm": "seminorm"}}
# Name of a column -> function, and arguments of its own.
CONTENDERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "nde": (compat.odeint_adjoint, {}),
    "torchdiffeq": (torchdiffeq.odeint_adjoint, {}),
    "seminorm": (torchdiffeq.odeint_adjoint, SEMINORM),
}
Size = tuple[int, int, int]
# Dimensions, width of the network, batch.
SIZES: tuple[Size, ...] = ((2, 50, 1), (2, 50, 64), (16, 64, 1), (16, 64, 64))


class Field(nn.Module):
    """An MLP of the state that counts its calls."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, width), nn.Tanh(), nn.Linear(width, dim)
        )
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.net(y)


@dataclass(frozen=True)
class Step:
    """A training step of one size."""

    field: Field
    y0: Tensor
    times: int

    def to(self, dtype: torch.dtype) -> Step:
        """The same in another precision."""
        return Step(deepcopy(self.field).to(dtype), self.y0.to(dtype), self.times)

    def gradients(self, odeint: Any, **settings: Any) -> Tensor:
        """Of the mean square at the times that are looked at, all in one."""
        self.field.zero_grad()
        y0 = self.y0.clone().requires_grad_()
        t = torch.linspace(0.0, 2.0, 1 + self.times, dtype=y0.dtype)
        ys = odeint(self.field, y0, t, method="dopri5", **settings)
        ys[1:].square().mean().backward()
        weights = self.field.parameters()
        grads = [y0.grad, *(p.grad for p in weights)]
        return torch.cat([grad.reshape(-1) for grad in grads if grad is not None])


def step(dim: int, width: int, batch: int, times: int) -> Step:
    """Always the same weights and states for a size."""
    torch.manual_seed(0)
    return Step(Field(dim, width), torch.randn(batch, dim), times)


def measure(
    work: Step, dtype: torch.dtype, rtol: float, rounds: int
) -> tuple[dict[str, int], dict[str, float], float, list[float]]:
    """Calls and errors, nde's median seconds, and its ratios to the others'."""
    exact = work.to(torch.float64).gradients(compat.odeint, rtol=1e-11, atol=1e-13)
    work = work.to(dtype)
    runs: dict[str, Callable[[], Tensor]] = {
        name: partial(work.gradients, odeint, rtol=rtol, atol=1e-2 * rtol, **own)
        for name, (odeint, own) in CONTENDERS.items()
    }
    calls, errors = {}, {}
    for name, run in runs.items():
        work.field.calls = 0
        errors[name] = float((run().double() - exact).norm() / exact.norm())
        calls[name] = work.field.calls
    taken = [[clock(run, "cpu") for run in runs.values()] for _ in range(rounds)]
    ratios = [
        statistics.median(turn[0] / turn[other] for turn in taken)
        for other in range(1, len(runs))
    ]
    return calls, errors, statistics.median(turn[0] for turn in taken), ratios


HEAD = (
    *("dtype", "dim", "batch", "times", "rtol"),
    *(f"calls, {name}" for name in CONTENDERS),
    *(f"error, {name}" for name in CONTENDERS),
    *("ms, nde", "x torchdiffeq", "x seminorm"),
)


def rows(rounds: int, rtols: Sequence[float], sizes: Sequence[Size]) -> list[list[str]]:
    """Rows of the table."""
    found = []
    cases = product((torch.float32, torch.float64), sizes, (1, 10), rtols)
    for dtype, size, times, rtol in cases:
        calls, errors, seconds, ratios = measure(
            step(*size, times), dtype, rtol, rounds
        )
        found.append(
            [
                str(dtype).removeprefix("torch."),
                *(str(n) for n in (size[0], size[2], times)),
                f"{rtol:.0e}",
                *(str(n) for n in calls.values()),
                *(f"{error:.1e}" for error in errors.values()),
                f"{seconds * 1e3:.1f}",
                *(f"{ratio:.2f}" for ratio in ratios),
            ]
        )
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--rtol", type=float, nargs="+", default=[1e-3, 1e-6])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, torchdiffeq {torchdiffeq.__version__}")
    for row in (HEAD, ("---",) * len(HEAD), *rows(asked.rounds, asked.rtol, SIZES)):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
