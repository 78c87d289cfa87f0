"""Checkpoints: one file of tensors and plain containers, written whole, read safely.

The file is what `torch.save` makes, a zip archive; its entries carry checksums, which
`torch.load` does not look at and `load_checkpoint` does.
"""

import io
import random
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nde.training.atomic import write_bytes

FORMAT = "nde-checkpoint"
VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: one line naming the file and the reason."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State of a run after `epoch` whole epochs and `iteration` steps.

    All fields are tensors and plain containers. `generators` are the states of the
    run's own generators of data order and noise; `rng` those of torch, numpy, python;
    `weights` what the automatic weights of regularizers have learned, by name.
    """

    config: dict[str, Any]
    schema: dict[str, Any]
    splits: dict[str, Any]
    model: dict[str, Tensor]
    optimiser: dict[str, Any]
    schedule: dict[str, Any]
    generators: dict[str, Tensor]
    rng: dict[str, Any]
    epoch: int
    iteration: int
    best: dict[str, Any]
    # Files from before there were such weights have none.
    weights: dict[str, dict[str, float]] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, whole or not at all. Raises `OSError`."""
    tree = {part.name: getattr(checkpoint, part.name) for part in fields(checkpoint)}
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **tree}, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read `path` on the CPU without running code from it. Raises `CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the checkpoint is empty")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        raise CheckpointError(
            f"{path}: not a checkpoint, or a truncated or corrupt one"
        ) from None
    if damaged is not None:
        raise CheckpointError(
            f"{path}: the checkpoint is corrupt, wrong checksum of {damaged}"
        )
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # torch raises many kinds here; all mean that this is not one of our files.
        raise CheckpointError(
            f"{path}: not a checkpoint of tensors and plain containers; "
            "it was not read, since it could be unsafe"
        ) from None
    if not isinstance(tree, Mapping) or tree.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a checkpoint of another program")
    if tree.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format version {tree.get('version')}, "
            f"this program reads version {VERSION}"
        )
    tree = {"weights": {}, **tree}
    missing = [part.name for part in fields(Checkpoint) if part.name not in tree]
    if missing:
        raise CheckpointError(f"{path}: the checkpoint lacks the key {missing[0]!r}")
    for name, weight in tree["model"].items():
        if not torch.isfinite(weight).all():
            raise CheckpointError(f"{path}: NaN or infinite weights in {name}")
    return Checkpoint(**{part.name: tree[part.name] for part in fields(Checkpoint)})


def global_rng() -> dict[str, Any]:
    """States of the global generators of torch, numpy and python, as plain data."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state
