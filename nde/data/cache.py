"""What took long to parse, kept as arrays in a folder of the user's cache.

One file per source and format, with a digest of what it was made from: the sizes and
modification times of the files read, and the request. A damaged or outdated file is
replaced; a folder that cannot be written to costs time, not the run.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from nde.data.request import Request
from nde.data.series import Reading, SeriesDataset

# Of the layout of these files and of what the readers make of a source.
_VERSION = 1


def default_folder() -> Path:
    """`$NDE_DATA_DIR`, else `nde` in the user's cache folder."""
    told = os.environ.get("NDE_DATA_DIR")
    if told:
        return Path(told).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "nde"


def through_cache(
    path: Path,
    request: Request,
    files: Sequence[Path],
    read: Callable[[], Reading],
    *,
    format: str,
) -> Reading:
    """What `read` makes of `path`, from an earlier time if `files` are the same."""
    if not request.cache:
        return read()
    folder = default_folder() / "parsed"
    where = str(path.absolute())
    short = hashlib.sha256(where.encode()).hexdigest()[:16]
    kept = folder / f"{format}-{short}.npz"
    digest = _digest(request, files, format)
    found = _load(kept, digest)
    if found is not None:
        return replace(found, notes=(*found.notes, f"parsed before: {kept}"))
    reading = read()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save(kept, digest, reading)
    except OSError as error:
        doubt = f"what was parsed could not be kept in {kept}: {error.strerror}"
        return replace(reading, warnings=(*reading.warnings, doubt))
    return reading


def _digest(request: Request, files: Sequence[Path], format: str) -> str:
    stamps = []
    for file in files:
        state = file.stat()
        stamps.append((str(file.absolute()), state.st_size, state.st_mtime_ns))
    asked = asdict(replace(request, data_dir=None, labels=None))
    # Labels from a file are matched after reading, so only their presence counts.
    asked["labels"] = request.labels is not None
    tree = [_VERSION, format, asked, stamps]
    return hashlib.sha256(json.dumps(tree, default=str).encode()).hexdigest()


def _save(path: Path, digest: str, reading: Reading) -> None:
    """Write whole or not at all. Most cells are missing, so only the others go in."""
    dataset = reading.dataset
    values = np.concatenate(dataset.values)
    seen = np.isfinite(values)
    meta = {
        "digest": digest,
        "name": dataset.name,
        "ids": dataset.ids,
        "channels": dataset.channels,
        "classes": dataset.classes,
        "parts": dataset.parts,
        "time_unit": dataset.time_unit,
        "notes": reading.notes,
        "warnings": reading.warnings,
    }
    labels = dataset.labels
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                meta=np.array(json.dumps(meta)),
                lengths=np.array([len(time) for time in dataset.times]),
                times=np.concatenate(dataset.times),
                seen=np.packbits(seen),
                values=values[seen],
                labels=np.array([]) if labels is None else labels,
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _load(path: Path, digest: str) -> Reading | None:
    try:
        # Opened here, since numpy leaves a damaged file that it opened itself open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            meta = json.loads(str(arrays["meta"]))
            if meta["digest"] != digest:
                return None
            times, lengths = arrays["times"], arrays["lengths"]
            packed, observed = arrays["seen"], arrays["values"]
            labels = arrays["labels"]
        shape = (len(times), len(meta["channels"]))
        seen = np.unpackbits(packed, count=shape[0] * shape[1]).astype(bool)
        values = np.full(shape, np.nan)
        values[seen.reshape(shape)] = observed
        ends = np.cumsum(lengths)
        spans = [slice(b - n, b) for b, n in zip(ends, lengths, strict=True)]
        dataset = SeriesDataset(
            name=meta["name"],
            ids=tuple(meta["ids"]),
            times=tuple(times[span] for span in spans),
            values=tuple(values[span] for span in spans),
            channels=tuple(meta["channels"]),
            labels=labels if len(labels) else None,
            classes=tuple(meta["classes"]),
            parts=tuple(meta["parts"]) if meta["parts"] else None,
            time_unit=meta["time_unit"],
        )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    return Reading(dataset, tuple(meta["notes"]), tuple(meta["warnings"]))
