"""Public data sets by name: where they lie, or are fetched from, and what they must be.

Checksums are those of public loaders of the same files (of tsdm, for one); the outcomes
of PhysioNet 2012 were reproduced.
"""

import hashlib
import os
import urllib.request
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

from nde.data.cache import default_folder
from nde.data.errors import DataError
from nde.data.formats import read_format
from nde.data.request import Request
from nde.data.series import Reading

_CHUNK = 1 << 20
_PATIENCE = 60.0  # seconds without an answer


@dataclass(frozen=True)
class Piece:
    """A file to fetch; `unpacked` is the folder that stands for it in a manual copy."""

    url: str
    sha256: str
    unpacked: str | None = None

    @property
    def file(self) -> str:
        """The name of the file on the disk."""
        return self.url.rpartition("/")[2]

    def lies_in(self, folder: Path) -> bool:
        """Whether `folder` holds the file or what was unpacked of it."""
        names = [self.file, *([self.unpacked] if self.unpacked else [])]
        return any((folder / name).exists() for name in names)


@dataclass(frozen=True)
class NamedSet:
    """A data set: its files, the format they have together, and its licence.

    `path` is what to read in the folder of the files, the folder itself by default.
    """

    format: str
    licence: str
    pieces: tuple[Piece, ...]
    path: str = "."


_2012 = "https://physionet.org/files/challenge-2012/1.0.0"
_2019 = "https://archive.physionet.org/users/shared/challenge-2019"
_USHCN = (
    "https://raw.githubusercontent.com/edebrouwer/gru_ode_bayes/master/"
    "gru_ode_bayes/datasets/Climate/small_chunked_sporadic.csv"
)
NAMED: dict[str, NamedSet] = {
    "physionet-2012": NamedSet(
        "physionet-2012",
        "ODC-By 1.0, https://physionet.org/content/challenge-2012/1.0.0/",
        (
            Piece(
                f"{_2012}/set-a.tar.gz",
                "8cb250f179cd0952b4b9ebcf8954b63d70383131670fac1cfee13deaa13ca920",
                "set-a",
            ),
            Piece(
                f"{_2012}/set-b.tar.gz",
                "b1637a2a423a8e76f8f087896cfc5fdf28f88519e1f4e874fbda69b2a64dac30",
                "set-b",
            ),
            Piece(
                f"{_2012}/Outcomes-a.txt",
                "2613ea60ccda29f87571a7d6b09ad130858a8ccd66325bd073365925026883c2",
            ),
            Piece(
                f"{_2012}/Outcomes-b.txt",
                "1305f29734da374a809483229a99f33a9230aa8d4fa74b1a2d6ad788136423d5",
            ),
        ),
    ),
    "physionet-2019": NamedSet(
        "physionet-2019",
        "see https://physionet.org/content/challenge-2019/1.0.0/",
        (
            Piece(
                f"{_2019}/training_setA.zip",
                "c0def317798312e4facc0f33ac0202b3a34f412052d9096e8b122b4d3ecb7935",
                "training",
            ),
            Piece(
                f"{_2019}/training_setB.zip",
                "8a88d69a5f64bc9a87d869f527fcc2741c0712cb9a7cb1f5cdcb725336b4c8cc",
                "training_setB",
            ),
        ),
    ),
    "ushcn": NamedSet(
        "table",
        "see https://github.com/edebrouwer/gru_ode_bayes",
        (
            Piece(
                _USHCN,
                "671eb8d121522e98891c84197742a6c9e9bb5015e42b328a93ebdf2cfd393ecf",
            ),
        ),
        path="small_chunked_sporadic.csv",
    ),
}


def read_named(name: str, request: Request) -> Reading:
    """Read the data set `name` of `NAMED`, fetching what is not there yet.

    Its files lie in the folder of `request`, `--data-dir`, or in a folder of its name
    in there. A file that was put there by hand may differ from the published one, with
    a warning; one that was fetched may not. Raises `DataError`.
    """
    known = NAMED[name]
    root = request.data_dir or default_folder()
    by_hand = any(piece.lies_in(root) for piece in known.pieces)
    folder = root if by_hand else root / name
    fetched = [piece for piece in known.pieces if not piece.lies_in(folder)]
    for piece in fetched:
        _fetch(piece, folder)
    doubts = tuple(
        f"{folder / piece.file} is not the published file (its sha256 differs)"
        for piece in known.pieces
        if piece not in fetched
        and (folder / piece.file).is_file()
        and _digest(folder / piece.file) != piece.sha256
    )
    said = replace(request, format=known.format)
    reading = read_format(folder / known.path, said)
    told = f"data set {name} in {folder}, licence: {known.licence}"
    if fetched:
        told += f"; fetched {', '.join(piece.url for piece in fetched)}"
    return replace(
        reading,
        dataset=replace(reading.dataset, name=name),
        notes=(told, *reading.notes),
        warnings=(*doubts, *reading.warnings),
    )


def _fetch(piece: Piece, folder: Path) -> None:
    """Write the file whole, with the checksum it must have, or not at all."""
    target = folder / piece.file
    by_hand = f"fetch it by hand into {folder}, or pass its folder with --data-dir"
    temporary = folder / f".{piece.file}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with (
            urllib.request.urlopen(piece.url, timeout=_PATIENCE) as answer,
            open(temporary, "wb") as file,
        ):
            while chunk := answer.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != piece.sha256:
            raise DataError(
                f"{piece.url}: the file fetched has the sha256 {digest.hexdigest()}, "
                f"expected {piece.sha256}; {by_hand}"
            )
        os.replace(temporary, target)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{piece.file} is not in {folder}, and {piece.url} cannot be fetched "
            f"({reason}); {by_hand}"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
