"""Time of nde.compat.torchdiffeq over that of torchdiffeq, for the same calls.

    python examples/benchmarks/compat_torchdiffeq.py --rounds 21

Workloads: A, a small neural ODE (MLP 4-64-64-4, tanh, with time; batch 128, float32,
dopri5 at 1e-6, to t = 1); spiral, the two-dimensional neural ODE of torchdiffeq's
tutorial (MLP on y^3, batch 20, ten output times, default tolerances). Forward without
gradients, and forward with backward, of `odeint` and `odeint_adjoint`. The two packages
take turns; medians over the rounds are shown, and their ratio: below 1, nde is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

import nde.compat.torchdiffeq as compat


class WithTime(nn.Module):
    """tanh MLP 4-64-64-4 whose first layer also sees the time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 64)
        self.time = nn.Parameter(torch.randn(64) * 0.3)
        self.rest = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.rest(torch.tanh(self.first(y) + t * self.time))


class Cubes(nn.Module):
    """An MLP of y^3, near a spiral at first."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.net(y**3)


@dataclass(frozen=True)
class Workload:
    """One call of odeint."""

    name: str
    field: Any
    y0: Tensor
    t: Tensor
    settings: dict[str, Any]

    def run(self, odeint: Callable[..., Tensor], backward: bool) -> None:
        """One solve, with or without gradients."""
        if not backward:
            with torch.no_grad():
                odeint(self.field, self.y0, self.t, **self.settings)
            return
        y0 = self.y0.clone().requires_grad_()
        odeint(self.field, y0, self.t, **self.settings).square().sum().backward()


def workloads() -> list[Workload]:
    """The problems."""
    torch.manual_seed(0)
    strict = {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}
    ends = torch.tensor([0.0, 1.0])
    spiral = torch.randn(20, 1, 2)
    return [
        Workload("A", WithTime(), torch.randn(128, 4), ends, strict),
        Workload("spiral", Cubes(), spiral, torch.linspace(0.0, 0.25, 10), {}),
    ]


def measure(work: Workload, name: str, backward: bool, rounds: int) -> None:
    """Print one row: both packages by turns."""
    both = [getattr(package, name) for package in (compat, torchdiffeq)]
    calls = []
    for odeint in both:
        work.run(odeint, backward)
        work.field.calls = 0
        work.run(odeint, backward)
        calls.append(work.field.calls)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for odeint, taken in zip(both, times, strict=True):
            start = time.perf_counter()
            work.run(odeint, backward)
            taken.append(time.perf_counter() - start)
    ours, theirs = (1e3 * statistics.median(taken) for taken in times)
    direction = "forward+backward" if backward else "forward"
    print(
        f"| {work.name} | {name} | {direction} | {calls[0]} | {calls[1]} "
        f"| {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, torchdiffeq {torchdiffeq.__version__}, CPU")
    print(
        "| workload | function | direction | calls, nde | calls, torchdiffeq ", end=""
    )
    print("| ms, nde | ms, torchdiffeq | ratio |\n|---|---|---|--:|--:|--:|--:|--:|")
    for work in workloads():
        for name in ("odeint", "odeint_adjoint"):
            for backward in (False, True):
                measure(work, name, backward, options.rounds)


if __name__ == "__main__":
    main()
