"""Columns of text cells to ids, times, numbers and labels, refusing by place."""

from typing import TYPE_CHECKING

import numpy as np

from nde.data.errors import DataError, unknown_name
from nde.data.series import FloatArray, IntArray, Part
from nde.data.stamps import stamp_seconds
from nde.data.table import Table

if TYPE_CHECKING:
    import polars as pl

# Words, in lower case, for a value that was not observed.
MISSING = ("", "nan", "na", "n/a", "null", "none", "?")
_PARTS: dict[str, Part] = {
    "train": "train", "training": "train", "test": "test",
    "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation",
}  # fmt: skip
# From here on float64 does not tell neighbouring whole numbers apart.
_EXACT = 2.0**53


def refuse_at(table: Table, bad: "pl.Series", name: str, why: str) -> None:
    """Raise `DataError` for the first row where `bad` is true, if there is one."""
    row = bad.arg_max()
    if row is None or not bad[row]:
        return
    cell = str(table.frame[name][row] or "")[:40]
    raise DataError(f"{table.place(row)}, column {name}: {cell!r} {why}")


def read_numbers(table: Table, name: str) -> FloatArray:
    """A column of finite numbers, NaN where missing. Raises `DataError`."""
    numbers, bad = _cast(table, name)
    refuse_at(table, bad, name, "is not a number")
    refuse_at(table, numbers.is_infinite(), name, "is not finite")
    found: FloatArray = numbers.fill_null(float("nan")).to_numpy()
    return found


def holds_text(table: Table, name: str) -> bool:
    """Whether a column has cells and none of them is a number."""
    numbers, bad = _cast(table, name)
    return bool(bad.any()) and numbers.null_count() == len(numbers)


def _cast(table: Table, name: str) -> tuple["pl.Series", "pl.Series"]:
    """Numbers, null where there is none, and where a cell is something else."""
    import polars as pl

    cells = table.frame[name].str.strip_chars()
    keep = ~cells.str.to_lowercase().is_in(MISSING)
    kept = pl.select(pl.when(keep).then(cells)).to_series()
    numbers = kept.cast(pl.Float64, strict=False)
    return numbers, kept.is_not_null() & numbers.is_null()


def read_ids(table: Table, name: str) -> tuple[tuple[str, ...], IntArray]:
    """Sorted series ids, numbers by value before words, and each row's position."""
    cells = table.frame[name].str.strip_chars()
    refuse_at(table, cells.fill_null("") == "", name, "the series id is empty")
    keys, codes = sorted_codes(cells)
    return tuple(keys), codes


def sorted_codes(cells: "pl.Series") -> tuple[list[str], IntArray]:
    """The distinct texts of a column, sorted, and the position of each row's text."""
    import polars as pl

    keys = sorted(cells.unique().to_list(), key=_by_value)
    places = pl.Series(range(len(keys)), dtype=pl.Int64)
    codes = cells.replace_strict(pl.Series(keys, dtype=pl.String), places)
    return keys, codes.to_numpy().copy()


def _by_value(text: str) -> tuple[float, str]:
    try:
        number = float(text)
    except ValueError:
        return float("inf"), text
    return (number if number == number else float("inf")), text


def read_times(table: Table, name: str, warnings: list[str]) -> tuple[FloatArray, str]:
    """Times as numbers, and their unit: "seconds" for dates, "" for numbers."""
    import polars as pl

    cells = table.frame[name].str.strip_chars()
    refuse_at(table, cells.fill_null("") == "", name, "the time is empty")
    numbers = cells.cast(pl.Float64, strict=False)
    if numbers.null_count() == 0:
        refuse_at(table, ~numbers.is_finite(), name, "the time is not finite")
        found: FloatArray = numbers.to_numpy().copy()
        if np.abs(found).max() >= _EXACT:
            warnings.append(
                f"column {name!r} holds times above 2^53, where float64 merges "
                "neighbours; subtract an origin from them"
            )
        return found, ""
    texts, places = np.unique(cells.to_numpy().astype(str), return_inverse=True)
    seconds = np.empty(len(texts))
    for i, text in enumerate(texts.tolist()):
        try:
            seconds[i] = stamp_seconds(text)
        except ValueError:
            why = "is neither a number nor an ISO date"
            refuse_at(table, cells == text, name, why)
    refuse_at(table, numbers.is_not_null(), name, "is a number among dates")
    return seconds[places], "seconds"


def read_labels(
    table: Table, name: str | None, keys: tuple[str, ...], codes: IntArray
) -> tuple[IntArray | None, tuple[str, ...]]:
    """Labels of the series as positions in their classes; None where none is given."""
    if name is None or table.frame[name].null_count() == len(codes):
        return None, ()
    classes, labels = sorted_codes(_per_series(table, name, keys, codes))
    return labels, tuple(classes)


def read_parts(
    table: Table, name: str | None, keys: tuple[str, ...], codes: IntArray
) -> tuple[Part, ...] | None:
    """The part that each series belongs to; None without such a column."""
    if name is None:
        return None
    parts = []
    for text in _per_series(table, name, keys, codes):
        if text.lower() not in _PARTS:
            raise DataError(
                f"{table.source}, column {name}: {unknown_name('part', text, _PARTS)}"
            )
        parts.append(_PARTS[text.lower()])
    return tuple(parts)


def _per_series(
    table: Table, name: str, keys: tuple[str, ...], codes: IntArray
) -> "pl.Series":
    """The one value of a column for each series."""
    cells = table.frame[name].str.strip_chars().fill_null("")
    refuse_at(table, cells == "", name, "is empty")
    _, first = np.unique(codes, return_index=True)
    of_series = cells.gather(first)
    changed = cells != of_series.gather(codes)
    row = changed.arg_max()
    if row is not None and changed[row]:
        raise DataError(
            f"{table.place(row)}, column {name}: changes from "
            f"{of_series[int(codes[row])]!r} to {cells[row]!r} inside the series with "
            f"id {keys[codes[row]]!r}; if it is a channel, name it in --channels"
        )
    return of_series
