"""Values on a grid of times, `(series, steps, channels)`, to the canonical form.

A step at which no channel of a series has a value was not observed and is left out, so
that padding needs no lengths and a grid makes the series that a long table makes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nde.data.assemble import About, Rows, assemble
from nde.data.errors import DataError
from nde.data.raw import read_bytes
from nde.data.series import FloatArray, Reading
from nde.data.stamps import stamp_seconds

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Grid:
    """Values `(series, steps, channels)`, NaN where missing, and times `(steps,)` or
    `(series, steps)`, NaN at padded steps; None for 0, 1, 2, ... steps."""

    values: FloatArray
    times: FloatArray | None = None


def read_grid(
    source: Path,
    about: About,
    grid: Grid,
    notes: tuple[str, ...],
    *,
    chosen: tuple[str, ...] | None,
) -> Reading:
    """The series of `grid`, with the `chosen` ones of its channels.

    `source` is named in messages. Raises `DataError`.
    """
    series, steps, _ = grid.values.shape
    values = grid.values
    _refuse_infinite(source, about, grid.values)
    times = np.arange(steps, dtype=np.float64) if grid.times is None else grid.times
    times = np.broadcast_to(times, (series, steps))
    kept: BoolArray = np.any(np.isfinite(grid.values), axis=2)
    bad = kept & ~np.isfinite(times)
    if bad.any():
        i, step = np.argwhere(bad)[0].tolist()
        raise DataError(
            f"{source}, series {about.ids[i]}, step {step}: a value without a finite "
            f"time, got {times[i, step]}"
        )
    warnings = []
    empty = np.flatnonzero(~kept.any(axis=1))
    if len(empty):
        warnings.append(
            f"{len(empty)} series without any value, the first with id "
            f"{about.ids[empty[0]]!r}"
        )
        first = np.isfinite(times[empty]).argmax(axis=1)
        kept[empty, first] = True
        if not np.isfinite(times[empty, first]).all():
            raise DataError(f"{source}: a series has neither a value nor a time")
    dropped = int((np.isfinite(times) & ~kept).sum())
    if dropped:
        notes = (*notes, f"{dropped} steps without any value are left out")
    notes = (*notes, f"channels: {', '.join(chosen or about.channels)}")
    codes, place = np.nonzero(kept)
    rows = Rows(codes, times[codes, place], values[codes, place])
    unit = about.time_unit or ("steps" if grid.times is None else "")
    reading = assemble(replace(about, time_unit=unit), rows, notes, warnings)
    if chosen is None:
        return reading
    return replace(reading, dataset=reading.dataset.select(chosen))


def read_times_file(path: Path, steps: int) -> tuple[FloatArray, str]:
    """Times `(steps,)` and their unit from text, one number or ISO date per line.

    Raises `DataError` naming the line.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: not UTF-8 encoded text; one time per line is expected"
        ) from None
    times = []
    dates = False
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.strip()
        if not word:
            continue
        try:
            times.append(stamp_seconds(word))
        except ValueError:
            raise DataError(
                f"{path}, line {number}: {word[:40]!r} is neither a number nor an ISO "
                "date; one time per line is expected"
            ) from None
        dates |= not _is_number(word)
    if len(times) != steps:
        raise DataError(
            f"{path}: {len(times)} times, but the grid has {steps} steps; one time "
            "per step is expected"
        )
    return np.array(times), "seconds" if dates else ""


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _refuse_infinite(source: Path, about: About, values: FloatArray) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        i, step, channel = np.argwhere(infinite)[0].tolist()
        raise DataError(
            f"{source}, series {about.ids[i]}, step {step}, channel "
            f"{about.channels[channel]}: a value is not finite; NaN stands for missing"
        )
