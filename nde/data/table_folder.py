"""A folder of text tables, one per series, whose names are the ids."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from nde.data.columns import ALIASES
from nde.data.errors import DataError
from nde.data.long_table import read_long_table
from nde.data.raw import read_bytes
from nde.data.request import Request
from nde.data.series import Reading
from nde.data.table import Table, parse_tables

_SUFFIXES = (".csv", ".tsv")
# The column of ids that the names of the files make.
STEM = "stem"


def holds_tables(folder: Path) -> bool:
    """Whether `folder` holds text tables, by their names."""
    return any(_is_table(file) for file in folder.iterdir())


def find_tables(path: Path, request: Request) -> list[Path]:
    """The tables in the folder `path`, without that of the labels."""
    files = sorted(file for file in path.iterdir() if _is_table(file))
    apart = request.labels
    return [f for f in files if apart is None or f.absolute() != apart.absolute()]


def read_table_folder(path: Path, request: Request) -> Reading:
    """Read the tables of a folder as one, the name of each file as the series id.

    All share one header line, whose columns mean what they mean in a table of all
    series. Files with a column of ids need `--id`, to say which of the two counts.
    Raises `DataError` naming file and line.
    """
    files = find_tables(path, request)
    table = read_stems(path, ((str(file), read_bytes(file)) for file in files))
    columns = request.columns
    if columns.id is None:
        names = [n for n in table.frame.columns if n.lower() in ALIASES["id"]]
        if names:
            raise DataError(
                f"{path}: the id could be the column {names[0]} or the name of each "
                f"file; pass --id {names[0]} or --id {STEM}"
            )
        columns = replace(columns, id=STEM)
    if columns.id != STEM:
        table = replace(table, frame=table.frame.drop(STEM))
    return read_long_table(table, columns)


def read_stems(source: Path, texts: Iterable[tuple[str, bytes]]) -> Table:
    """One table of files by place and content, with a column `STEM` of their names.

    Raises `DataError`.
    """
    import polars as pl

    table = parse_tables(source, texts)
    if STEM in table.frame.columns:
        raise DataError(
            f"{table.files[0]}: a column named {STEM!r}, which is kept for the names "
            "of the files; rename it"
        )
    stems = [_stem(file) for file in table.files]
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise DataError(f"{source}: two files of the name {twice[0]!r}; rename one")
    column = pl.Series(STEM, np.array(stems)[table.owner])
    return replace(table, frame=table.frame.with_columns(column))


def _stem(file: str) -> str:
    return Path(file).name.removesuffix(".gz").rpartition(".")[0]


def _is_table(file: Path) -> bool:
    return file.name.lower().removesuffix(".gz").endswith(_SUFFIXES)
