"""The layout of the PhysioNet/CinC Challenge 2019: one `.psv` table per patient.

A folder of `p000001.psv`, ..., or of the folders `training` and `training_setB`, or of
their archives `training_setA.zip` and `training_setB.zip`, as published: values
separated by bars, one row per hour in the unit, `NaN` for missing, `ICULOS` the hour.
`SepsisLabel` is 1 from six hours before the clinical onset of sepsis on; a patient is
in class 1 if it ever is. It is never a channel. Hours after it turned to 1 stay in the
series, as in the published benchmarks.

Source: Reyna et al., "Early prediction of sepsis from clinical data", 2019,
https://physionet.org/content/challenge-2019/1.0.0/
"""

import re
from dataclasses import replace
from pathlib import Path

from nde.data.cells import refuse_at
from nde.data.columns import Columns
from nde.data.errors import DataError
from nde.data.long_table import read_long_table
from nde.data.members import list_members, read_members
from nde.data.request import Request
from nde.data.series import Reading
from nde.data.table import Table
from nde.data.table_folder import STEM, read_stems

_TIME, _LABEL = "ICULOS", "SepsisLabel"
_PATIENT = re.compile(r"^[^.].*\.psv$")
_SET = re.compile(r"^training(_set(?P<set>[AB])(\.zip)?)?$")


def holds_patients(folder: Path) -> bool:
    """Whether `folder` holds `.psv` files, or the published folders of them."""
    return bool(_sets(folder)) or any(_PATIENT.match(f.name) for f in folder.iterdir())


def find_patients(path: Path, request: Request) -> list[Path]:
    """Every file that `read_physionet2019` reads: patients or archives of them."""
    return [file for box in _boxes(path) for file in list_members(box, _PATIENT)]


def read_physionet2019(path: Path, request: Request) -> Reading:
    """Patients of a folder, with times in hours and labels 0 and 1.

    Channels that no patient has a value of are left out unless asked for. Raises
    `DataError` naming file and line.
    """
    boxes = _boxes(path)
    patients = (file for box in boxes for file in read_members(box, _PATIENT))
    table = read_stems(path, patients)
    for name in (_TIME, _LABEL):
        if name not in table.frame.columns:
            raise DataError(
                f"{table.files[0]}: no column {name}, which tables of the PhysioNet "
                f"challenge 2019 have; columns: {', '.join(table.frame.columns)}"
            )
    columns = request.columns
    if columns.channels is not None and _LABEL in columns.channels:
        raise DataError(
            f"{path}: {_LABEL} is what is to be predicted and cannot be a channel; "
            "leave it out of --channels"
        )
    if columns.label in (None, _LABEL):
        table = _ever(table)
        told = f"class 1: {_LABEL} is 1 at any hour; it is 1 from 6 h before onset on"
    else:
        table = replace(table, frame=table.frame.drop(_LABEL))
        told = f"{_LABEL} is left out"
    label = columns.label or _LABEL
    said = Columns(STEM, columns.time or _TIME, label, columns.channels)
    reading = read_long_table(table, said)
    if columns.channels is None:
        reading = _without_unseen(reading)
    dataset = replace(reading.dataset, time_unit="hours")
    return replace(reading, dataset=dataset, notes=(*reading.notes, told))


def _boxes(path: Path) -> list[Path]:
    """Where the patients are: `path` itself, or the sets in it."""
    return [path] if path.is_file() else (_sets(path) or [path])


def _sets(folder: Path) -> list[Path]:
    """The published sets in `folder`, a folder of one before its archive."""
    sets: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        match = _SET.match(entry.name)
        if match and (entry.is_file() or list_members(entry, _PATIENT)):
            # The archive of set A unpacks to a folder that does not name it.
            sets.setdefault(match["set"] or "A", entry)
    return list(sets.values())


def _ever(table: Table) -> Table:
    """The same rows, each with the label of the patient instead of the hour."""
    import polars as pl

    cells = table.frame[_LABEL].str.strip_chars().fill_null("")
    refuse_at(table, ~cells.is_in(["0", "1"]), _LABEL, "is neither 0 nor 1")
    ever = pl.col(_LABEL).str.strip_chars().max().over(STEM)
    return replace(table, frame=table.frame.with_columns(ever))


def _without_unseen(reading: Reading) -> Reading:
    dataset = reading.dataset
    seen = dataset.observed() > 0
    if seen.all():
        return reading
    kept = [n for n, there in zip(dataset.channels, seen, strict=True) if there]
    lost = [n for n in dataset.channels if n not in kept]
    doubt = f"channels without any value are left out: {', '.join(lost)}"
    return replace(
        reading,
        dataset=dataset.select(kept),
        warnings=(*reading.warnings, doubt),
    )
