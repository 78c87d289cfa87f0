"""From what the user typed to a data set: a name, or a path in any format."""

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from nde.data.errors import DataError, unknown_name
from nde.data.formats import read_format
from nde.data.labels import read_with_labels
from nde.data.named import NAMED, read_named
from nde.data.request import Request
from nde.data.series import Reading
from nde.data.ts_file import is_ts_prefix, read_ts

# Name on the command line -> file stem under bundled/.
BUNDLED = {"japanese-vowels": "JapaneseVowels"}


def read_source(source: str, request: Request | None = None) -> Reading:
    """Read the data set named or located by `source`.

    A name of `BUNDLED` or `NAMED` wins; then a path, whose format is told by its
    content or by `request`. Raises `DataError`.
    """
    request = request or Request()
    stem = BUNDLED.get(source)
    if stem is not None:
        with as_file(files("nde.data") / "bundled") as folder:
            reading = read_ts(folder / f"{stem}_TRAIN.ts.gz")
        told = f"bundled data set {source}, see its NOTICE for donors and licence"
        return replace(reading, notes=(told, *reading.notes[1:]))
    if source in NAMED:
        return _labelled(request, lambda said: read_named(source, said))
    path = Path(source).expanduser()
    if not path.exists() and not is_ts_prefix(path):
        raise DataError(
            f"no such file or folder, and no data set of that name: "
            f"{unknown_name('data set', source, (*BUNDLED, *NAMED))}"
        )
    return _labelled(request, lambda said: read_format(path, said))


def is_named(source: str) -> bool:
    """Whether `source` is the name of a data set, and no path."""
    return source in BUNDLED or source in NAMED


def _labelled(request: Request, read: Callable[[Request], Reading]) -> Reading:
    """What `read` makes of `request`, with the labels of a file of their own."""
    if request.labels is None:
        return read(request)
    reading = read(request.without_label())
    return read_with_labels(reading, request.labels, request.columns)
