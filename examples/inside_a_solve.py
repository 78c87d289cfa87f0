"""What a solver saw: error and stiffness estimates of every step, along time.

Three Van der Pol oscillators, from gentle to stiff, are solved as one batch; each takes
its own steps. The picture shows the solutions, the step sizes, the local error
estimates that the controller kept at or below 1, and the stiffness estimates, which
times the step stays below the method's stability limit.

    python examples/inside_a_solve.py --out inside_a_solve.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from nde.solvers import PID, ODETerm, solve

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

MU = torch.tensor([1.0, 10.0, 50.0], dtype=torch.float64)


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    """x'' = mu (1 - x^2) x' - x."""
    x, v = y.unbind(-1)
    return torch.stack([v, MU * (1.0 - x * x) * v - x], dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("inside_a_solve.png"))
    parser.add_argument("--end", type=float, default=40.0)
    options = parser.parse_args()
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(3, 1)
    ts = torch.linspace(0.0, options.end, 400, dtype=torch.float64)
    solution = solve(
        ODETerm(van_der_pol),
        y0,
        ts,
        method="tsit5",
        controller=PID(rtol=1e-5, atol=1e-7),
        max_steps=100_000,
    )
    stats = solution.stats
    rows = [
        ("x", None),
        ("step", stats.step),
        ("error estimate", stats.error_estimate),
        ("stiffness", stats.stiffness),
    ]
    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(8, 9), layout="tight")
    for axis, (name, values) in zip(axes, rows, strict=True):
        for sample, mu in enumerate(MU.tolist()):
            if values is None:
                axis.plot(ts, solution.ys[sample, :, 0], label=f"mu = {mu:g}")
                continue
            taken = stats.valid[:, sample]
            axis.plot(stats.t[taken, sample], values[taken, sample], lw=0.8)
            axis.set_yscale("log")
        axis.set_ylabel(name)
    axes[0].legend(loc="upper right")
    axes[-1].set_xlabel("t")
    figure.savefig(options.out, dpi=120)
    for sample, mu in enumerate(MU.tolist()):
        print(
            f"mu {mu:4g}: {int(stats.accepted[sample])} steps accepted, "
            f"{int(stats.rejected[sample])} rejected, "
            f"{int(stats.evaluations[sample])} evaluations, "
            f"largest stiffness {stats.stiffness[:, sample].max():.0f}"
        )
    print(options.out)


if __name__ == "__main__":
    main()
