"""Observations in any order, of all series together, to the canonical form."""

from dataclasses import dataclass

import numpy as np

from nde.data.series import FloatArray, IntArray, Part, Reading, SeriesDataset


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations of many channels: series, time and values of each row.

    `codes` `(rows,)` are positions in the list of series, `times` `(rows,)`, `values`
    `(rows, channels)` with NaN where nothing was observed.
    """

    codes: IntArray
    times: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class About:
    """What a data set says of its series beside their observations."""

    name: str
    ids: tuple[str, ...]
    channels: tuple[str, ...]
    labels: IntArray | None = None
    classes: tuple[str, ...] = ()
    parts: tuple[Part, ...] | None = None
    time_unit: str = ""


def assemble(
    about: About, rows: Rows, notes: tuple[str, ...], warnings: list[str]
) -> Reading:
    """Sort and merge `rows` to a data set; every series needs one row at least.

    A repeated (id, time) is averaged channel by channel over what was observed, and
    that is added to `warnings`, as is what was sorted or is short.
    """
    codes, times = rows.codes, rows.times
    _tell_disorder(codes, times, warnings)
    order = np.lexsort((times, codes))
    codes, times, values = _merge(codes[order], times[order], rows.values[order])
    repeats = len(order) - len(codes)
    if repeats:
        warnings.append(f"{repeats} duplicate (id, time) rows were averaged")
    bounds = np.searchsorted(codes, np.arange(len(about.ids) + 1))
    spans = [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    single = [
        key for key, s in zip(about.ids, spans, strict=True) if s.stop - s.start == 1
    ]
    if single:
        warnings.append(
            f"{len(single)} series of one observation, the first with id {single[0]!r}"
        )
    dataset = SeriesDataset(
        name=about.name,
        ids=about.ids,
        times=tuple(times[span] for span in spans),
        values=tuple(values[span] for span in spans),
        channels=about.channels,
        labels=about.labels,
        classes=about.classes,
        parts=about.parts,
        time_unit=about.time_unit,
    )
    return Reading(dataset, notes, tuple(warnings))


def gather_cells(
    codes: IntArray,
    times: FloatArray,
    columns: IntArray,
    cells: FloatArray,
    *,
    channels: int,
    warnings: list[str],
) -> Rows:
    """Rows from single observations `(cells,)`, each with the column it belongs to.

    Repeats of one (id, time, channel) are averaged, with a warning; missing ones,
    NaN, take no part but keep their time.
    """
    _tell_disorder(codes, times, warnings)
    moments, place = np.unique(times, return_inverse=True)
    key = codes * len(moments) + place
    row_keys, row = np.unique(key, return_inverse=True)
    seen = np.isfinite(cells)
    slot = row[seen] * channels + columns[seen]
    size = len(row_keys) * channels
    count = np.bincount(slot, minlength=size)
    total = np.bincount(slot, weights=cells[seen], minlength=size)
    repeats = len(slot) - np.count_nonzero(count)
    if repeats:
        warnings.append(f"{repeats} repeats of an (id, time, channel) were averaged")
    values = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return Rows(
        row_keys // len(moments),
        moments[row_keys % len(moments)],
        values.reshape(len(row_keys), channels),
    )


def _tell_disorder(codes: IntArray, times: FloatArray, warnings: list[str]) -> None:
    grouped = np.argsort(codes, kind="stable")
    same = np.diff(codes[grouped]) == 0
    if (np.diff(times[grouped])[same] < 0).any():
        warnings.append("rows were out of time order inside a series and were sorted")


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
