"""Predictions as a table: `id, y_true, y_pred, p_<class>...`."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nde.training.atomic import write_text


def write_predictions(
    path: Path,
    *,
    ids: Sequence[str],
    classes: Sequence[str],
    probabilities: Tensor,
    truth: Sequence[str] | None,
) -> None:
    """Write one row per series to the CSV file `path`.

    probabilities `(series, classes)`; `truth` the class names as the data has them,
    None to leave the column out.
    """
    predicted = probabilities.argmax(dim=1).tolist()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    known = ["y_true"] if truth is not None else []
    writer.writerow(["id", *known, "y_pred", *(f"p_{name}" for name in classes)])
    for i, row in enumerate(probabilities.tolist()):
        told = [truth[i]] if truth is not None else []
        shown = [format(p, ".6g") for p in row]
        writer.writerow([ids[i], *told, classes[predicted[i]], *shown])
    write_text(path, text.getvalue())


def read_predictions(path: Path, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Probabilities `(series, classes)` and labels `(series,)` of a table with truth.

    Labels are positions in `classes`, which are those of the table. Raises `OSError`,
    and `ValueError` for a table of something else.
    """
    with open(path, encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    if head != ["id", "y_true", "y_pred", *(f"p_{name}" for name in classes)]:
        raise ValueError(f"expected predictions of the classes {', '.join(classes)}")
    place = {name: k for k, name in enumerate(classes)}
    unknown = sorted({row[1] for row in rows} - place.keys())
    if unknown or not rows:
        raise ValueError(f"no class of the run: {unknown}" if unknown else "no rows")
    probabilities = [[float(cell) for cell in row[3:]] for row in rows]
    return (
        torch.tensor(probabilities, dtype=torch.float64),
        torch.tensor([place[row[1]] for row in rows]),
    )
