"""Tables of one row per visit, `id, time, channels..., label[, split]`, and their kin.

Rows come in any order; an empty cell is a value that was not observed. Two relatives
are told by their columns: tidy tables, `id, time, channel, value`, one row per
observation; and those of GRU-ODE-Bayes (De Brouwer et al., 2019), `ID, Time, Value_k,
Mask_k`, where a mask of 0 says that the value beside it was not observed.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nde.data.assemble import About, Rows, assemble, gather_cells
from nde.data.cells import (
    holds_text,
    read_ids,
    read_labels,
    read_numbers,
    read_parts,
    read_times,
    refuse_at,
    sorted_codes,
)
from nde.data.columns import Columns, Roles, find_roles, refuse_missing
from nde.data.errors import DataError, unknown_name
from nde.data.series import FloatArray, IntArray, Reading
from nde.data.table import Table, read_table

_NAMERS = ("channel", "variable", "parameter")
_MASK = re.compile(r"^mask_(.+)$", re.IGNORECASE)
_VALUE = re.compile(r"^value_(.+)$", re.IGNORECASE)


def read_long_csv(path: Path, columns: Columns | None = None) -> Reading:
    """Read a long table of separated values.

    Series come out sorted by id, so that the order of the rows does not matter; a
    repeated (id, time) is averaged, with a warning. Raises `DataError` naming the
    file, the line and the column.
    """
    return read_long_table(read_table(path), columns or Columns())


def read_long_table(table: Table, columns: Columns) -> Reading:
    """Series of a table of visits, of a tidy one or of one with masks.

    Raises `DataError` naming the place.
    """
    roles = find_roles(table, columns)
    if roles.time is None:
        refuse_missing(table, "time")
    warnings: list[str] = []
    keys, codes = read_ids(table, roles.id)
    times, unit = read_times(table, roles.time, warnings)
    labels, classes = read_labels(table, roles.label, keys, codes)
    parts = read_parts(table, roles.split, keys, codes)
    rest = roles.rest(table.frame.columns)
    namer = _namer(table, rest, columns.channels)
    if namer is not None:
        names, rows = _tidy(
            table, namer, rest, (codes, times), columns.channels, warnings
        )
        layout = f"one row per observation: {namer} names the channel"
    else:
        masked, rest = _masks(rest)
        given = columns.channels
        names, values = _channels(table, given, rest, warnings)
        values = _hide(table, names, values, masked)
        rows = Rows(codes, times, values)
        layout = "one row per time" + (", values with masks" if masked else "")
    about = About(
        name=table.source.absolute().name.split(".")[0],
        ids=keys,
        channels=names,
        labels=labels,
        classes=classes,
        parts=parts,
        time_unit=unit,
    )
    return assemble(about, rows, _notes(table, roles, names, unit, layout), warnings)


def _notes(
    table: Table, roles: Roles, names: Sequence[str], unit: str, layout: str
) -> tuple[str, ...]:
    files = f", {len(table.files)} files" if len(table.files) > 1 else ""
    return (
        f"file: {table.source} ({len(table.lines)} rows{files}, {table.kind})",
        f"layout: {layout}",
        f"id: {roles.id}",
        f"time: {roles.time}" + (f" ({unit})" if unit else ""),
        f"label: {roles.label or 'none'}",
        f"channels: {', '.join(names)}",
        f"split: {roles.split or 'none'}",
    )


def _channels(
    table: Table,
    given: tuple[str, ...] | None,
    rest: Sequence[str],
    warnings: list[str],
) -> tuple[tuple[str, ...], FloatArray]:
    """Channel names and values `(rows, channels)`."""
    for name in given or ():
        if name not in table.frame.columns:
            raise DataError(f"{table.source}: {unknown_name('column', name, rest)}")
    kept: list[str] = []
    columns: list[FloatArray] = []
    for name in rest if given is None else given:
        if given is None and holds_text(table, name):
            warnings.append(f"column {name!r} holds text and is left out")
            continue
        kept.append(name)
        columns.append(read_numbers(table, name))
    if not columns:
        raise DataError(f"{table.source}: no column of numbers is left as a channel")
    return tuple(kept), np.stack(columns, axis=1)


def _namer(
    table: Table, rest: Sequence[str], given: tuple[str, ...] | None
) -> str | None:
    """The column of a tidy table that names the channel of each row."""
    named = [name for name in rest if name.lower() in _NAMERS]
    if len(named) != 1 or not holds_text(table, named[0]):
        return None
    if given is not None and set(given) <= set(rest):
        return None
    if len(rest) != 2:
        others = [name for name in rest if name != named[0]]
        raise DataError(
            f"{table.source}: {named[0]} seems to name the channel of each row, which "
            f"needs one column of values beside it, got {', '.join(others) or 'none'}; "
            "leave the others out, or name columns of channels with --channels"
        )
    return named[0]


def _tidy(
    table: Table,
    namer: str,
    rest: Sequence[str],
    where: tuple[IntArray, FloatArray],
    given: tuple[str, ...] | None,
    warnings: list[str],
) -> tuple[tuple[str, ...], Rows]:
    """Channels named in the column `namer`, with values in the other one of `rest`."""
    codes, times = where
    (value,) = (name for name in rest if name != namer)
    cells = table.frame[namer].str.strip_chars()
    refuse_at(table, cells.fill_null("") == "", namer, "the channel has no name")
    numbers = read_numbers(table, value)
    names, columns = sorted_codes(cells)
    if given is not None:
        for name in given:
            if name not in names:
                raise DataError(
                    f"{table.source}: {unknown_name('channel', name, names)}"
                )
        order = np.full(len(names), -1)
        order[[names.index(name) for name in given]] = np.arange(len(given))
        columns = order[columns]
        names = list(given)
        # Rows of other channels still say when the series was looked at.
        numbers = np.where(columns >= 0, numbers, np.nan)
    rows = gather_cells(
        codes, times, columns, numbers, channels=len(names), warnings=warnings
    )
    return tuple(names), rows


def _masks(rest: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Value column -> its mask column, and the names without the masks."""
    values = {m[1]: name for name in rest if (m := _VALUE.match(name))}
    masks = {m[1]: name for name in rest if (m := _MASK.match(name))}
    if not masks or masks.keys() != values.keys():
        return {}, list(rest)
    pairs = {values[end]: masks[end] for end in values}
    return pairs, [name for name in rest if name not in pairs.values()]


def _hide(
    table: Table, names: Sequence[str], values: FloatArray, masks: dict[str, str]
) -> FloatArray:
    """`values` with NaN where the mask of its column is 0."""
    import polars as pl

    columns = []
    for name, value in zip(names, values.T, strict=True):
        mask = masks.get(name)
        if mask is not None:
            seen = read_numbers(table, mask)
            bad = pl.Series((seen != 0) & (seen != 1))
            refuse_at(table, bad, mask, "is a mask that is neither 0 nor 1")
            value = np.where(seen == 1, value, np.nan)
        columns.append(value)
    return np.stack(columns, axis=1)
