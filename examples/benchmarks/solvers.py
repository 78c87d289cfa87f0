"""Solve time as a ratio to its floor, beside torchdiffeq and torchode.

The floor of a run is the number of vector-field calls it made times the cost of one
call, forward, or forward and backward through a chain of as many calls. Everything
beyond it is the solver. Variants take turns, and medians over the rounds are shown, on
the CPU of CPU time.

    python examples/benchmarks/solvers.py --rounds 5 --only A A8 C

Workloads: A, a small neural ODE (MLP 4-64-64-4, tanh, with time; batch 128, float32,
dopri5 at 1e-6, to t = 1); A8, the same at batch 8; B5, an MNIST-sized one (784-100-784,
batch 512, dopri5 at 1e-5); H2 and H100, a latent ODE (20-50-50-20, batch 64, dopri5 at
1e-4, to t = 2) with 2 and 100 outputs; C, 1,000 Van der Pol oscillators with mu
log-uniform in 0.5 to 20 (float64, tsit5 at 1e-6, to t = 10) and D, 1,024 Lorenz systems
(the same, to t = 3), each sample on its own steps. A peer that is not installed is
skipped with a line. torchdiffeq ties a batch to one step, and its release has no tsit5:
it takes dopri5 on C and D.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from turns import clock

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
    """tanh MLP whose first layer also sees the time."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.first = nn.Linear(sizes[0], sizes[1])
        self.time = nn.Parameter(torch.randn(sizes[1]) * 0.3)
        rest: list[nn.Module] = []
        for wide, narrow in zip(sizes[1:-1], sizes[2:], strict=True):
            rest += [nn.Tanh(), nn.Linear(wide, narrow)]
        self.rest = nn.Sequential(*rest)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.rest(self.first(y) + t.unsqueeze(-1) * self.time)


class VanDerPol(nn.Module):
    """x'' = mu (1 - x^2) x' - x, one mu per sample."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        logs = torch.linspace(0.0, 1.0, batch, dtype=torch.float64)
        self.register_buffer("mu", 0.5 * 40.0**logs)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, self.mu * (1.0 - x * x) * v - x], dim=-1)


class Lorenz(nn.Module):
    """The Lorenz system with its classical numbers."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        return torch.stack(
            [10.0 * (b - a), a * (28.0 - c) - b, a * b - (8.0 / 3.0) * c], dim=-1
        )


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
    outputs: int = 2

    @property
    def ts(self) -> Tensor:
        """Output times."""
        kind = {"dtype": self.y0.dtype, "device": self.y0.device}
        return torch.linspace(0.0, self.t1, self.outputs, **kind)


def workloads(device: str) -> list[Workload]:
    """The problems, on a device."""
    torch.manual_seed(0)
    f64 = {"dtype": torch.float64, "device": device}
    small = Counted(Perceptron(4, 64, 64, 4).to(device))
    wide = Counted(Perceptron(784, 100, 784).to(device))
    latent = Counted(Perceptron(20, 50, 50, 20).to(device))
    y_a, y_h = torch.randn(128, 4, device=device), torch.randn(64, 20, device=device)
    ink = torch.rand(512, 784, device=device)
    ink = ink * (torch.rand_like(ink) < 0.2)
    y_c = torch.tensor([2.0, 0.0], **f64).expand(1000, 2).contiguous()
    y_d = 5.0 * torch.randn(1024, 3, **f64) + torch.tensor([0.0, 0.0, 25.0], **f64)
    oscillators = Counted(VanDerPol(1000).to(device))
    shared, own = "shared", "per_sample"
    return [
        Workload("A", small, y_a, 1.0, "dopri5", 1e-6, shared),
        Workload("A", small, y_a, 1.0, "dopri5", 1e-6, own),
        Workload("A8", small, y_a[:8], 1.0, "dopri5", 1e-6, shared),
        Workload("B5", wide, ink, 1.0, "dopri5", 1e-5, shared),
        Workload("H2", latent, y_h, 2.0, "dopri5", 1e-4, shared),
        Workload("H100", latent, y_h, 2.0, "dopri5", 1e-4, shared, 100),
        Workload("C", oscillators, y_c, 10.0, "tsit5", 1e-6, own),
        Workload("D", Counted(Lorenz()), y_d, 3.0, "tsit5", 1e-6, own),
    ]


def ours(work: Workload, adjoint: Direct | Recompute) -> Callable[[Tensor], Tensor]:
    """A solve with nde."""
    ts = work.ts
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
        return solution.ys

    return run


def theirs(work: Workload) -> Callable[[Tensor], Tensor]:
    """A solve with torchdiffeq, backpropagating through the solver."""
    from torchdiffeq import odeint

    ts = work.ts

    def run(y0: Tensor) -> Tensor:
        return odeint(
            work.field,
            y0,
            ts,
            rtol=work.tolerance,
            atol=work.tolerance,
            method="dopri5",
        )

    return run


def torchode_run(work: Workload) -> Callable[[Tensor], Tensor]:
    """A solve with torchode, which steps every sample on its own."""
    import torchode

    term = torchode.ODETerm(work.field)
    kind = torchode.Tsit5 if work.method == "tsit5" else torchode.Dopri5
    controller = torchode.IntegralController(
        atol=work.tolerance, rtol=work.tolerance, term=term
    )
    solver = torchode.AutoDiffAdjoint(kind(term=term), controller)

    def run(y0: Tensor) -> Tensor:
        times = work.ts.expand(len(y0), -1)
        return solver.solve(torchode.InitialValueProblem(y0=y0, t_eval=times)).ys

    return run


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
            if not isinstance(work.field.field, Perceptron):
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
    if importlib.util.find_spec("torchode"):
        variants["torchode"] = torchode_run(work)
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
    best = min(statistics.median(times[name]) for name in variants if "nde" in name)
    for name in variants:
        took = statistics.median(times[name])
        ratio = took / statistics.median(floors[name])
        print(
            f"| {work.name} {work.batch} | {direction} | {name} | {calls[name]} "
            f"| {1e3 * took:.2f} | {ratio:.2f} | {took / best:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of workloads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for peer in ("torchdiffeq", "torchode"):
        if importlib.util.find_spec(peer) is None:
            print(f"{peer} is not installed: its rows are skipped")
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s)")
    print("| workload | direction | solver | field calls | ms | x floor | x nde |")
    print("|---|---|---|--:|--:|--:|--:|")
    for work in workloads(options.device):
        if options.only and work.name not in options.only:
            continue
        measure(work, False, options.rounds, options.device)
        if isinstance(work.field.field, Perceptron):
            measure(work, True, options.rounds, options.device)


if __name__ == "__main__":
    main()
