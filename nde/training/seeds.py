"""Several runs that differ in their seed alone: where they lie, and what they average.

The folder of such runs holds `seed-N`, a whole run, for each of them, and the files
that are about all: config.resolved.yaml, metrics.json and log.txt.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nde.training.config import Config
from nde.training.config_file import merge, read_config_file, to_tree
from nde.training.run_folder import RunFolder

# Of the metrics of a run, what one averages; the rest names it.
_AVERAGED = ("epochs", "best_epoch", "skipped_batches")
_AVERAGED_TREES = ("train", "validation", "test", "solver")


def seed_folder(path: Path, seed: int) -> RunFolder:
    """The run of one seed in the folder `path` of several."""
    return RunFolder(path / f"seed-{seed}")


def seed_config(config: Config, seed: int) -> Config:
    """The configuration of one of the runs, which stands by itself.

    Unless `data.seed` is set, each run draws its own split and hidden points.
    """
    return merge(
        to_tree(config),
        [
            ("train.seeds", None),
            ("train.seed", seed),
            ("data.seed", seed if config.data.seed is None else config.data.seed),
        ],
    )


def config_of_seeds(path: Path) -> Config | None:
    """The configuration in the folder `path` if it is one of several runs."""
    file = path / "config.resolved.yaml"
    if not file.is_file():
        return None
    config = merge(read_config_file(file), [])
    return None if config.train.seeds is None else config


def aggregate(metrics: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations over runs, given the metrics of each by seed.

    The deviation is that of a sample, with one run less in the divisor, and NaN for
    one run. What is NaN in one run is NaN in both.
    """
    runs = list(metrics.values())
    first = runs[0]
    return {
        **{key: first[key] for key in ("task", "data", "model", "n_params")},
        "seeds": list(metrics),
        "mean": _over(runs, statistics.fmean),
        "std": _over(runs, _deviation),
        "runs": {str(seed): dict(run) for seed, run in metrics.items()},
    }


def _over(
    runs: Sequence[Mapping[str, Any]], reduce: Callable[[Sequence[float]], float]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: float(reduce([run[key] for run in runs])) for key in _AVERAGED
    }
    for tree in _AVERAGED_TREES:
        found[tree] = {
            key: float(reduce([run[tree][key] for run in runs]))
            for key in runs[0][tree]
        }
    return found


def _deviation(values: Sequence[float]) -> float:
    # statistics.stdev takes a NaN for an error.
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values)
