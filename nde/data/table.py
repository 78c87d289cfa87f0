"""Delimited text to a table of strings that knows the line of every row.

Refuses what a lenient parser would let pass: ragged rows, repeated column names,
other encodings, NUL bytes, a missing header. The meaning of the columns is decided in
`nde.data.long_csv`.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nde.data.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_SEPARATORS = (",", ";", "\t", "|")


@dataclass(frozen=True, eq=False)
class Table:
    """Cells as text (None where empty), and the line of the file of each row."""

    path: Path
    frame: "pl.DataFrame"
    lines: tuple[int, ...]
    separator: str


def read_table(path: Path) -> Table:
    """Read a UTF-8 file of separated values with one header line.

    The separator is the one of comma, semicolon, tab and bar that the header holds
    most of. Raises `DataError` naming the line.
    """
    text = _text(path)
    rows = io.StringIO(text, newline="")
    first = next((line for line in rows if line.strip()), "")
    if not first:
        raise DataError(f"{path}: the file is empty")
    separator = max(_SEPARATORS, key=first.count)
    if '"' in text:
        header, frame, lines = _quoted(text, separator, path)
    else:
        header, frame, lines = _plain(text, separator, path)
    return Table(
        path,
        frame.rename(dict(zip(frame.columns, header, strict=True))),
        tuple(lines),
        separator,
    )


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8 encoded "
            "text; a .csv file is expected"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}, line {line}: a NUL byte; the file is damaged")
    return text


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(names) < 2:
        raise DataError(
            f"{path}: one column only; a separator (comma, semicolon, tab) between "
            "columns is expected"
        )
    for i, name in enumerate(names):
        if not name:
            raise DataError(f"{path}: column {i + 1} has no name in the header")
        if name in names[:i]:
            raise DataError(f"{path}: duplicate column name {name!r} in the header")
    if any(_is_number(name) for name in names):
        raise DataError(
            f"{path}: the first line holds numbers, so it is no header; "
            "a line of column names is expected"
        )
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plain(
    text: str, separator: str, path: Path
) -> tuple[list[str], "pl.DataFrame", list[int]]:
    """Text without quotes: a line is a row, and the separators can be counted."""
    import polars as pl

    kept = [
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    header = _header(kept[0][1].split(separator), path)
    for number, line in kept[1:]:
        if line.count(separator) + 1 != len(header):
            _ragged(path, number, line.count(separator) + 1, len(header))
    if len(kept) == 1:
        _no_rows(path)
    body = "\n".join(line for _, line in kept).encode()
    frame = pl.read_csv(
        io.BytesIO(body),
        separator=separator,
        quote_char=None,
        has_header=False,
        skip_rows=1,
        infer_schema=False,
    )
    return header, frame, [number for number, _ in kept[1:]]


def _quoted(
    text: str, separator: str, path: Path
) -> tuple[list[str], "pl.DataFrame", list[int]]:
    """Text with quotes, where a cell may hold separators and line ends."""
    import polars as pl

    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None
    header = _header(rows[0], path)
    for number, row in zip(lines[1:], rows[1:], strict=True):
        if len(row) != len(header):
            _ragged(path, number, len(row), len(header))
    columns = {str(i): [row[i] or None for row in rows[1:]] for i in range(len(header))}
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return header, frame, lines[1:]


def _no_rows(path: Path) -> NoReturn:
    raise DataError(f"{path}: a header and no rows, the table is empty")


def _ragged(path: Path, line: int, found: int, expected: int) -> NoReturn:
    raise DataError(
        f"{path}, line {line}: the row has {found} fields, the header {expected}"
    )
