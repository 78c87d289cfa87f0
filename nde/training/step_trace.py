"""The accepted steps of one validation batch, as a table: `id, t, step, error`."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nde.data import SeriesDataset, collate
from nde.training.atomic import write_text
from nde.training.evaluation import noise_seeds
from nde.training.restore import Trained

FloatArray = NDArray[np.float64]
_COLUMNS = ["id", "t", "step", "error"]


@dataclass(frozen=True, eq=False)
class StepTrace:
    """Steps of some series, those of a series together and in order of time.

    Start of each step since the start of its series and its length, in the `unit` of
    the data ("" if unknown); its error over the tolerance, NaN where the method has no
    estimate.
    """

    ids: tuple[str, ...]
    t: FloatArray
    step: FloatArray
    error: FloatArray
    unit: str

    @property
    def estimates(self) -> bool:
        """Whether there are error estimates."""
        return bool(np.isfinite(self.error).any())

    def runs(self) -> list[tuple[int, int]]:
        """First row and end of the rows of each series."""
        cuts = [i for i in range(1, len(self.ids)) if self.ids[i] != self.ids[i - 1]]
        ends = [*cuts, len(self.ids)] if self.ids else []
        return list(zip([0, *cuts], ends, strict=False))


@torch.no_grad()
def trace_steps(trained: Trained, dataset: SeriesDataset) -> StepTrace:
    """Solve the first batch of scaled series for one noise path of the evaluation.

    Raises `SolveError`.
    """
    train = trained.config.train
    index = range(min(train.batch_size, len(dataset)))
    batch = collate(dataset, index).to(trained.device)
    ids = [dataset.ids[i] for i in index]
    trained.model.eval()
    out = trained.model(
        batch.times,
        batch.values,
        seed=noise_seeds(train.seed, ids, 1),
        progress=1.0,
    )
    stats = out.solution.stats
    # Steps come first in the solver's tables and series in this one.
    valid = stats.valid.T.cpu().numpy()
    columns = [
        value.T.double().cpu().numpy()[valid]
        for value in (stats.t, stats.step.abs(), stats.error_estimate)
    ]
    scale = trained.schema.scaling.time_scale
    return StepTrace(
        ids=tuple(ids[row] for row in np.nonzero(valid)[0]),
        t=columns[0] * scale,
        step=columns[1] * scale,
        error=columns[2],
        unit=trained.schema.time_unit,
    )


def write_trace(path: Path, trace: StepTrace) -> None:
    """Write `trace` to the CSV file `path`; no estimate is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    columns = (trace.t.tolist(), trace.step.tolist(), trace.error.tolist())
    for name, t, step, error in zip(trace.ids, *columns, strict=True):
        shown = "" if np.isnan(error) else f"{error:.6g}"
        writer.writerow([name, f"{t:.9g}", f"{step:.9g}", shown])
    write_text(path, text.getvalue())


def read_trace(path: Path, unit: str) -> StepTrace:
    """Read what `write_trace` wrote, in the time unit `unit`.

    Raises `OSError`, and `ValueError` or `TypeError` for another file.
    """
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if reader.fieldnames != _COLUMNS:
        raise ValueError(f"expected the columns {', '.join(_COLUMNS)}")
    return StepTrace(
        ids=tuple(row["id"] for row in rows),
        t=np.array([float(row["t"]) for row in rows]),
        step=np.array([float(row["step"]) for row in rows]),
        error=np.array([float(row["error"] or "nan") for row in rows]),
        unit=unit,
    )
