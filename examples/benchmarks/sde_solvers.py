"""Solve time of an SDE as a ratio to its floor, beside torchsde and diffrax.

    python examples/benchmarks/sde_solvers.py --rounds 5 --only euler srk

A neural SDE: state 16, drift and diffusion MLPs of width 64, batch 256, diagonal noise,
float32, to t = 1 in 1,000 equal steps. Euler, Milstein and `srk` (Ito), Heun and
reversible Heun (Stratonovich), forward, and forward with backward. The floor of a run
is as many calls of drift and diffusion as its forward pass makes, in a chain, forward
or forward and backward, and the normals that its increments need; everything beyond it
is the solver. A derivative of the diffusion counts as a call. Variants take turns, and
medians over the rounds are shown, on the CPU of CPU time. `x nde` is over the fastest
row of nde: above 1, nde is faster.

torchsde's `srk` is another method of order 1.5, with more calls, and its `milstein`
takes the derivative from the graph of a call. Its adjoint solves an equation backward;
that of reversible Heun takes the steps back. "interval" is the BrownianInterval that
`sdeint` makes by default, "interval, dt" one that is told the step; "drawn" gives
increments that are drawn when asked, which serve a solve that goes forward once.

The second section is the time of one increment of the Brownian motions, the third which
of nde's methods others have. A package that is not installed is skipped with a line.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Sequence
from functools import partial

import sde_diffrax
import sde_increments
import torch
from sde_equation import BATCH, METHODS, Workload, workload
from sde_methods import methods_table
from sde_variants import HAS_TORCHSDE, SEED, Run, variants
from torch import Tensor
from turns import Action, medians

PEERS = {"torchsde": HAS_TORCHSDE, "diffrax": sde_diffrax.HAS_DIFFRAX}

HEAD = [
    "method",
    "direction",
    "solver",
    "noise",
    "f, g calls a step",
    "ms a step",
    "floor",
    "x floor",
    "x nde",
]


def step(work: Workload, run: Run, backward: bool) -> None:
    """One run, with or without gradients."""
    if not backward:
        with torch.no_grad():
            run(work.y0)
        return
    work.equation.zero_grad()
    run(work.y0.clone().requires_grad_()).square().sum().backward()


def chain(work: Workload, calls: tuple[int, int]) -> Run:
    """The floor: as many calls as a solve makes, and the normals it needs."""
    equation, draws = work.equation, 2 if work.levy == "space-time" else 1
    t = torch.zeros((), dtype=work.y0.dtype, device=work.y0.device)
    shape, dtype, device = work.y0.shape, work.y0.dtype, work.y0.device

    def run(y: Tensor) -> Tensor:
        make = torch.Generator(device=y.device).manual_seed(SEED)
        for _ in range(work.steps * draws):
            torch.randn(shape, generator=make, dtype=dtype, device=device)
        for j in range(max(calls)):
            if j < calls[0]:
                y = equation.f(t, y)
            if j < calls[1]:
                y = equation.g(t, y)
        return y

    return run


def measure(
    work: Workload, backward: bool, rounds: int, device: str
) -> list[list[str]]:
    """A row for each variant."""
    found = variants(work, backward)
    actions: dict[str, Action] = {}
    calls: dict[str, tuple[int, int]] = {}
    for variant in found:
        work.equation.calls[:] = [0, 0]
        # The first run warms up, and forward calls alone are counted.
        with torch.no_grad():
            variant.run(work.y0)
        calls[variant.name] = (work.equation.calls[0], work.equation.calls[1])
        if backward:
            step(work, variant.run, backward)
        actions[variant.name] = partial(step, work, variant.run, backward)
    for pair in sorted(set(calls.values())):
        actions[f"floor {pair}"] = partial(step, work, chain(work, pair), backward)
    names = [(v.solver, v.noise, v.name) for v in found]
    if sde_diffrax.HAS_DIFFRAX:
        for noise, action in sde_diffrax.actions(work, backward).items():
            action()
            actions[f"diffrax, {noise}"] = action
            names.append(("diffrax", noise, f"diffrax, {noise}"))
    taken = medians(actions, rounds, device)
    best = min(taken[v.name] for v in found if v.solver.startswith("nde"))
    rows = []
    for solver, noise, name in names:
        each = floor = over = "-"
        if name in calls:
            least = taken[f"floor {calls[name]}"]
            each = ", ".join(f"{count / work.steps:.3g}" for count in calls[name])
            floor = f"{1e3 * least / work.steps:.4f}"
            over = f"{taken[name] / least:.2f}"
        rows.append(
            [
                work.method,
                "fwd+bwd" if backward else "fwd",
                solver,
                noise,
                each,
                f"{1e3 * taken[name] / work.steps:.4f}",
                floor,
                over,
                f"{taken[name] / best:.2f}",
            ]
        )
    return rows


def show_rows(rows: list[list[str]]) -> None:
    """Print rows of a table."""
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def show(rows: list[list[str]], left: int) -> None:
    """Print a table from its head on, text in the first `left` columns."""
    head, *rest = rows
    show_rows([head, ["---"] * left + ["--:"] * (len(head) - left), *rest])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=METHODS, help="names of methods")
    parser.add_argument(
        "--quick", action="store_true", help="few steps, batch and rounds: a trial"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    steps, batch, rounds = options.steps, BATCH, options.rounds
    if options.quick:
        steps, batch, rounds = 20, 8, 1
    packages = [f"torch {torch.__version__}"]
    for peer, here in PEERS.items():
        if here:
            packages.append(f"{peer} {importlib.metadata.version(peer)}")
        else:
            print(f"{peer} is not installed: its rows are skipped")
    print(f"{', '.join(packages)}, {options.device}, {options.threads} thread(s)")
    print(f"batch {batch}, {steps} steps, {rounds} round(s)\n")
    device, chosen = options.device, options.only or list(METHODS)
    show([HEAD], left=4)
    for method in chosen:
        for backward in (False, True):
            work = workload(method, steps, device, batch)
            show_rows(measure(work, backward, rounds, device))
    for method in ("euler", "srk"):
        print()
        work = workload(method, steps, device, batch)
        show(sde_increments.table(work, rounds, device), left=2)
    print()
    show(methods_table(), left=5)
    print("torchsde adapts any method, by a whole step beside two halves")


if __name__ == "__main__":
    main()
