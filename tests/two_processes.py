"""What each of two gloo processes does: gradients of a model under DDP."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from problems import normal
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nde.data import Batch
from nde.models import SeriesClassifier, SolverSettings, build_classifier

PROCESSES, SERIES = 2, 6


@dataclass(frozen=True)
class Case:
    """A model by its equation and settings."""

    name: Any
    settings: SolverSettings

    def model(self) -> SeriesClassifier:
        torch.manual_seed(0)
        return build_classifier(
            self.name,
            channels=2,
            classes=3,
            hidden=5,
            width=5,
            layers=1,
            solver=self.settings,
        ).double()


CASES = {
    "ode recompute": Case("neural-ode", SolverSettings(adjoint="recompute")),
    "sde recompute": Case("lnsde", SolverSettings(adjoint="recompute")),
    "sde reversible": Case(
        "neural-sde", SolverSettings(method="reversible_heun", adjoint="reversible")
    ),
    "sde backsolve": Case(
        "neural-sde", SolverSettings(method="reversible_heun", adjoint="backsolve")
    ),
}


def series() -> Batch:
    """Labelled series."""
    times = normal((SERIES, 4), 1).abs().cumsum(1) / 4
    return Batch(times, normal((SERIES, 4, 2), 2), torch.arange(SERIES) % 3)


def loss(model: nn.Module, batch: Batch, seeds: Tensor) -> Tensor:
    """The mean over a batch, so that halves of one size average to the whole."""
    out = model(batch.times, batch.values, seed=seeds)
    assert batch.labels is not None
    return nn.functional.cross_entropy(out.logits, batch.labels)


def seeds() -> Tensor:
    """A Brownian path for each series, in whichever process it is."""
    return torch.arange(SERIES) + 10


def work(rank: int, folder: str) -> None:
    """Gradients of this rank's half of the batch, into a file; two rounds."""
    torch.set_num_threads(1)
    if sys.platform == "linux":
        # The name of the machine need not resolve.
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=PROCESSES,
    )
    half = slice(rank * SERIES // PROCESSES, (rank + 1) * SERIES // PROCESSES)
    whole = series()
    assert whole.labels is not None
    part = Batch(whole.times[half], whole.values[half], whole.labels[half])
    found = {}
    for key, case in CASES.items():
        model = case.model().eval()
        parallel = DistributedDataParallel(model, find_unused_parameters=False)
        fired = dict.fromkeys((name for name, _ in model.named_parameters()), 0)

        def counted(name: str, fired: dict[str, int] = fired) -> Any:
            def hook(parameter: Tensor) -> None:
                fired[name] += 1

            return hook

        for name, parameter in model.named_parameters():
            parameter.register_post_accumulate_grad_hook(counted(name))
        for _ in range(2):
            # A second round fails if the first left a parameter without its hook.
            parallel.zero_grad()
            loss(parallel, part, seeds()[half]).backward()
        found[key] = (
            {name: p.grad.clone() for name, p in model.named_parameters()},
            fired,
        )
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()
