"""From what the user typed to a data set: a bundled name, a `.ts` pair, or a table."""

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from nde.data.columns import Columns
from nde.data.errors import DataError, unknown_name
from nde.data.long_table import read_long_csv
from nde.data.series import Reading
from nde.data.ts_file import read_ts

# Name on the command line -> file stem under bundled/.
BUNDLED = {"japanese-vowels": "JapaneseVowels"}
_TABLES = (".csv", ".tsv")


def read_source(source: str, columns: Columns | None = None) -> Reading:
    """Read the data set named or located by `source`.

    A bundled name wins; then a path: a `.csv` or `.tsv` table, else `.ts` files.
    `columns` applies to tables only. Raises `DataError`.
    """
    stem = BUNDLED.get(source)
    if stem is not None:
        with as_file(files("nde.data") / "bundled") as folder:
            reading = read_ts(folder / f"{stem}_TRAIN.ts.gz")
        told = f"bundled data set {source}, see its NOTICE for donors and licence"
        return replace(reading, notes=(told, *reading.notes[1:]))
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() in _TABLES:
        return read_long_csv(path, columns)
    pair = path.with_name(path.name + "_TRAIN.ts") if path.name else path
    if path.is_dir() or pair.is_file() or _is_ts(path):
        return read_ts(path)
    if path.is_file():
        raise DataError(
            f"{source}: files of this kind are not read; "
            f"expected {', '.join(_TABLES)}, .ts or .ts.gz"
        )
    raise DataError(
        f"no such file or folder, and no bundled data set of that name: "
        f"{unknown_name('data set', source, BUNDLED)}"
    )


def is_bundled(source: str) -> bool:
    """Whether `source` names a data set that comes with the package."""
    return source in BUNDLED


def _is_ts(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith((".ts", ".ts.gz"))
