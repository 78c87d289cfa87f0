"""A small labelled table of visits, and a small configuration to train on it."""

from pathlib import Path

import numpy as np

from nde.training.config import Config
from nde.training.config_file import merge

SMALL: dict[str, object] = {
    "model.hidden": 4,
    "model.width": 4,
    "model.layers": 1,
    "solver.step": 0.25,
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.eval_paths": 2,
    "train.device": "cpu",
    "log.every": 1,
    "log.plots": False,
}


def write_visits(path: Path, *, series: int = 40, label: str = "label") -> Path:
    """Two classes of series of 3 to 6 visits, told apart by the level of x1."""
    generator = np.random.default_rng(0)
    lines = [f"id,time,x1,x2,{label}"]
    for number in range(series):
        kind = number % 2
        times = np.cumsum(generator.uniform(0.5, 2.0, generator.integers(3, 7)))
        for time in times:
            x1, x2 = generator.normal((4 * kind, 10.0), 1.0)
            lines.append(f"p{number},{time:.3f},{x1:.4f},{x2:.4f},c{kind}")
    path.write_text("\n".join(lines) + "\n")
    return path


def small_config(source: Path | str, **changes: object) -> Config:
    """The small configuration; `optim__lr=1.0` changes `optim.lr`."""
    flags = {key.replace("__", "."): value for key, value in changes.items()}
    return merge({}, (SMALL | {"data.source": str(source)} | flags).items())


def small_flags() -> list[str]:
    """The small configuration as options of `nde train`."""
    return [
        word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")
    ]
