"""PhysioNet 2012: intensive-care stays on an hourly grid, from the official archive."""

from __future__ import annotations

import math
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# What is measured over time; age, gender, height and kind of unit are left out.
SIGNALS = (
    "ALP ALT AST Albumin BUN Bilirubin Cholesterol Creatinine DiasABP FiO2 GCS Glucose "
    "HCO3 HCT HR K Lactate MAP MechVent Mg NIDiasABP NIMAP NISysABP Na PaCO2 PaO2 "
    "Platelets RespRate SaO2 SysABP Temp TroponinI TroponinT Urine WBC Weight pH"
).split()
_COLUMN = {name: column for column, name in enumerate(SIGNALS)}
HOURS = 49


@dataclass(frozen=True)
class Stays:
    """Values `(n, 49, 37)` float64, zero where `seen`, 1.0 or 0.0, is zero."""

    values: Tensor
    seen: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, rows: Tensor) -> Stays:
        return Stays(self.values[rows], self.seen[rows])


def split(archive: Path, count: int, seed: int) -> tuple[Stays, Stays]:
    """The first `count` stays by number, 80 % of them for training, drawn by `seed`.

    Each signal is scaled to [0, 1] over all of the stays, as in the papers' data.
    Raises ValueError for an archive without stays.
    """
    values = _read(archive, count)
    order = np.random.default_rng(seed).permutation(len(values))
    cut = len(values) * 4 // 5
    low = np.where(np.isnan(values), np.inf, values).min(axis=(0, 1))
    high = np.where(np.isnan(values), -np.inf, values).max(axis=(0, 1))
    # One value alone becomes 0; a signal without any has none to scale.
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    seen = torch.tensor(~np.isnan(scaled), dtype=torch.float64)
    stays = Stays(torch.tensor(np.nan_to_num(scaled)), seen)
    rows = torch.tensor(order)
    return stays.rows(rows[:cut]), stays.rows(rows[cut:])


@lru_cache(maxsize=1)
def _read(archive: Path, count: int) -> np.ndarray:
    """Means over each hour `(n, 49, 37)`, NaN where nothing was measured."""
    with tarfile.open(archive) as tar:
        texts = sorted(
            (member for member in tar.getmembers() if member.name.endswith(".txt")),
            key=lambda member: member.name,
        )
        tables = []
        for member in texts[:count]:
            file = tar.extractfile(member)
            assert file is not None
            tables.append(_table(file.read().decode()))
    if len(tables) < 2:
        raise ValueError(
            f"{archive} has {len(tables)} stays (.txt files); give set-a.tar.gz of "
            "PhysioNet 2012, and --stays of at least 2"
        )
    return np.stack(tables)


def _table(text: str) -> np.ndarray:
    """One stay `(49, 37)`: the lines are Time, Parameter, Value."""
    total = np.zeros((HOURS, len(SIGNALS)))
    number = np.zeros_like(total)
    for line in text.splitlines()[1:]:
        time, name, value = line.split(",")
        # An unknown weight is -1.
        if name not in _COLUMN or float(value) < 0.0:
            continue
        hours, minutes = time.split(":")
        hour = math.floor(int(hours) + int(minutes) / 60.0 + 0.5)
        place = min(hour, HOURS - 1), _COLUMN[name]
        total[place] += float(value)
        number[place] += 1.0
    with np.errstate(invalid="ignore"):
        return total / number
