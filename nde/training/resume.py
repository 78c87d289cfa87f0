"""A run that stopped: what of it is there, and whether it may go on as asked."""

from pathlib import Path
from typing import Any

from nde.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from nde.training.config import Config
from nde.training.config_file import ConfigError, Tree, to_tree
from nde.training.preparation import Prepared
from nde.training.run_folder import RunFolder, RunFolderError
from nde.training.schema import Schema

# What a resumed run may be given anew: how long it goes on, where it runs and reads,
# and what it leaves behind. The data itself is compared, wherever it lies now.
_FREE = (
    "data.source",
    "data.labels",
    "data.times",
    "data.data_dir",
    "data.cache",
    "train.epochs",
    "train.patience",
    "train.device",
    "log.save_every",
    "log.plots",
    "log.out",
)


def find_stopped(path: Path) -> tuple[RunFolder, Path]:
    """The run folder and the checkpoint to go on from.

    `path` is the folder, whose last checkpoint is meant, or a checkpoint in it. Raises
    `RunFolderError`.
    """
    if path.is_file():
        if path.parent.name != "checkpoints":
            raise RunFolderError(
                f"{path} is not in the checkpoints of a run; --resume needs the folder "
                "of a run, or a file of its checkpoints"
            )
        return RunFolder(path.parent.parent), path
    run = RunFolder(path)
    if not run.last.is_file():
        raise RunFolderError(
            f"{path}: nothing to resume, no {run.last.relative_to(path)} there; "
            "train without --resume, or with --resume auto"
        )
    return run, run.last


def read_stopped(path: Path) -> Checkpoint:
    """The checkpoint of a run that can go on.

    Raises `CheckpointError`, and there names the other checkpoint of the run.
    """
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        other = path.with_name("best.pt")
        if other == path or not other.is_file():
            raise
        raise CheckpointError(
            f"{error}; the best epoch may still serve: --resume {other}"
        ) from None
    if not checkpoint.course:
        raise CheckpointError(
            f"{path}: from a version of this program that could not resume; train anew"
        )
    return checkpoint


def check_config(before: Config, now: Config) -> None:
    """Refuse what would make another run of it. Raises `ConfigError`."""
    old, new = _flat(to_tree(before)), _flat(to_tree(now))
    changed = [
        f"{key} from {old.get(key)!r} to {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if key not in _FREE and old.get(key) != new.get(key)
    ]
    if changed:
        raise ConfigError(
            f"--resume cannot change {', '.join(changed)}; expected the options of the "
            f"run, of which only {', '.join(_FREE)} may differ; train anew for others"
        )


def check_epochs(stopped: Checkpoint, now: Config) -> None:
    """Refuse fewer epochs than have passed. Raises `ConfigError`."""
    if now.train.epochs < stopped.epoch:
        raise ConfigError(
            f"train.epochs: the run has passed {stopped.epoch} epochs, got "
            f"{now.train.epochs}; give at least as many"
        )


def check_data(stopped: Checkpoint, prepared: Prepared) -> None:
    """Refuse other data than the run began with. Raises `RunFolderError`."""
    name = prepared.schema.data
    if Schema.from_tree(stopped.schema).fingerprint != prepared.schema.fingerprint:
        raise RunFolderError(
            f"{name} differs from the data that the run began with; "
            "restore it, or train anew"
        )
    if stopped.splits != prepared.splits:
        raise RunFolderError(
            f"{name} is split otherwise than when the run began, by another version "
            "of this program; train anew"
        )


def _flat(tree: Tree) -> dict[str, Any]:
    """`section.key` of each value; a regularizer is a key too."""
    return {
        f"{section}.{key}": value
        for section, keys in tree.items()
        for key, value in keys.items()
    }
