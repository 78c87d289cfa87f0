"""Reader of the long table `id, time, channels..., label[, split]`, one row a visit.

Rows come in any order; an empty cell is a value that was not observed. What the
columns mean is told by flags or by their names, never guessed between two candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nde.data.errors import DataError, unknown_name
from nde.data.series import FloatArray, IntArray, Part, Reading, SeriesDataset
from nde.data.stamps import stamp_seconds
from nde.data.table import Table, read_table

if TYPE_CHECKING:
    import polars as pl

# Compared in lower case.
ALIASES: dict[str, tuple[str, ...]] = {
    "id": (
        "id", "item_id", "unique_id", "series_id", "case_id", "recordid", "subject",
    ),
    "time": ("time", "t", "timestamp", "datetime", "date", "ds", "iculos", "hours"),
    "label": ("label", "target", "class", "sepsislabel"),
    "split": ("split",),
}  # fmt: skip
_MISSING = ("", "nan", "na", "n/a", "null", "none", "?")
_PARTS: dict[str, Part] = {
    "train": "train", "training": "train", "test": "test",
    "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation",
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Column names the user gave; None means: find it by its usual names."""

    id: str | None = None
    time: str | None = None
    label: str | None = None
    channels: tuple[str, ...] | None = None


def read_long_csv(path: Path, columns: Columns | None = None) -> Reading:
    """Read a long table of separated values.

    Series come out sorted by id, so that the order of the rows does not matter; a
    repeated (id, time) is averaged, with a warning. Raises `DataError` naming the
    file, the line and the column.
    """
    columns = columns or Columns()
    table = read_table(path)
    id_name = _role(table, "id", columns.id)
    time_name = _role(table, "time", columns.time)
    label_name = _role(table, "label", columns.label, required=False)
    split_name = _role(table, "split", None, required=False)
    assert id_name is not None and time_name is not None
    taken = {id_name, time_name, label_name, split_name}
    warnings: list[str] = []
    names, values = _channels(table, columns.channels, taken, warnings)

    keys, codes = _ids(table, id_name)
    times, unit = _times(table, time_name)
    labels, classes = _labels(table, label_name, keys, codes)
    parts = _parts(table, split_name, keys, codes)

    if _disordered(codes, times):
        warnings.append("rows were out of time order inside a series and were sorted")
    order = np.lexsort((times, codes))
    codes, times, values = _merge(codes[order], times[order], values[order])
    repeats = len(order) - len(codes)
    if repeats:
        warnings.append(f"{repeats} duplicate (id, time) rows were averaged")
    bounds = np.searchsorted(codes, np.arange(len(keys) + 1))
    spans = [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    single = [key for key, s in zip(keys, spans, strict=True) if s.stop - s.start == 1]
    if single:
        warnings.append(
            f"{len(single)} series of one observation, the first with id {single[0]!r}"
        )
    dataset = SeriesDataset(
        name=path.name.split(".")[0],
        ids=keys,
        times=tuple(times[span] for span in spans),
        values=tuple(values[span] for span in spans),
        channels=names,
        labels=labels,
        classes=classes,
        parts=parts,
        time_unit=unit,
    )
    separator = {"\t": "tab"}.get(table.separator, table.separator)
    notes = (
        f"file: {path} ({len(table.lines)} rows, separator {separator})",
        f"id: {id_name}",
        f"time: {time_name}" + (f" ({unit})" if unit else ""),
        f"label: {label_name or 'none'}",
        f"channels: {', '.join(names)}",
        f"split: {split_name or 'none'}",
    )
    return Reading(dataset, notes, tuple(warnings))


def _role(
    table: Table, role: str, given: str | None, *, required: bool = True
) -> str | None:
    """The column that plays `role`: the given one, or the one of a usual name."""
    names = table.frame.columns
    if given is not None:
        if given not in names:
            raise DataError(f"{table.path}: {unknown_name('column', given, names)}")
        return given
    found = [name for name in names if name.lower() in ALIASES[role]]
    if len(found) > 1:
        raise DataError(
            f"{table.path}: columns {' and '.join(found)} could both be the {role}; "
            f"say which with --{role}"
        )
    if not found and required:
        raise DataError(
            f"{table.path}: no column is named like the {role} "
            f"({', '.join(ALIASES[role])}); name it with --{role}. "
            f"Columns: {', '.join(names)}"
        )
    return found[0] if found else None


def _stripped(table: Table, name: str) -> "pl.Series":
    """Cells of a column without outer blanks, null where missing."""
    import polars as pl

    cells = table.frame[name].str.strip_chars()
    keep = ~cells.str.to_lowercase().is_in(_MISSING)
    return pl.select(pl.when(keep).then(cells)).to_series()


def _refuse_at(table: Table, bad: "pl.Series", name: str, why: str) -> None:
    """Raise for the first row where `bad` is true, if there is one."""
    row = bad.arg_max()
    if row is None or not bad[row]:
        return
    cell = str(table.frame[name][row] or "")[:40]
    raise DataError(
        f"{table.path}, line {table.lines[row]}, column {name}: {cell!r} {why}"
    )


def _channels(
    table: Table,
    given: tuple[str, ...] | None,
    taken: set[str | None],
    warnings: list[str],
) -> tuple[tuple[str, ...], FloatArray]:
    """Channel names and values `(rows, channels)`."""
    import polars as pl

    names: Sequence[str] = [n for n in table.frame.columns if n not in taken]
    if given is not None:
        for name in given:
            if name not in table.frame.columns:
                raise DataError(f"{table.path}: {unknown_name('column', name, names)}")
        names = given
    kept: list[str] = []
    columns: list[FloatArray] = []
    for name in names:
        cells = _stripped(table, name)
        numbers = cells.cast(pl.Float64, strict=False)
        bad = cells.is_not_null() & numbers.is_null()
        if given is None and bad.any() and numbers.null_count() == len(numbers):
            warnings.append(f"column {name!r} holds text and is left out")
            continue
        _refuse_at(table, bad, name, "is not a number")
        _refuse_at(table, numbers.is_infinite(), name, "is not finite")
        kept.append(name)
        columns.append(numbers.fill_null(float("nan")).to_numpy())
    if not columns:
        raise DataError(f"{table.path}: no column of numbers is left as a channel")
    return tuple(kept), np.stack(columns, axis=1)


def _ids(table: Table, name: str) -> tuple[tuple[str, ...], IntArray]:
    """Sorted series ids and the id's position for every row."""
    cells = table.frame[name].str.strip_chars()
    _refuse_at(table, cells.fill_null("") == "", name, "the series id is empty")
    texts = cells.to_list()
    keys = tuple(sorted(set(texts), key=_sort_key))
    place = {key: i for i, key in enumerate(keys)}
    return keys, np.array([place[text] for text in texts], dtype=np.int64)


def _sort_key(text: str) -> tuple[float, str]:
    """Numbers by value, before words."""
    try:
        number = float(text)
    except ValueError:
        return float("inf"), text
    return (number if number == number else float("inf")), text


def _times(table: Table, name: str) -> tuple[FloatArray, str]:
    import polars as pl

    cells = table.frame[name].str.strip_chars()
    _refuse_at(table, cells.fill_null("") == "", name, "the time is empty")
    numbers = cells.cast(pl.Float64, strict=False)
    if numbers.null_count() == 0:
        _refuse_at(table, ~numbers.is_finite(), name, "the time is not finite")
        return numbers.to_numpy().copy(), ""
    seconds = np.empty(len(cells))
    for row, text in enumerate(cells):
        try:
            seconds[row] = stamp_seconds(text)
        except ValueError:
            raise DataError(
                f"{table.path}, line {table.lines[row]}, column {name}: {text[:40]!r} "
                "is neither a number nor an ISO date"
            ) from None
    _refuse_at(table, numbers.is_not_null(), name, "is a number among dates")
    return seconds, "seconds"


def _per_series(
    table: Table, name: str, keys: tuple[str, ...], codes: IntArray
) -> list[str]:
    """The one value of a column for each series."""
    cells = table.frame[name].str.strip_chars().fill_null("")
    _refuse_at(table, cells == "", name, "is empty")
    found: list[str | None] = [None] * len(keys)
    for row, (code, text) in enumerate(zip(codes.tolist(), cells, strict=True)):
        if found[code] not in (None, text):
            raise DataError(
                f"{table.path}, line {table.lines[row]}, column {name}: changes from "
                f"{found[code]!r} to {text!r} inside the series with id {keys[code]!r}"
            )
        found[code] = text
    return [str(text) for text in found]


def _labels(
    table: Table, name: str | None, keys: tuple[str, ...], codes: IntArray
) -> tuple[IntArray | None, tuple[str, ...]]:
    if name is None or table.frame[name].null_count() == len(codes):
        return None, ()
    texts = _per_series(table, name, keys, codes)
    classes = tuple(sorted(set(texts), key=_sort_key))
    place = {text: i for i, text in enumerate(classes)}
    return np.array([place[text] for text in texts], dtype=np.int64), classes


def _parts(
    table: Table, name: str | None, keys: tuple[str, ...], codes: IntArray
) -> tuple[Part, ...] | None:
    if name is None:
        return None
    texts = _per_series(table, name, keys, codes)
    for text in texts:
        if text.lower() not in _PARTS:
            raise DataError(
                f"{table.path}, column {name}: {unknown_name('part', text, _PARTS)}"
            )
    return tuple(_PARTS[text.lower()] for text in texts)


def _disordered(codes: IntArray, times: FloatArray) -> bool:
    """Whether some series meets its times out of order as the rows stand."""
    by_series = np.argsort(codes, kind="stable")
    same = np.diff(codes[by_series]) == 0
    return bool((same & (np.diff(times[by_series]) < 0)).any())


def _merge(
    codes: IntArray, times: FloatArray, values: FloatArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Average rows of equal (series, time), which stand next to one another."""
    new = np.ones(len(codes), dtype=bool)
    new[1:] = (np.diff(codes) != 0) | (np.diff(times) != 0)
    starts = np.flatnonzero(new)
    if len(starts) == len(codes):
        return codes, times, values
    seen = np.isfinite(values)
    count = np.add.reduceat(seen.astype(np.int64), starts, axis=0)
    total = np.add.reduceat(np.where(seen, values, 0.0), starts, axis=0)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return codes[starts], times[starts], mean
