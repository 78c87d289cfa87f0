"""Gradient error, time and memory of the adjoints, as ratios to Direct.

    python examples/benchmarks/adjoints.py --rounds 3 --steps 20 200

Three equations of one batch: an MLP field of 64 dimensions, a field of convolutions on
8 x 8 images, both by `midpoint` on fixed steps, and a Langevin-type SDE with additive
noise by `heun`. The loss looks at the state at four times. `Reversible` goes with the
reversible form of each method: `McCallumFoster("midpoint")`, `reversible_heun`;
its ratios are to Direct on the same method. Errors are of all gradients together
against Direct, in float64; times are CPU times of forward and backward pass in turns,
peaks what live tensors hold at most beyond what was there before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from turns import medians

from nde.audit.memory import LiveBytes
from nde.solvers import (
    Backsolve,
    Direct,
    FixedSteps,
    McCallumFoster,
    ODETerm,
    Recompute,
    Reversible,
    SDETerm,
    solve,
)

F64 = torch.float64
BATCH, DIM = 32, 64


@dataclass(frozen=True)
class Case:
    """An equation with its weights; methods as it is solved, and reversibly."""

    name: str
    term: ODETerm | SDETerm
    weights: tuple[Tensor, ...]
    y0: Tensor
    method: object
    reversible: object

    def gradients(self, method: object, adjoint: object, steps: int) -> list[Tensor]:
        """Of a loss on the state at four times."""
        sol = solve(
            self.term,
            self.y0,
            torch.linspace(0.0, 1.0, 5, dtype=F64),
            method=method,
            controller=FixedSteps(1.0 / steps),
            adjoint=adjoint,
            noise=3 if isinstance(self.term, SDETerm) else None,
            max_steps=10_000,
        )
        loss = sol.ys[:, 1:].square().mean()
        return list(torch.autograd.grad(loss, (self.y0, *self.weights)))


def cases() -> list[Case]:
    """The equations, of which weights and states are always the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh(), nn.Linear(DIM, DIM)).to(F64)
    images = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1)
    ).to(F64)
    drift = nn.Sequential(nn.Linear(DIM, DIM), nn.SiLU(), nn.Linear(DIM, DIM)).to(F64)
    size = nn.Parameter(torch.full((DIM,), 0.3, dtype=F64))
    pair = McCallumFoster("midpoint")
    flat = torch.randn(BATCH, DIM, dtype=F64).requires_grad_()
    image = torch.randn(BATCH // 4, 4, 8, 8, dtype=F64).requires_grad_()
    langevin = SDETerm(
        lambda t, y: torch.tanh(drift(y)) - y,
        lambda t, y: (1.0 + 0.5 * t.cos()) * size.expand_as(y),
        interpretation="stratonovich",
    )
    return [
        Case(
            "MLP",
            ODETerm(lambda t, y: net(y)),
            tuple(net.parameters()),
            flat,
            "midpoint",
            pair,
        ),
        Case(
            "CNN",
            ODETerm(lambda t, y: images(y)),
            tuple(images.parameters()),
            image,
            "midpoint",
            pair,
        ),
        Case(
            "LSDE",
            langevin,
            (size, *drift.parameters()),
            flat,
            "heun",
            "reversible_heun",
        ),
    ]


def variants(case: Case) -> dict[str, tuple[object, object]]:
    """Method and adjoint of each row; what is reversible has a Direct of its own."""
    return {
        "Direct": (case.method, Direct()),
        "Recompute": (case.method, Recompute()),
        "Recompute, sqrt": (case.method, Recompute(states="sqrt")),
        "Recompute, log": (case.method, Recompute(states="log")),
        "Backsolve": (case.method, Backsolve()),
        "Direct, reversible": (case.reversible, Direct()),
        "Reversible": (case.reversible, Reversible()),
    }


def peak(call: Callable[[], object]) -> int:
    """Bytes."""
    with LiveBytes() as live:
        call()
    return live.peak


def error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Relative, of all together."""
    off = sum((a - b).square().sum() for a, b in zip(found, wanted, strict=True))
    return float((off / sum(b.square().sum() for b in wanted)).sqrt())


def table(steps: list[int], rounds: int, only: list[str]) -> list[list[str]]:
    """Rows of the table."""
    rows = []
    for case in cases():
        if case.name not in only:
            continue
        for count in steps:
            calls: dict[str, Callable[[], list[Tensor]]] = {
                name: partial(case.gradients, method, adjoint, count)
                for name, (method, adjoint) in variants(case).items()
            }
            for call in calls.values():
                call()
            times = medians(calls, rounds, "cpu")
            peaks = {name: peak(call) for name, call in calls.items()}
            for name, call in calls.items():
                base = "Direct, reversible" if "ever" in name else "Direct"
                rows.append(
                    [
                        case.name,
                        str(count),
                        name,
                        f"{error(call(), calls[base]()):.0e}",
                        f"{times[name] / count * 1e3:.2f}",
                        f"{times[name] / times[base]:.2f}",
                        f"{peaks[name] / 2**20:.2f}",
                        f"{peaks[name] / peaks[base]:.3f}",
                    ]
                )
    return rows


HEAD = (
    "field",
    "steps",
    "adjoint",
    "error",
    "ms a step",
    "x Direct",
    "peak MB",
    "x Direct",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 200, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=["MLP", "CNN", "LSDE"],
        default=["MLP", "CNN", "LSDE"],
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, float64, one thread")
    for row in (
        HEAD,
        ("---",) * len(HEAD),
        *table(asked.steps, asked.rounds, asked.only),
    ):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
