"""The formats that are read, and which of them a path holds, told by its content.

A name that says one thing and a content that says another, or a folder that could be
two things, is an error that names the flag `--format`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nde.data import physionet2012, physionet2019, table_folder
from nde.data.arrays import read_arrays, read_hdf5
from nde.data.cache import through_cache
from nde.data.columnar import read_feather, read_parquet
from nde.data.errors import DataError, unknown_name
from nde.data.json_lines import read_json_lines
from nde.data.raw import binary_format, read_head
from nde.data.request import Request
from nde.data.series import Reading
from nde.data.table import read_table
from nde.data.ts_file import holds_ts, is_ts_prefix, read_ts
from nde.data.wide_table import read_any_table


@dataclass(frozen=True)
class Format:
    """A layout on the disk: what it looks like, how it is read.

    `files` lists what `read` will open where that is many files, whose series are
    then kept once parsed. `takes_times` says whether `--times` can go with it.
    """

    what: str
    read: Callable[[Path, Request], Reading]
    files: Callable[[Path, Request], list[Path]] | None = None
    takes_times: bool = False


def _read_ts(path: Path, request: Request) -> Reading:
    reading = read_ts(path)
    chosen = request.columns.channels
    if chosen is None:
        return reading
    return replace(reading, dataset=reading.dataset.select(chosen))


FORMATS: dict[str, Format] = {
    "table": Format(
        "a text table (.csv, .tsv)",
        lambda path, request: read_any_table(read_table(path), request),
        takes_times=True,
    ),
    "parquet": Format(
        "a Parquet table (.parquet)",
        lambda path, request: read_any_table(read_parquet(path), request),
        takes_times=True,
    ),
    "feather": Format(
        "a Feather table (.feather, .arrow)",
        lambda path, request: read_any_table(read_feather(path), request),
        takes_times=True,
    ),
    "json-lines": Format(
        "JSON lines (.jsonl)",
        read_json_lines,
        takes_times=True,
    ),
    "arrays": Format("arrays (.npz, .npy, .pt)", read_arrays, takes_times=True),
    "hdf5": Format("HDF5 of PyPOTS (.h5)", read_hdf5, takes_times=True),
    "ts": Format(
        "UEA/UCR text, or a folder of a _TRAIN, _TEST pair (.ts)",
        _read_ts,
    ),
    "physionet-2012": Format(
        "a folder of PhysioNet 2012 stays (set-a, or 132539.txt, ...)",
        physionet2012.read_physionet2012,
        physionet2012.find_stays,
    ),
    "physionet-2019": Format(
        "a folder of PhysioNet 2019 patients (.psv, or training_setA.zip)",
        physionet2019.read_physionet2019,
        physionet2019.find_patients,
    ),
    "table-folder": Format(
        "a folder of text tables, one per series (.csv, .tsv)",
        table_folder.read_table_folder,
        table_folder.find_tables,
    ),
}
# How a name ends -> the format that such a name promises.
_SUFFIXES = {
    ".csv": "table", ".tsv": "table", ".psv": "table", ".ts": "ts",
    ".parquet": "parquet", ".feather": "feather", ".arrow": "feather",
    ".jsonl": "json-lines", ".npz": "arrays", ".npy": "arrays", ".pt": "arrays",
    ".h5": "hdf5", ".hdf5": "hdf5",
}  # fmt: skip
_FOLDERS: dict[str, Callable[[Path], bool]] = {
    "ts": holds_ts,
    "physionet-2012": physionet2012.holds_stays,
    "physionet-2019": physionet2019.holds_patients,
    "table-folder": table_folder.holds_tables,
}
# Where an unpacked tar archive names itself.
_TAR = slice(257, 262)


def read_format(path: Path, request: Request) -> Reading:
    """Read `path` in the format asked for, or in the one it holds.

    Raises `DataError`.
    """
    name = request.format or recognise(path)
    if name not in FORMATS:
        raise DataError(unknown_name("format", name, FORMATS))
    form = FORMATS[name]
    if request.times is not None and not form.takes_times:
        raise DataError(
            f"{path}: --times is for grids of values without times, not for {form.what}"
        )
    try:
        if form.files is None:
            return form.read(path, request)
        return through_cache(
            path,
            request,
            form.files(path, request),
            lambda: form.read(path, request),
            format=name,
        )
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: cannot be read as {form.what} "
            f"({error.strerror or error})"
        ) from None


def recognise(path: Path) -> str:
    """The name of the format that `path` holds. Raises `DataError`."""
    if path.is_dir():
        return _folder(path)
    if not path.exists() and is_ts_prefix(path):
        return "ts"
    head = read_head(path)
    if not head.strip():
        raise DataError(f"{path}: the file is empty")
    if head[_TAR] == b"ustar":
        # The one format that is read from an archive as it was published.
        return "physionet-2012"
    found = binary_format(path, head) or _text(path, head)
    promised = _promise(path)
    if promised not in (None, found):
        raise DataError(
            f"{path}: the name promises {FORMATS[promised].what}, but the content is "
            f"that of {FORMATS[found].what}; rename the file, or pass --format {found}"
        )
    return found


def _promise(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((f for end, f in _SUFFIXES.items() if name.endswith(end)), None)


def _text(path: Path, head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"\0" in text:
        promised = _promise(path)
        if promised is None:
            raise DataError(f"{path}: a file of no known format; {_known()}")
        # Damaged, or in another encoding: its reader knows what to say.
        return promised
    if text[:1] in (b"@", b"#", b"%"):
        return "ts"
    if text[:1] in (b"{", b"["):
        return "json-lines"
    return "table"


def _folder(path: Path) -> str:
    found = [name for name, holds in _FOLDERS.items() if holds(path)]
    if len(found) == 1:
        return found[0]
    if found:
        flags = " or ".join(f"--format {name}" for name in found)
        raise DataError(f"{path}: the folder could be read in two ways; pass {flags}")
    names = sorted(entry.name for entry in path.iterdir())
    inside = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise DataError(
        f"{path}: a folder of no known layout (it holds {inside or 'nothing'}); "
        f"{_known()}"
    )


def _known() -> str:
    return "expected one of: " + "; ".join(form.what for form in FORMATS.values())
