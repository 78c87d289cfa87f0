"""What the coupling of McCallumFoster costs: steps, errors, and exactness of gradients.

    python examples/benchmarks/couplings.py --steps 20 200 2000 --rtol 1e-3 1e-6

Four fields of four dimensions: a tanh MLP alone, to t = 1; with larger weights, to 5;
with contraction, as net(y) - y, to 5; and two oscillators, to 20. By `midpoint` on
fixed steps, and by `tsit5` on adaptive ones at atol = rtol / 100, at most 8,192. A cell
reads: accepted steps where they adapt; relative error of the gradients in y0 and all
weights against float64 at rtol 1e-11; and after the bar how far those by `Reversible`
are from those of `Recompute` on the same steps. "alone" is the method without a pair.
"""

from __future__ import annotations

import argparse
import warnings
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nde.solvers import (
    PID,
    Direct,
    FixedSteps,
    McCallumFoster,
    ODETerm,
    Recompute,
    Reversible,
    SolveError,
    solve,
)

F32, F64 = torch.float32, torch.float64
COUPLINGS = (1.0, 0.999, 0.99, 0.9, 0.5)
MOST = 8192


class Network(nn.Module):
    """A tanh MLP, less a multiple of the state."""

    def __init__(self, scale: float, rate: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 4))
        self.rate = rate
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(scale)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y) - self.rate * y


class Oscillators(nn.Module):
    """One twice as fast as the other."""

    def __init__(self) -> None:
        super().__init__()
        self.speed = nn.Parameter(torch.ones(()))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        turn = torch.stack((y[:, 1], -y[:, 0], 2.0 * y[:, 3], -2.0 * y[:, 2]), 1)
        return self.speed * turn


@dataclass(frozen=True)
class Case:
    """A field, and how far to go."""

    name: str
    field: nn.Module
    end: float

    def gradients(
        self, method: object, controller: object, adjoint: object, dtype: torch.dtype
    ) -> tuple[Tensor, int]:
        """Of the mean square at the end, all in one; and the accepted steps."""
        field = deepcopy(self.field).to(dtype)
        torch.manual_seed(1)
        y0 = torch.randn(8, 4).to(dtype).requires_grad_()
        sol = solve(
            ODETerm(field),
            y0,
            torch.tensor([0.0, self.end], dtype=dtype),
            method=method,
            controller=controller,
            adjoint=adjoint,
            max_steps=MOST,
        )
        inputs = (y0, *field.parameters())
        grads = torch.autograd.grad(sol.final.square().mean(), inputs)
        whole = torch.cat([grad.reshape(-1) for grad in grads]).double()
        return whole, int(sol.stats.accepted.max())


def cases() -> list[Case]:
    """The fields."""
    return [
        Case("MLP", Network(1.0, 0.0), 1.0),
        Case("larger MLP", Network(2.5, 0.0), 5.0),
        Case("MLP - y", Network(1.0, 1.0), 5.0),
        Case("oscillators", Oscillators(), 20.0),
    ]


def off(found: Tensor, wanted: Tensor) -> str:
    """Relative distance."""
    return f"{float((found - wanted).norm() / wanted.norm()):.0e}"


def row(
    case: Case, dtype: torch.dtype, base: str, controller: FixedSteps | PID
) -> list[str]:
    """Cells of the method alone, and of each coupling."""
    exact, _ = case.gradients("dopri8", PID(1e-11, 1e-13), Direct(), F64)
    alone, count = case.gradients(base, controller, Direct(), dtype)
    adapts = isinstance(controller, PID)
    cells = [f"{count}, {off(alone, exact)}" if adapts else off(alone, exact)]
    for coupling in COUPLINGS:
        method = McCallumFoster(base, coupling)
        try:
            found, count = case.gradients(method, controller, Reversible(), dtype)
        except SolveError:
            cells.append(f"> {MOST}")
            continue
        kept, _ = case.gradients(method, controller, Recompute(), dtype)
        steps = f"{count}, " if adapts else ""
        cells.append(f"{steps}{off(found, exact)} \\| {off(found, kept)}")
    return cells


def table(chosen: list[Case], steps: list[int], rtols: list[float]) -> list[list[str]]:
    """Rows: fixed steps, then adaptive ones."""
    rows = []
    for case in chosen:
        for dtype in (F64, F32):
            head = [case.name, str(dtype).removeprefix("torch.")]
            for count in steps:
                grid = FixedSteps(case.end / count)
                rows.append(
                    [*head, f"{count} steps", *row(case, dtype, "midpoint", grid)]
                )
            for rtol in rtols:
                adaptive = PID(rtol, 1e-2 * rtol)
                rows.append(
                    [*head, f"rtol {rtol:.0e}", *row(case, dtype, "tsit5", adaptive)]
                )
    return rows


HEAD = ("field", "dtype", "steps", "alone", *(f"{c:g}" for c in COUPLINGS))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 200, 2000])
    parser.add_argument("--rtol", type=float, nargs="+", default=[1e-3, 1e-6])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    # What solves say of couplings that do not suit them.
    warnings.simplefilter("ignore", UserWarning)
    for line in (
        HEAD,
        ("---",) * len(HEAD),
        *table(cases(), asked.steps, asked.rtol),
    ):
        print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
