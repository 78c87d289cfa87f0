"""Bytes of a file, unpacked where gzip packed them, and what they are by content."""

import gzip
import zipfile
import zlib
from pathlib import Path

from nde.data.errors import DataError

_GZIP = b"\x1f\x8b"
# What a file begins with -> what it is.
_MAGIC = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "feather"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"\x93NUMPY", "arrays"),
)


def read_bytes(path: Path) -> bytes:
    """The content of `path`, unpacked if gzip packed it. Raises `DataError`."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw.startswith(_GZIP) else raw
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: the file cannot be read ({reason})") from None


def read_head(path: Path, size: int = 65536) -> bytes:
    """The first bytes of `path`, unpacked if gzip packed it. Raises `DataError`."""
    try:
        with open(path, "rb") as file:
            head = file.read(size)
        if head.startswith(_GZIP):
            # Half a packed file still unpacks to the first half of its text.
            return zlib.decompressobj(wbits=31).decompress(head)
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: the file cannot be read ({reason})") from None
    return head


def binary_format(path: Path, head: bytes) -> str | None:
    """The format of a binary file that begins with `head`, None for anything else."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile:
            raise DataError(f"{path}: a damaged or truncated zip archive") from None
        if any(name.endswith(("/data.pkl", ".npy")) for name in names):
            return "arrays"
        if any(name.endswith(".psv") for name in names):
            return "physionet-2019"
    return None
