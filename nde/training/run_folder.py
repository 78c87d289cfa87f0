"""The folder of a run: its names, and writing into it whole."""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nde.training.atomic import write_text

_FILES = (
    "config.resolved.yaml",
    "schema.json",
    "env.json",
    "splits.json",
    "data.json",
    "metrics.jsonl",
    "metrics.json",
    "timing.json",
    "predictions.csv",
    "steps.csv",
    "report.html",
    "log.txt",
)
_FOLDERS = ("checkpoints", "plots")


class RunFolderError(ValueError):
    """A folder that cannot take a run: one line with the path and the fix."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Make it with `create_run` or `open_run`."""

    path: Path

    def file(self, name: str) -> Path:
        """Path of the file `name` of the run."""
        return self.path / name

    @property
    def metrics(self) -> Path:
        """Final metrics."""
        return self.path / "metrics.json"

    @property
    def best(self) -> Path:
        """Checkpoint of the best epoch."""
        return self.path / "checkpoints" / "best.pt"

    @property
    def last(self) -> Path:
        """Checkpoint of the last epoch, or of the moment of an interruption."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def report(self) -> Path:
        """The run on one page."""
        return self.path / "report.html"

    def plot(self, name: str) -> Path:
        """Path of the picture `name`."""
        return self.path / "plots" / f"{name}.png"

    def write_text(self, name: str, text: str) -> None:
        """Write the text file `name`."""
        write_text(self.path / name, text)

    def write_json(self, name: str, tree: Any) -> None:
        """Write the JSON file `name`."""
        write_text(self.path / name, to_json(tree))

    def append_row(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(row), allow_nan=False) + "\n")


def to_json(tree: Any) -> str:
    """Indented JSON; a number that is not finite becomes null."""
    return json.dumps(_finite(tree), indent=2, allow_nan=False) + "\n"


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree


def check_folder(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a path that cannot become the folder of a new run.

    A folder that holds a run is refused unless `overwrite`. Raises `RunFolderError`.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file; --out needs a folder")
    held = _held(path)
    if held and not overwrite:
        raise RunFolderError(
            f"{path} already holds a run ({held[0]}); "
            "choose another --out or pass --overwrite"
        )
    there = path
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunFolderError(f"{path}: no permission to write in {there}")


def create_run(path: Path, *, overwrite: bool = False) -> RunFolder:
    """Make the folder of a new run; with `overwrite` the files of an old one go.

    Raises `RunFolderError`.
    """
    check_folder(path, overwrite=overwrite)
    try:
        for name in _held(path):
            if name in _FOLDERS:
                shutil.rmtree(path / name)
            else:
                (path / name).unlink()
        for name in _FOLDERS:
            (path / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written ({error.strerror})") from None
    return RunFolder(path)


def _held(path: Path) -> list[str]:
    """What `path` already holds of a run."""
    return [name for name in (*_FILES, *_FOLDERS) if (path / name).exists()]


def free_path(stem: Path) -> Path:
    """`stem`, or `stem-2`, `stem-3`, ...: the first that does not exist."""
    path, number = stem, 1
    while path.exists():
        number += 1
        path = stem.with_name(f"{stem.name}-{number}")
    return path


def find_checkpoint(run: Path) -> Path:
    """The best checkpoint of a run folder, or `run` itself when it is a file.

    A run interrupted before its first epoch ended has only a last one. Raises
    `RunFolderError`.
    """
    if run.is_file():
        return run
    folder = RunFolder(run)
    for path in (folder.best, folder.last):
        if path.is_file():
            return path
    raise RunFolderError(f"{run}: no checkpoint there; expected a run folder")
