"""Tables of one row per series: `id, x_0, x_1, ..., x_T[, label][, split]`.

Told by columns `name_number` that count up from 0 or 1 without a gap, beside no column
of times. Several channels have several such runs of one length.
"""

import re
from collections.abc import Sequence

import numpy as np

from nde.data.assemble import About
from nde.data.cells import read_ids, read_labels, read_numbers, read_parts
from nde.data.columns import Roles, find_roles
from nde.data.errors import DataError
from nde.data.grid import Grid, read_grid, read_times_file
from nde.data.long_table import read_long_table
from nde.data.request import Request
from nde.data.series import Reading
from nde.data.table import Table

_STEP = re.compile(r"^(?P<channel>.+)_(?P<step>\d+)$")


def read_any_table(table: Table, request: Request) -> Reading:
    """The series of a wide table, or of a long one or its kin.

    Raises `DataError`.
    """
    columns = request.columns
    roles = find_roles(table, columns)
    if roles.time is None:
        runs = _runs(roles.rest(table.frame.columns))
        if runs:
            return _wide(table, roles, runs, request)
    if request.times is not None:
        raise DataError(
            f"{table.source}: --times gives the times of a table with one row per "
            "series, but this one has one row per time"
        )
    return read_long_table(table, columns)


def _runs(rest: Sequence[str]) -> dict[str, list[str]]:
    """Channel -> its columns in order of time; empty if the table is not wide."""
    steps: dict[str, dict[int, str]] = {}
    for name in rest:
        match = _STEP.match(name)
        if match is None:
            return {}
        steps.setdefault(match["channel"], {})[int(match["step"])] = name
    runs = {}
    for channel, places in steps.items():
        numbers = sorted(places)
        if numbers not in (
            list(range(len(numbers))),
            list(range(1, len(numbers) + 1)),
        ):
            return {}
        runs[channel] = [places[number] for number in numbers]
    lengths = {len(names) for names in runs.values()}
    return runs if len(lengths) == 1 and lengths != {1} else {}


def _wide(
    table: Table, roles: Roles, runs: dict[str, list[str]], request: Request
) -> Reading:
    keys, codes = read_ids(table, roles.id)
    if len(keys) != len(codes):
        again = next(i for i in range(len(codes)) if codes[i] in codes[:i])
        raise DataError(
            f"{table.place(again)}, column {roles.id}: the id {keys[codes[again]]!r} "
            "stands twice in a table that seems to have one row per series (no column "
            "of times, and columns that count up); name the times with --time"
        )
    steps = len(next(iter(runs.values())))
    times, unit = None, ""
    if request.times is not None:
        times, unit = read_times_file(request.times, steps)
    stacked = np.stack(
        [
            np.stack([read_numbers(table, name) for name in names], axis=1)
            for names in runs.values()
        ],
        axis=2,
    )
    values = np.empty_like(stacked)
    values[codes] = stacked
    labels, classes = read_labels(table, roles.label, keys, codes)
    about = About(
        name=table.source.absolute().name.split(".")[0],
        ids=keys,
        channels=tuple(runs),
        labels=labels,
        classes=classes,
        parts=read_parts(table, roles.split, keys, codes),
        time_unit=unit,
    )
    ends = ", ".join(f"{names[0]} to {names[-1]}" for names in runs.values())
    clock = f"times of {request.times}" if request.times else "0, 1, 2, ... steps"
    notes = (
        f"file: {table.source} ({len(codes)} rows, {table.kind})",
        f"layout: one row per series, {ends}",
        f"id: {roles.id}",
        f"time: {clock}" + (f" ({unit})" if unit else ""),
        f"label: {roles.label or 'none'}",
        f"split: {roles.split or 'none'}",
    )
    chosen = request.columns.channels
    return read_grid(table.source, about, Grid(values, times), notes, chosen=chosen)
