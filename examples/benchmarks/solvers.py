"""Solve time as a ratio to its floor, beside torchdiffeq.

The floor of a run is the number of vector-field calls it made times the cost of one
call, forward, or forward and backward through a chain of as many calls. Everything
beyond it is the solver. Variants take turns, and medians over the rounds are shown.

    python examples/benchmarks/solvers.py --rounds 5

Workloads: A, a small neural ODE (MLP 4-64-64-4, tanh, with time; batch 128, float32,
dopri5 at 1e-6); A8, the same at batch 8; C, 1,000 Van der Pol oscillators with mu
log-uniform in 0.5 to 20 (float64, tsit5 at 1e-6, to t = 10), where samples differ much
in the steps they need. torchdiffeq is skipped with a line if it is not installed; its
release has no tsit5, so it takes dopri5 on C.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nde.solvers import PID, Direct, ODETerm, Recompute, solve


class Counted(nn.Module):
    """A field that counts its calls; both solvers see the same one."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.field(t, y)


class Perceptron(nn.Module):
    """tanh MLP 4-64-64-4 whose first layer also sees the time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 64)
        self.time = nn.Parameter(torch.randn(64) * 0.3)
        self.rest = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        clock = t.unsqueeze(-1) * self.time
        return self.rest(torch.tanh(self.first(y) + clock))


class VanDerPol(nn.Module):
    """x'' = mu (1 - x^2) x' - x, one mu per sample."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        logs = torch.linspace(0.0, 1.0, batch, dtype=torch.float64)
        self.register_buffer("mu", 0.5 * 40.0**logs)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, self.mu * (1.0 - x * x) * v - x], dim=-1)


@dataclass(frozen=True)
class Workload:
    """One initial value problem."""

    name: str
    field: Counted
    y0: Tensor
    t1: float
    method: str
    tolerance: float
    batch: str


def workloads(device: str) -> list[Workload]:
    """The problems, on a device."""
    torch.manual_seed(0)
    net = Perceptron().to(device)
    y128 = torch.randn(128, 4, device=device)
    y_vdp = torch.tensor([2.0, 0.0], dtype=torch.float64, device=device)
    return [
        Workload("A", Counted(net), y128, 1.0, "dopri5", 1e-6, "shared"),
        Workload("A8", Counted(net), y128[:8], 1.0, "dopri5", 1e-6, "shared"),
        Workload("A", Counted(net), y128, 1.0, "dopri5", 1e-6, "per_sample"),
        Workload(
            "C",
            Counted(VanDerPol(1000).to(device)),
            y_vdp.expand(1000, 2).contiguous(),
            10.0,
            "tsit5",
            1e-6,
            "per_sample",
        ),
    ]


def ours(work: Workload, adjoint: Direct | Recompute) -> Callable[[Tensor], Tensor]:
    """A solve with nde."""
    ts = torch.tensor([0.0, work.t1], dtype=work.y0.dtype, device=work.y0.device)
    controller = PID(rtol=work.tolerance, atol=work.tolerance)

    def run(y0: Tensor) -> Tensor:
        solution = solve(
            ODETerm(work.field),
            y0,
            ts,
            method=work.method,
            controller=controller,
            adjoint=adjoint,
            batch=work.batch,
            max_steps=100_000,
        )
        return solution.final

    return run


def theirs(work: Workload) -> Callable[[Tensor], Tensor]:
    """A solve with torchdiffeq, backpropagating through the solver."""
    from torchdiffeq import odeint

    ts = torch.tensor([0.0, work.t1], dtype=work.y0.dtype, device=work.y0.device)

    def run(y0: Tensor) -> Tensor:
        return odeint(
            work.field,
            y0,
            ts,
            rtol=work.tolerance,
            atol=work.tolerance,
            method="dopri5",
        )[-1]

    return run


def clock(action: Callable[[], object], device: str) -> float:
    """Seconds of one run."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def step(work: Workload, run: Callable[[Tensor], Tensor], backward: bool) -> None:
    """One run, with or without gradients."""
    if not backward:
        with torch.no_grad():
            run(work.y0)
        return
    run(work.y0.clone().requires_grad_()).square().sum().backward()


def chain(work: Workload, calls: int, backward: bool) -> Callable[[], None]:
    """The floor: as many field calls as a solve makes, one after another."""
    t = torch.zeros(len(work.y0), dtype=work.y0.dtype, device=work.y0.device)

    def run(y: Tensor) -> Tensor:
        for _ in range(calls):
            y = work.field.field(t, y)
            if isinstance(work.field.field, VanDerPol):
                y = y.clamp(-3.0, 3.0) if backward else y.clamp_(-3.0, 3.0)
        return y

    return lambda: step(work, run, backward)


def measure(work: Workload, backward: bool, rounds: int, device: str) -> None:
    """Print one row per variant."""
    variants = {"nde direct" if backward else "nde": ours(work, Direct())}
    if backward:
        variants["nde recompute"] = ours(work, Recompute())
    if importlib.util.find_spec("torchdiffeq"):
        variants["torchdiffeq"] = theirs(work)
    calls, times = {}, {name: [] for name in variants}
    floors = {name: [] for name in variants}
    for name, run in variants.items():
        work.field.calls = 0
        with torch.no_grad():
            run(work.y0)
        calls[name] = work.field.calls
        step(work, run, backward)
    for _ in range(rounds):
        for name, run in variants.items():
            times[name].append(clock(lambda r=run: step(work, r, backward), device))
            floor = chain(work, calls[name], backward)
            floors[name].append(clock(floor, device))
    direction = "fwd+bwd" if backward else "fwd"
    for name in variants:
        took = statistics.median(times[name])
        ratio = took / statistics.median(floors[name])
        print(
            f"| {work.name} {work.batch} | {direction} | {name} | {calls[name]} "
            f"| {1e3 * took:.2f} | {ratio:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if importlib.util.find_spec("torchdiffeq") is None:
        print("torchdiffeq is not installed: its rows are skipped")
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s)")
    print("| workload | direction | solver | field calls | ms | x floor |")
    print("|---|---|---|--:|--:|--:|")
    for work in workloads(options.device):
        measure(work, False, options.rounds, options.device)
        if work.name != "C":
            measure(work, True, options.rounds, options.device)


if __name__ == "__main__":
    main()
