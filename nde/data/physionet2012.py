"""The layout of the PhysioNet/CinC Challenge 2012: one text file per stay.

A folder `set-a` of `132539.txt`, lines `Time,Parameter,Value` with times `hh:mm` since
admission, and `Outcomes-a.txt` with one row per stay; also the archives `set-a.tar.gz`
as published. General descriptors (age, height, ...) stand at 00:00 and stay there as
observations of channels of their own. A value of -1 means unknown.

Source: Silva et al., "Predicting in-hospital mortality of ICU patients", 2012,
https://physionet.org/content/challenge-2012/1.0.0/
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from nde.data.assemble import About, assemble, gather_cells
from nde.data.cells import read_numbers, refuse_at, sorted_codes
from nde.data.errors import DataError, unknown_name
from nde.data.labels import with_labels
from nde.data.members import list_members, read_members
from nde.data.raw import read_bytes, read_head
from nde.data.request import Request
from nde.data.series import FloatArray, Reading
from nde.data.table import Table, parse_tables

DESCRIPTORS = ("Age", "Gender", "Height", "ICUType", "Weight")
SIGNALS = (
    "ALP", "ALT", "AST", "Albumin", "BUN", "Bilirubin", "Cholesterol", "Creatinine",
    "DiasABP", "FiO2", "GCS", "Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "MAP",
    "MechVent", "Mg", "NIDiasABP", "NIMAP", "NISysABP", "Na", "PaCO2", "PaO2",
    "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI", "TroponinT",
    "Urine", "WBC", "pH",
)  # fmt: skip
OUTCOME = "In-hospital_death"
_HEADER = b"Time,Parameter,Value"
_STAY = re.compile(r"^\d+\.txt$")
_SET = re.compile(r"^set-([abc])(\.tar\.gz)?$")
_UNKNOWN = -1.0


def holds_stays(folder: Path) -> bool:
    """Whether `folder` has this layout: stays, or sets of stays."""
    if any(_SET.match(entry.name) for entry in folder.iterdir()):
        return True
    stay = next((f for f in folder.iterdir() if _STAY.match(f.name)), None)
    return stay is not None and read_head(stay, 64).lstrip().startswith(_HEADER)


def find_stays(path: Path, request: Request) -> list[Path]:
    """Every file that `read_physionet2012` reads: stays or archives, and outcomes."""
    files = [file for box in _boxes(path) for file in list_members(box, _STAY)]
    return [*files, *_outcomes(path, request)]


def read_physionet2012(path: Path, request: Request) -> Reading:
    """Stays of a folder, labelled by in-hospital death or the outcome of `--label`.

    Times are hours since admission. Repeats of a parameter at one time are averaged.
    Raises `DataError` naming file and line.
    """
    boxes = _boxes(path)
    stays = (stay for box in boxes for stay in read_members(box, _STAY))
    table = parse_tables(path, stays)
    expected = _HEADER.decode().split(",")
    if table.frame.columns != expected:
        raise DataError(
            f"{table.files[0]}: the columns {', '.join(table.frame.columns)}, "
            f"expected {', '.join(expected)}"
        )
    reading = _series(path, table, request.columns.channels)
    notes = [
        f"PhysioNet 2012: {', '.join(str(box) for box in boxes)} "
        f"({len(table.files)} stays, {len(table.lines)} rows)",
        "time: Time (hours)",
        f"channels: {', '.join(reading.dataset.channels)}",
        "values of -1 count as missing; descriptors stand at time 0",
    ]
    reading = replace(reading, notes=tuple(notes))
    if request.labels is not None:
        return reading
    outcomes = _outcomes(path, request)
    if not outcomes:
        doubt = f"{path}: no Outcomes-*.txt beside the stays, so there are no labels"
        return replace(reading, warnings=(*reading.warnings, doubt))
    rows = parse_tables(path, [(str(file), read_bytes(file)) for file in outcomes])
    label = request.columns.label or OUTCOME
    return with_labels(reading, rows, replace(request.columns, label=label))


def _boxes(path: Path) -> list[Path]:
    """Where the stays are: `path` itself, or the sets in it; a folder before its
    archive."""
    if path.is_file():
        return [path]
    sets: dict[str, Path] = {}
    for entry in sorted(path.iterdir()):
        match = _SET.match(entry.name)
        if match:
            sets.setdefault(match[1], entry)
    return list(sets.values()) or [path]


def _outcomes(path: Path, request: Request) -> list[Path]:
    """Files of outcomes for the sets of `path`, in it or beside it."""
    if request.labels is not None:
        return []
    found = []
    for box in _boxes(path):
        match = _SET.match(box.name)
        names = f"Outcomes-{match[1]}.txt" if match else "Outcomes*.txt"
        here = sorted(box.glob(names)) if box.is_dir() else []
        found += here or sorted(box.parent.glob(names))
    return found


def _series(path: Path, table: Table, given: tuple[str, ...] | None) -> Reading:
    times = _hours(table)
    names, columns = sorted_codes(table.frame["Parameter"].fill_null(""))
    values = read_numbers(table, "Value")
    for i, name in enumerate(names):
        if name not in (*DESCRIPTORS, *SIGNALS, "RecordID"):
            bad = table.frame["Parameter"].fill_null("") == name
            refuse_at(table, bad, "Parameter", "is no parameter of the challenge")
        if name == "RecordID":
            _check_ids(table, columns == i, values)
    values = np.where(values == _UNKNOWN, np.nan, values)
    channels = given or tuple(n for n in (*DESCRIPTORS, *SIGNALS) if n in names)
    for name in channels:
        if name not in (*DESCRIPTORS, *SIGNALS):
            known = (*DESCRIPTORS, *SIGNALS)
            raise DataError(f"{path}: {unknown_name('channel', name, known)}")
    target = np.full(len(names), -1)
    for place, name in enumerate(channels):
        if name in names:
            target[names.index(name)] = place
    columns = target[columns]
    warnings: list[str] = []
    stems = [Path(file).stem for file in table.files]
    order = sorted(range(len(stems)), key=lambda i: int(stems[i]))
    rank = np.empty(len(stems), dtype=np.int64)
    rank[order] = np.arange(len(stems))
    rows = gather_cells(
        rank[table.owner],
        times,
        columns,
        np.where(columns >= 0, values, np.nan),
        channels=len(channels),
        warnings=warnings,
    )
    about = About(
        name=path.absolute().name.split(".")[0],
        ids=tuple(stems[i] for i in order),
        channels=channels,
        time_unit="hours",
    )
    return assemble(about, rows, (), warnings)


def _hours(table: Table) -> FloatArray:
    import polars as pl

    clock = table.frame["Time"].fill_null("")
    refuse_at(
        table, ~clock.str.contains(r"^\d+:[0-5]\d$"), "Time", "is no time like 07:30"
    )
    whole = clock.str.split_exact(":", 1).struct.unnest()
    numbers = whole.select(pl.all().cast(pl.Float64))
    hours: FloatArray = (numbers["field_0"] + numbers["field_1"] / 60).to_numpy()
    return hours.copy()


def _check_ids(
    table: Table, rows: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], ids: FloatArray
) -> None:
    """Refuse a file whose RecordID is not that of its name."""
    import polars as pl

    stems = np.array([float(Path(file).stem) for file in table.files])
    wrong = pl.Series(rows & (ids != stems[table.owner]))
    refuse_at(table, wrong, "Value", "is a RecordID other than that of the file name")
