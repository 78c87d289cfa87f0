"""A trained classifier on a part of the data, with noise that is always the same."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nde.data import SeriesDataset, collate
from nde.models import SeriesClassifier
from nde.solvers import Stats
from nde.training.config import TrainConfig
from nde.training.metrics import classification_metrics

_STREAM = 3


@dataclass(frozen=True)
class SolverCost:
    """Mean per series and noise path: field evaluations, steps, rejected steps."""

    nfe: float
    steps: float
    rejected: float
    mean_step: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Class probabilities `(series, classes)` and what the solves cost."""

    dataset: SeriesDataset
    probabilities: Tensor
    cost: SolverCost

    def metrics(self) -> dict[str, float]:
        """Metrics against the labels of the data set, which must have them."""
        assert self.dataset.labels is not None
        labels = torch.from_numpy(self.dataset.labels)
        return classification_metrics(self.probabilities, labels)


@torch.no_grad()
def evaluate(
    model: SeriesClassifier,
    dataset: SeriesDataset,
    *,
    config: TrainConfig,
    device: torch.device,
    between: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Class probabilities of every series, averaged over `eval_paths` noise paths.

    The noise of a series is fixed by the seed of `config` and its id, so that a series
    gets the same probabilities in any company, but for rounding.
    `between` is called before each batch. A model without noise takes one path.
    """
    model.eval()
    size, limit = config.batch_size, config.limit_batches
    paths = config.eval_paths if model.stochastic else 1
    if limit is not None:
        dataset = dataset.take(range(min(len(dataset), limit * size)))
    found: list[Tensor] = []
    counts = torch.zeros(4, dtype=torch.float64)
    for start in range(0, len(dataset), size):
        between()
        index = range(start, min(start + size, len(dataset)))
        batch = collate(dataset, index).to(device)
        # The paths of a series stand next to one another in one larger batch.
        out = model(
            batch.times.repeat_interleave(paths, 0),
            batch.values.repeat_interleave(paths, 0),
            seed=noise_seeds(config.seed, [dataset.ids[i] for i in index], paths),
            progress=1.0,
        )
        probabilities = out.logits.double().softmax(dim=1)
        found.append(probabilities.unflatten(0, (len(index), paths)).mean(1).cpu())
        counts += _counts(out.solution.stats)
    solves = len(dataset) * paths
    nfe, steps, rejected, length = counts.tolist()
    cost = SolverCost(
        nfe=nfe / solves,
        steps=steps / solves,
        rejected=rejected / solves,
        mean_step=length / max(steps, 1.0),
    )
    return Evaluation(dataset, torch.cat(found), cost)


def noise_seeds(seed: int, ids: Sequence[object], paths: int) -> Tensor:
    """A seed for each path of each series: `(series * paths,)`."""
    rows = []
    for name in ids:
        digest = hashlib.sha256(str(name).encode()).digest()
        sequence = np.random.SeedSequence([_STREAM, seed, *digest[:16]])
        rows.append(sequence.generate_state(paths, np.uint64) >> np.uint64(1))
    return torch.from_numpy(np.concatenate(rows).astype(np.int64))


def _counts(stats: Stats) -> Tensor:
    """Evaluations, accepted and rejected steps, and length of the accepted steps."""
    length = torch.where(stats.valid, stats.step.abs(), 0.0).sum()
    totals = (stats.evaluations.sum(), stats.accepted.sum(), stats.rejected.sum())
    return torch.stack([t.double().cpu() for t in (*totals, length)])
