"""Files of one kind in a folder, or in an archive that is read where it lies."""

import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from nde.data.errors import DataError
from nde.data.raw import read_bytes


def list_members(box: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Files of the folder `box` whose names match, sorted; an archive is one file."""
    if box.is_file():
        return [box]
    return sorted(file for file in box.iterdir() if pattern.match(file.name))


def read_members(box: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    """Place and content of each file of a folder, `.zip` or `.tar.gz` that matches.

    Raises `DataError`.
    """
    if box.is_dir():
        for file in list_members(box, pattern):
            yield str(file), read_bytes(file)
        return
    try:
        with open(box, "rb") as start:
            members = _zip if start.read(2) == b"PK" else _tar
        for name, content in members(box, pattern):
            yield f"{box}/{name}", content
    except (
        *(OSError, EOFError, zlib.error),
        *(tarfile.TarError, zipfile.BadZipFile),
    ) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{box}: a damaged or truncated archive ({reason}); fetch it again"
        ) from None


def _tar(box: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(box) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None and pattern.match(Path(member.name).name):
                yield member.name, content.read()


def _zip(box: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(box) as archive:
        for name in archive.namelist():
            if pattern.match(Path(name).name):
                yield name, archive.read(name)
