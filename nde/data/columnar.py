"""Parquet and Feather (Arrow IPC) files to the same table of text as `.csv`.

Numbers become their shortest text, which reads back to the same number; dates become
ISO dates in UTC.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nde.data.errors import DataError
from nde.data.table import Table

if TYPE_CHECKING:
    import polars as pl

_MAGIC = {"Parquet": b"PAR1", "Feather": b"ARROW1"}


def read_parquet(path: Path) -> Table:
    """The table of a Parquet file. Raises `DataError`."""
    import polars as pl

    return _read(path, "Parquet", lambda: pl.read_parquet(path))


def read_feather(path: Path) -> Table:
    """The table of a Feather file of version 2, uncompressed or not.

    Raises `DataError`.
    """
    import polars as pl

    return _read(path, "Feather", lambda: pl.read_ipc(path))


def _read(path: Path, kind: str, load: Callable[[], "pl.DataFrame"]) -> Table:
    import polars as pl

    head, end = _ends(path, len(_MAGIC[kind]))
    if head != _MAGIC[kind]:
        raise DataError(
            f"{path}: not a {kind} file, which begins with {_MAGIC[kind]!r}, "
            f"got {head!r}"
        )
    if end != _MAGIC[kind]:
        raise DataError(
            f"{path}: a truncated or corrupt {kind} file, it has no footer; "
            "write it again"
        )
    try:
        frame = load()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: a truncated or corrupt {kind} file ({reason}); write it again"
        ) from None
    if frame.width < 2:
        raise DataError(f"{path}: {frame.width} columns; a series needs id and times")
    if not frame.height:
        raise DataError(f"{path}: columns and no rows, the table is empty")
    columns = [_text(path, column) for column in frame]
    return Table(
        path,
        pl.DataFrame(columns),
        kind,
        (str(path),),
        np.zeros(frame.height, dtype=np.int64),
        np.arange(1, frame.height + 1),
        unit="row",
    )


def _ends(path: Path, size: int) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file."""
    try:
        with open(path, "rb") as file:
            head = file.read(size)
            length = file.seek(0, 2)
            file.seek(max(0, length - size))
            return head, file.read(size)
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror})") from None


def _text(path: Path, column: "pl.Series") -> "pl.Series":
    import polars as pl

    kind = column.dtype
    if kind.is_nested() or kind in (pl.Binary, pl.Object):
        raise DataError(
            f"{path}, column {column.name}: holds {kind}, expected numbers, texts or "
            "dates, one row per visit; take nested lists apart into rows first"
        )
    if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if isinstance(kind, pl.Duration):
        # Seconds, as a date is.
        column = column.dt.total_nanoseconds() / 1e9
    return column.cast(pl.String)
