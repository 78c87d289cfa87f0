"""From what the user typed to a data set: a name, or a path in any format."""

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from nde.data.errors import DataError, unknown_name
from nde.data.formats import read_format
from nde.data.labels import read_with_labels
from nde.data.named import NAMED, read_named
from nde.data.request import Request
from nde.data.series import Reading
from nde.data.ts_file import is_ts_prefix

# Name on the command line -> file stem under bundled/.
BUNDLED = {"japanese-vowels": "JapaneseVowels"}


def read_source(source: str, request: Request | None = None) -> Reading:
    """Read the data set named or located by `source`.

    A name of `BUNDLED` or `NAMED` wins; then a path, whose format is told by its
    content or by `request`. Raises `DataError`.
    """
    request = request or Request()
    if request.labels is None:
        return _read(source, request)
    reading = _read(source, request.without_label())
    return read_with_labels(reading, request.labels, request.columns)


def _read(source: str, request: Request) -> Reading:
    if source in BUNDLED or source in NAMED:
        for flag, value in (("times", request.times), ("format", request.format)):
            if value is not None:
                raise DataError(
                    f"{source} is a data set known by name; leave out --{flag}, or "
                    f"write ./{source} for a path"
                )
    if source in BUNDLED:
        return _bundled(source, request)
    if source in NAMED:
        return read_named(source, request)
    path = Path(source).expanduser()
    if not path.exists() and not is_ts_prefix(path):
        raise DataError(
            f"no such file or folder, and no data set of that name: "
            f"{unknown_name('data set', source, (*BUNDLED, *NAMED))}"
        )
    return read_format(path, request)


def _bundled(name: str, request: Request) -> Reading:
    with as_file(files("nde.data") / "bundled") as folder:
        path = folder / f"{BUNDLED[name]}_TRAIN.ts.gz"
        reading = read_format(path, replace(request, format="ts"))
    told = f"bundled data set {name}, see its NOTICE for donors and licence"
    return replace(reading, notes=(told, *reading.notes[1:]))


def is_named(source: str) -> bool:
    """Whether `source` is the name of a data set, and no path."""
    return source in BUNDLED or source in NAMED
