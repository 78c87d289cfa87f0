"""Regularizers of a latent ODE that interpolates PhysioNet 2012.

    python examples/benchmarks/regularizers/physionet_latent_ode.py set-a.tar.gz \\
        --stays 400 --iterations 800 --batch 64
    python examples/benchmarks/regularizers/physionet_latent_ode.py set-a.tar.gz \\
        --stays 4000 --iterations 3000 --batch 512

As in Pal and others (2021, 2023): 37 signals by the hour, scaled to [0, 1], 80 % of the
stays for training, split anew for each seed; tsit5 at rtol = atol = 1.4e-8, one step
for the batch; AdaMax at 0.01 over 1 + 1e-5 n; normal likelihood of deviation 0.01, by
observation, and the divergence with a weight that rises as 1 - 0.99^(n - 10) with the
iteration n. In float64, as float32 does not resolve that tolerance. The metric is the
mean square error of the test stays' observations, times 1000.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from campaign import Task, parser, run
from hourly_stays import HOURS, SIGNALS, Stays, split
from latent_ode import LatentODE, Reconstruction
from named_methods import LATENT_ODE
from torch import Tensor

from nde.models import LayerOutput, SolverSettings
from nde.regularizers import AnyRegularizer

TIMES = torch.linspace(0.0, 1.0, HOURS, dtype=torch.float64)
_DEVIATION = 0.01
_WARM = 10


class Interpolation:
    """An experiment."""

    def __init__(
        self,
        train: Stays,
        test: Stays,
        seed: int,
        regularizers: Sequence[AnyRegularizer],
        *,
        batch: int,
        tolerance: float,
    ) -> None:
        solver = SolverSettings(
            "tsit5",
            rtol=tolerance,
            atol=tolerance,
            batch="shared",
            adjoint="direct",
        )
        self.train, self.held_out, self.batch = train, test, batch
        self.model = LatentODE(len(SIGNALS), solver, regularizers).double()
        self.field = self.model.field
        self.optimizer = torch.optim.Adamax(self.model.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda n: 1.0 / (1.0 + 1e-5 * n)
        )
        self.order = torch.Generator().manual_seed(seed)

    def loss(self, iteration: int, progress: float) -> tuple[Tensor, LayerOutput]:
        if iteration:
            self.schedule.step()
        rows = torch.randint(len(self.train), (self.batch,), generator=self.order)
        stays = self.train.rows(rows)
        found: Reconstruction = self.model(stays.values, stays.seen, TIMES, progress)
        misfit = _mean_square(found, stays) / (2.0 * _DEVIATION**2)
        weight = max(0.0, 1.0 - 0.99 ** (iteration - _WARM))
        return misfit + weight * found.divergence.mean(), found.out

    def test(self) -> float:
        """Mean square error, times 1000."""
        stays = self.held_out
        found = self.model(stays.values, stays.seen, TIMES, 1.0)
        return 1e3 * float(_mean_square(found, stays))


def _mean_square(found: Reconstruction, stays: Stays) -> Tensor:
    off = stays.seen * (found.signals - stays.values)
    return off.square().sum() / stays.seen.sum().clamp_min(1.0)


def main(arguments: Sequence[str] | None = None) -> str:
    """Train, print and return the table."""
    options = parser((__doc__ or "").splitlines()[0], "results", 800)
    options.add_argument("archive", type=Path, help="set-a.tar.gz")
    options.add_argument("--stays", type=int, default=400)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--tolerance", type=float, default=1.4e-8)
    asked = options.parse_args(arguments)
    torch.set_num_threads(1)

    def start(seed: int, regularizers: Sequence[AnyRegularizer]) -> Interpolation:
        return Interpolation(
            *split(asked.archive, asked.stays, seed),
            seed,
            regularizers,
            batch=asked.batch,
            tolerance=asked.tolerance,
        )

    setting = (
        f"{asked.stays} stays, {asked.iterations} iterations of {asked.batch}, "
        f"tolerance {asked.tolerance:g}"
    )
    task = Task(
        "physionet_latent_ode", "MSE x 1000", 3, False, setting, LATENT_ODE, start
    )
    table = run(task, asked)
    print(table)
    return table


if __name__ == "__main__":
    main()
