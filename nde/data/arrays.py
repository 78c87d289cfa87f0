"""Array files: NumPy `.npz` and `.npy`, torch `.pt`, and PyPOTS HDF5.

Named arrays, of which only `X` is needed:

- `X` `(series, steps, channels)` or `(series, steps)`, NaN where missing;
- `t` `(steps,)` or `(series, steps)`, else 0, 1, 2, ...;
- `y` `(series,)`, the labels; `mask`, shaped like X, 0 where nothing was observed;
- `lengths` `(series,)`, the steps of each series that count; `ids` `(series,)`;
  `channels` `(channels,)`, their names.

PyPOTS (Du, 2023) writes `X` and `y`, and in `X_ori` the values it held back to score an
imputation, which are never read.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nde.data.assemble import About
from nde.data.cells import sorted_codes
from nde.data.errors import DataError, unknown_name
from nde.data.grid import Grid, read_grid, read_times_file
from nde.data.request import Request
from nde.data.series import FloatArray, IntArray, Reading

_NAMES = ("X", "t", "y", "mask", "lengths", "ids", "channels")
_HELD_BACK = "X_ori"
_NUMPY = b"\x93NUMPY"
Arrays = Mapping[str, NDArray[Any]]


def read_arrays(path: Path, request: Request) -> Reading:
    """The series of a `.npz`, `.npy` or `.pt` file. Raises `DataError`."""
    try:
        arrays = _load(path)
    except DataError:
        raise
    except Exception as error:
        # Neither numpy nor torch says which of its errors loading may raise.
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{path}: arrays that cannot be loaded ({reason}); the file is damaged, or "
            "holds Python objects, which are never run, instead of plain arrays"
        ) from None
    return _read(path, "arrays", arrays, request)


def read_hdf5(path: Path, request: Request) -> Reading:
    """The series of an HDF5 file as PyPOTS writes it; needs h5py.

    Raises `DataError`, also where h5py is not installed.
    """
    try:
        import h5py  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ModuleNotFoundError:
        raise DataError(
            f"{path}: HDF5 files are read with h5py: pip install 'nde[hdf5]'"
        ) from None
    try:
        with h5py.File(path, "r") as file:
            arrays = {
                str(name): np.asarray(item[()])
                for name, item in file.items()
                if isinstance(item, h5py.Dataset)
            }
            groups = [str(name) for name, item in file.items() if name not in arrays]
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{path}: a damaged or truncated HDF5 file ({reason})"
        ) from None
    if "X" not in arrays and groups:
        raise DataError(
            f"{path}: no array X at the top, only the groups {', '.join(groups)}; "
            "write each to a file of its own"
        )
    return _read(path, "HDF5", arrays, request)


def _load(path: Path) -> Arrays:
    with open(path, "rb") as file:
        head = file.read(len(_NUMPY))
        if head != _NUMPY and not _holds_npy(path):
            return _torch(path)
        file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        if head == _NUMPY:
            return {"X": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}


def _holds_npy(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def _torch(path: Path) -> dict[str, NDArray[Any]]:
    import torch

    tree = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(tree, torch.Tensor):
        tree = {"X": tree}
    if not isinstance(tree, dict):
        raise DataError(
            f"{path}: holds a {type(tree).__name__}, expected a dictionary of tensors "
            f"{', '.join(_NAMES)}"
        )
    return {str(name): np.asarray(value) for name, value in tree.items()}


def _read(path: Path, kind: str, arrays: Arrays, request: Request) -> Reading:
    if "X" not in arrays:
        hint = unknown_name("array", next(iter(arrays), ""), _NAMES)
        raise DataError(
            f"{path}: no array X (series, steps, channels) in it, "
            f"got {', '.join(arrays) or 'nothing'}; {hint}"
        )
    values = _values(path, arrays)
    series, steps, width = values.shape
    ids = _texts(path, arrays, "ids", series) or tuple(str(i) for i in range(series))
    names = _texts(path, arrays, "channels", width)
    labels, classes = _labels(path, arrays, series)
    times, unit = None, ""
    clock = "0, 1, 2, ... steps"
    if request.times is not None:
        if "t" in arrays:
            raise DataError(f"{path}: has times t of its own; leave out --times")
        times, unit = read_times_file(request.times, steps)
        clock = f"times of {request.times}" + (f" ({unit})" if unit else "")
    elif "t" in arrays:
        times, clock = _times(path, arrays, series, steps), "t"
    about = About(
        name=path.absolute().name.split(".")[0],
        ids=ids,
        channels=names or tuple(f"x{i + 1}" for i in range(width)),
        labels=labels,
        classes=classes,
        time_unit=unit,
    )
    known = (*_NAMES, _HELD_BACK)
    shapes = ", ".join(f"{n} {a.shape}" for n, a in arrays.items() if n in known)
    notes = [
        f"file: {path} ({kind}: {shapes})",
        f"time: {clock}",
        "label: " + ("y" if labels is not None else "none"),
    ]
    if _HELD_BACK in arrays:
        notes.append(f"{_HELD_BACK} holds values held back from X and is not read")
    chosen = request.columns.channels
    reading = read_grid(path, about, Grid(values, times), tuple(notes), chosen=chosen)
    others = [unknown_name("array", n, _NAMES) for n in arrays if n not in known]
    doubts = tuple(f"{path}: left out an {other}" for other in others)
    return Reading(reading.dataset, reading.notes, (*doubts, *reading.warnings))


def _values(path: Path, arrays: Arrays) -> FloatArray:
    values = _numbers(path, arrays, "X")
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or 0 in values.shape:
        raise DataError(
            f"{path}: X has the shape {arrays['X'].shape}, expected (series, steps, "
            "channels), none of them 0"
        )
    if "mask" in arrays:
        mask = _numbers(path, arrays, "mask")
        if mask.shape != arrays["X"].shape:
            raise DataError(
                f"{path}: mask has the shape {mask.shape}, expected that of X, "
                f"{arrays['X'].shape}"
            )
        if not np.isin(mask, (0, 1)).all():
            raise DataError(f"{path}: mask holds values that are neither 0 nor 1")
        values = np.where(mask.reshape(values.shape) == 1, values, np.nan)
    if "lengths" in arrays:
        lengths = _numbers(path, arrays, "lengths")
        series, steps, _ = values.shape
        good = lengths.shape == (series,) and ((lengths >= 1) & (lengths <= steps))
        if not np.all(good) or (lengths != np.floor(lengths)).any():
            raise DataError(
                f"{path}: lengths must be {series} whole numbers from 1 to {steps}"
            )
        padded = np.arange(steps) >= lengths[:, None]
        values = np.where(padded[:, :, None], np.nan, values)
    return values


def _numbers(path: Path, arrays: Arrays, name: str) -> FloatArray:
    array = arrays[name]
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: {name} holds {array.dtype}, expected real numbers, NaN for "
            "missing"
        )
    return array.astype(np.float64)


def _times(path: Path, arrays: Arrays, series: int, steps: int) -> FloatArray:
    times = _numbers(path, arrays, "t")
    if times.shape not in ((steps,), (series, steps)):
        raise DataError(
            f"{path}: t has the shape {times.shape}, expected {(steps,)} or "
            f"{(series, steps)}, as X has the shape {arrays['X'].shape}"
        )
    return times


def _texts(path: Path, arrays: Arrays, name: str, count: int) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    array = arrays[name]
    if array.shape != (count,):
        raise DataError(f"{path}: {name} has the shape {array.shape}, not {(count,)}")
    if array.dtype.kind == "f" and (array == np.floor(array)).all():
        array = array.astype(np.int64)
    texts = [x.decode() if isinstance(x, bytes) else str(x) for x in array.tolist()]
    return tuple(texts)


def _labels(
    path: Path, arrays: Arrays, series: int
) -> tuple[IntArray | None, tuple[str, ...]]:
    import polars as pl

    if "y" not in arrays:
        return None, ()
    y = arrays["y"]
    if y.shape == (series, 1):
        y = y[:, 0]
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise DataError(f"{path}: y holds labels that are not finite")
    texts = _texts(path, {"y": y}, "y", series)
    classes, labels = sorted_codes(pl.Series(texts, dtype=pl.String))
    return labels, tuple(classes)
