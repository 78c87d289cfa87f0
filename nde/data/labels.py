"""Labels and parts from a table of their own, one row per series."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from nde.data.cells import read_ids, read_labels, read_parts
from nde.data.columns import Columns, find_column, refuse_missing
from nde.data.errors import DataError
from nde.data.series import Reading
from nde.data.table import Table, read_table


def read_with_labels(reading: Reading, path: Path, columns: Columns) -> Reading:
    """`reading` with the labels, and the split, of the table in `path`."""
    return with_labels(reading, read_table(path), columns)


def with_labels(reading: Reading, table: Table, columns: Columns) -> Reading:
    """`reading` with labels, and parts if told, from `table`: `id, label[, split]`.

    A name in `columns` counts where the table has it. Series of the table that the
    data lacks are passed over; a series without a row raises `DataError`.
    """
    dataset = reading.dataset
    names = table.frame.columns
    given_id = columns.id if columns.id in names else None
    key = find_column(table, "id", given_id)
    if key is None:
        refuse_missing(table, "id")
    split = find_column(table, "split", None)
    label = find_column(table, "label", columns.label)
    if label is None:
        rest = [name for name in names if name not in (key, split)]
        if split is None and len(rest) != 1:
            refuse_missing(table, "label")
        label = rest[0] if len(rest) == 1 else None
    keys, codes = read_ids(table, key)
    place = {text: i for i, text in enumerate(keys)}
    lost = [text for text in dataset.ids if text not in place]
    if lost:
        raise DataError(
            f"{', '.join(table.files)}, column {key}: no row for {len(lost)} of "
            f"{len(dataset)} series, the first with id {lost[0]!r}; "
            "the table needs one row for each"
        )
    order = [place[text] for text in dataset.ids]
    labels, classes = read_labels(table, label, keys, codes)
    if labels is not None:
        # Rows of other series may name classes that no series here has.
        used, labels = np.unique(labels[order], return_inverse=True)
        classes = tuple(classes[i] for i in used)
    parts = read_parts(table, split, keys, codes)
    told = f"labels: {label or 'none'} of {', '.join(table.files)} by {key}"
    kept = tuple(note for note in reading.notes if not note.startswith("label: "))
    return replace(
        reading,
        dataset=replace(
            dataset,
            labels=labels,
            classes=classes,
            parts=dataset.parts if parts is None else tuple(parts[i] for i in order),
        ),
        notes=(*kept, told + (f", parts: {split}" if split else "")),
    )
