"""A finished run, read back from the files of its folder."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from nde.training.events import EpochEnd
from nde.training.predictions import read_predictions
from nde.training.run_folder import RunFolder, RunFolderError
from nde.training.schema import Schema
from nde.training.step_trace import StepTrace, read_trace

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What a report tells of a run.

    `probabilities` `(series, classes)` and `labels` `(series,)` are those of the test;
    `metrics`, `timing`, `environment` and `data` the trees of the JSON files.
    """

    config: str
    schema: Schema
    metrics: dict[str, Any]
    timing: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    epochs: tuple[EpochEnd, ...]
    probabilities: Tensor
    labels: Tensor
    steps: StepTrace


def read_record(run: RunFolder) -> RunRecord:
    """Read the run in the folder `run`, which has to have ended.

    Raises `RunFolderError` naming the first file that is missing or damaged.
    """
    metrics = _read(run, "metrics.json", _tree)
    schema = _read(run, "schema.json", lambda path: Schema.from_tree(_tree(path)))
    probabilities, labels = _read(
        run, "predictions.csv", lambda path: read_predictions(path, schema.classes)
    )
    return RunRecord(
        config=_read(run, "config.resolved.yaml", lambda p: p.read_text("utf-8")),
        schema=schema,
        metrics=metrics,
        timing=_read(run, "timing.json", _tree),
        environment=_read(run, "env.json", _tree),
        data=_read(run, "data.json", _tree),
        epochs=_read(run, "metrics.jsonl", _epochs),
        probabilities=probabilities,
        labels=labels,
        steps=_read(run, "steps.csv", lambda path: read_trace(path, schema.time_unit)),
    )


def _read(run: RunFolder, name: str, reader: Callable[[Path], T]) -> T:
    path = run.file(name)
    if not path.is_file():
        raise RunFolderError(
            f"{path} is missing; expected the folder of a run that has ended"
        )
    try:
        return reader(path)
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(f"{path} cannot be read: {reason}") from None


def _tree(path: Path) -> dict[str, Any]:
    tree = json.loads(path.read_text("utf-8"))
    if not isinstance(tree, dict):
        raise ValueError("expected an object")
    return tree


def _epochs(path: Path) -> tuple[EpochEnd, ...]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    ends = [
        EpochEnd(**{key: _number(value) for key, value in row.items() if key != "kind"})
        for row in rows
        if row["kind"] == "epoch"
    ]
    if not ends:
        raise ValueError("no epoch in it")
    return tuple(ends)


def _number(value: Any) -> Any:
    """NaN for the null that stands for it in a file."""
    if isinstance(value, dict):
        return {key: _number(inner) for key, inner in value.items()}
    return math.nan if value is None else value
