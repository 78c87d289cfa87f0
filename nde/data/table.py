"""Delimited text to a table of strings that knows the place of every row.

Refuses what a lenient parser would let pass: ragged rows, repeated column names,
other encodings, NUL bytes, a missing header. The meaning of the columns is decided by
the readers that use it.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from nde.data.errors import DataError
from nde.data.raw import read_bytes
from nde.data.series import IntArray

if TYPE_CHECKING:
    import polars as pl

_SEPARATORS = (",", ";", "\t", "|")


@dataclass(frozen=True, eq=False)
class Table:
    """Cells as text, None where empty, from one file or from several of one header.

    Row `i` stands in file `files[owner[i]]` at `lines[i]`, counted in `unit` ("line"
    in text, "row" elsewhere). `kind` says in words what was read.
    """

    source: Path
    frame: "pl.DataFrame"
    kind: str
    files: tuple[str, ...]
    owner: IntArray
    lines: IntArray
    unit: str = "line"

    def place(self, row: int) -> str:
        """Where a row stands, for messages: "visits.csv, line 3"."""
        return f"{self.files[self.owner[row]]}, {self.unit} {self.lines[row]}"


def read_table(path: Path) -> Table:
    """Read a UTF-8 file of separated values with one header line.

    The separator is the one of comma, semicolon, tab and bar that the header holds
    most of. Raises `DataError` naming the line.
    """
    return parse_tables(path, [(str(path), read_bytes(path))])


def parse_tables(source: Path, texts: Iterable[tuple[str, bytes]]) -> Table:
    """One table from the names and contents of files that share one header line.

    Raises `DataError` naming file and line.
    """
    import polars as pl

    files: list[str] = []
    lines: list[IntArray] = []
    frames: list[pl.DataFrame] = []
    plain: list[str] = []
    first: list[str] = []
    separator = ""
    for file, raw in texts:
        text = _text(raw, file)
        separator = separator or _separator(text, file)
        quoted: list[pl.DataFrame] = []
        unquoted: list[str] = []
        if '"' in text:
            header, frame, numbers = _quoted(text, separator, file)
            quoted = [frame]
        else:
            header, unquoted, numbers = _plain(text, separator, file)
        if not numbers:
            raise DataError(f"{file}: a header and no rows, the table is empty")
        first = first or header
        if header != first:
            raise DataError(
                f"{file}: the columns {', '.join(header)} differ from those of "
                f"{files[0]}, {', '.join(first)}; all files must share one header"
            )
        files.append(file)
        lines.append(np.array(numbers, dtype=np.int64))
        plain += unquoted
        if quoted:
            # What was read before them keeps its place before them.
            frames += [*_parsed(plain, separator, len(first)), *quoted]
            plain = []
    if not files:
        raise DataError(f"{source}: no tables in it")
    frame = pl.concat([*frames, *_parsed(plain, separator, len(first))])
    frame.columns = first
    words = {"\t": "tab"}.get(separator, separator)
    owner = np.repeat(np.arange(len(files)), [len(numbers) for numbers in lines])
    return Table(
        source,
        frame,
        f"separator {words}",
        tuple(files),
        owner,
        np.concatenate(lines),
    )


def _text(raw: bytes, file: str) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8 encoded "
            "text; a table of separated values is expected, such as .csv"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{file}, line {line}: a NUL byte; the file is damaged")
    return text


def _separator(text: str, file: str) -> str:
    rows = io.StringIO(text, newline="")
    first = next((line for line in rows if line.strip()), "")
    if not first:
        raise DataError(f"{file}: the file is empty")
    return max(_SEPARATORS, key=first.count)


def _header(cells: list[str], file: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(names) < 2:
        raise DataError(
            f"{file}: one column only; a separator (comma, semicolon, tab) between "
            "columns is expected"
        )
    for i, name in enumerate(names):
        if not name:
            raise DataError(f"{file}: column {i + 1} has no name in the header")
        if name in names[:i]:
            raise DataError(f"{file}: duplicate column name {name!r} in the header")
    if any(_is_number(name) for name in names):
        raise DataError(
            f"{file}: the first line holds numbers, so it is no header; "
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
    text: str, separator: str, file: str
) -> tuple[list[str], list[str], list[int]]:
    """Text without quotes: a line is a row, and the separators can be counted."""
    lines = text.splitlines()
    kept = [line for line in lines if line and not line.isspace()]
    if not kept:
        raise DataError(f"{file}: the file is empty")
    numbers = list(range(1, len(lines) + 1))
    if len(kept) < len(lines):
        numbers = [n for n in numbers if lines[n - 1] and not lines[n - 1].isspace()]
    header = _header(kept[0].split(separator), file)
    gaps = [line.count(separator) for line in kept]
    if gaps.count(len(header) - 1) < len(kept):
        bad = next(i for i, count in enumerate(gaps) if count != len(header) - 1)
        _ragged(file, numbers[bad], gaps[bad] + 1, len(header))
    return header, kept[1:], numbers[1:]


def _parsed(rows: list[str], separator: str, width: int) -> list["pl.DataFrame"]:
    """Lines without quotes as a frame of text, none for no lines."""
    import polars as pl

    if not rows:
        return []
    frame = pl.read_csv(
        io.BytesIO("\n".join(rows).encode()),
        separator=separator,
        quote_char=None,
        has_header=False,
        infer_schema=False,
    )
    frame.columns = [str(i) for i in range(width)]
    return [frame]


def _quoted(
    text: str, separator: str, file: str
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
        raise DataError(f"{file}, line {reader.line_num}: {error}") from None
    header = _header(rows[0], file)
    for number, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            _ragged(file, number, len(row), len(header))
    columns = {str(i): [row[i] or None for row in rows[1:]] for i in range(len(header))}
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return header, frame, lines[1:]


def _ragged(file: str, line: int, found: int, expected: int) -> NoReturn:
    raise DataError(
        f"{file}, line {line}: the row has {found} fields, the header {expected}"
    )
