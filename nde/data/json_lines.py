"""Text with a JSON object per line: series of GluonTS, or one visit per line.

A GluonTS line (Alexandrov et al., 2020) is a series on a regular grid, `{"start": ...,
"target": [...], "item_id": ...}`; `target` may hold a list per channel. Other lines
are the rows of a long table.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nde.data.assemble import About
from nde.data.cells import sorted_codes
from nde.data.errors import DataError
from nde.data.grid import Grid, read_grid
from nde.data.raw import read_bytes
from nde.data.request import Request
from nde.data.series import FloatArray, IntArray, Reading
from nde.data.table import Table
from nde.data.wide_table import read_any_table

_TARGET, _ID = "target", "item_id"
Record = dict[str, Any]


def read_json_lines(path: Path, request: Request) -> Reading:
    """The series of a file of JSON lines. Raises `DataError` naming the line."""
    records, lines = _records(path)
    if isinstance(records[0].get(_TARGET), list):
        if request.times is not None:
            raise DataError(
                f"{path}: --times is for one grid that all series share; series of "
                "JSON lines have a start each"
            )
        return _gluonts(path, records, lines, request)
    return read_any_table(_table(path, records, lines), request)


def _records(path: Path) -> tuple[list[Record], list[int]]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 encoded text ({error.reason})") from None
    records, lines = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: no JSON object ({error}); one per line is "
                "expected"
            ) from None
        if not isinstance(record, dict):
            raise DataError(
                f"{path}, line {number}: a JSON {type(record).__name__}, expected one "
                "object per line"
            )
        records.append(record)
        lines.append(number)
    return records, lines


def _table(path: Path, records: list[Record], lines: list[int]) -> Table:
    """Rows as text, a column for each name that any line has."""
    import polars as pl

    names = list(dict.fromkeys(name for record in records for name in record))
    columns: dict[str, list[str | None]] = {}
    for name in names:
        cells: list[str | None] = []
        for record, line in zip(records, lines, strict=True):
            cell = record.get(name)
            if isinstance(cell, list | dict):
                raise DataError(
                    f"{path}, line {line}, {name}: holds a {type(cell).__name__}, "
                    "expected a number or text; or, for a series per line, a list "
                    "under 'target' in every line"
                )
            cells.append(None if cell is None else str(cell))
        columns[name] = cells
    return Table(
        path,
        pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String)),
        "JSON lines",
        (str(path),),
        np.zeros(len(lines), dtype=np.int64),
        np.array(lines),
    )


def _gluonts(
    path: Path, records: list[Record], lines: list[int], request: Request
) -> Reading:
    series = [
        _target(f"{path}, line {line}", record)
        for record, line in zip(records, lines, strict=True)
    ]
    width = series[0].shape[1]
    for line, values in zip(lines, series, strict=True):
        if values.shape[1] != width:
            raise DataError(
                f"{path}, line {line}: {values.shape[1]} channels in 'target', the "
                f"first line has {width}"
            )
    ids = tuple(str(r.get(_ID, i)) for i, r in enumerate(records))
    longest = max(len(values) for values in series)
    grid = np.full((len(series), longest, width), np.nan)
    for row, values in zip(grid, series, strict=True):
        row[: len(values)] = values
    usual = [name for name in ("label", "class") if name in records[0]]
    name = request.columns.label or next(iter(usual), None)
    labels, classes = _labels(path, records, lines, name)
    channels = tuple(f"{_TARGET}_{i}" for i in range(width))
    if width == 1:
        channels = (_TARGET,)
    about = About(
        name=path.absolute().name.split(".")[0],
        ids=ids,
        channels=channels,
        labels=labels,
        classes=classes,
    )
    used = {_TARGET, _ID, name, "start", "freq"}
    others = sorted({n for record in records for n in record} - used)
    notes = (
        f"file: {path} ({len(records)} lines, a series each)",
        f"id: {_ID if _ID in records[0] else 'number of the line'}",
        "time: 0, 1, 2, ... steps from the start of each series",
        f"label: {name or 'none'}",
    )
    reading = read_grid(path, about, Grid(grid), notes, chosen=request.columns.channels)
    if not others:
        return reading
    doubt = f"fields left out: {', '.join(others)}"
    return Reading(reading.dataset, reading.notes, (doubt, *reading.warnings))


def _target(place: str, record: Record) -> FloatArray:
    """Values `(steps, channels)` of one line."""
    target = record.get(_TARGET)
    if not isinstance(target, list) or not target:
        raise DataError(f"{place}: 'target' must be a list of numbers, not empty")
    rows: Sequence[Any] = target if isinstance(target[0], list) else [target]
    try:
        values = np.array(
            [[np.nan if x in (None, "NaN") else float(x) for x in row] for row in rows]
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{place}: 'target' must be a list of numbers, or one list of equal length "
            f"per channel ({error})"
        ) from None
    return values.T


def _labels(
    path: Path, records: list[Record], lines: list[int], name: str | None
) -> tuple[IntArray | None, tuple[str, ...]]:
    import polars as pl

    if name is None:
        return None, ()
    texts = []
    for record, line in zip(records, lines, strict=True):
        label = record.get(name)
        if not isinstance(label, str | int | float):
            raise DataError(
                f"{path}, line {line}: {name} must be a label, a text or a number, "
                f"got {label!r}"
            )
        texts.append(str(label))
    classes, labels = sorted_codes(pl.Series(texts, dtype=pl.String))
    return labels, tuple(classes)
