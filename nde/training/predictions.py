"""Predictions as a table: `id, y_true, y_pred, p_<class>...`."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

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
