"""The benchmarks of adjoints: their rows, and that all differentiate the same loss."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "benchmarks"
sys.path.append(str(FOLDER))
script = importlib.import_module("adjoints")


@pytest.mark.parametrize("name", ["MLP", "CNN", "LSDE"])
def test_a_short_run(name: str) -> None:
    rows = script.table([16], 1, [name])
    assert all(len(row) == len(script.HEAD) for row in rows)
    errors = {row[2]: float(row[3]) for row in rows}
    assert errors.pop("Backsolve") < 1e-3
    assert len(errors) == 6 and max(errors.values()) < 1e-12
    peaks = {row[2]: float(row[6]) for row in rows}
    assert all(0 < peak for peak in peaks.values())
    assert peaks["Reversible"] < peaks["Direct, reversible"]


def test_training_steps_beside_torchdiffeq() -> None:
    pytest.importorskip("torchdiffeq")
    script = importlib.import_module("compat_gradients")
    rows = script.rows(1, [1e-4], [(2, 8, 3)])
    assert len(rows) == 4
    for row in rows:
        assert len(row) == len(script.HEAD)
        cells = dict(zip(script.HEAD, row, strict=True))
        assert float(cells["error, nde"]) < 1e-4
        assert float(cells["error, torchdiffeq"]) < 1e-2
        assert int(cells["calls, nde"]) <= int(cells["calls, torchdiffeq"])


def test_couplings() -> None:
    script = importlib.import_module("couplings")
    (known,) = (case for case in script.cases() if case.name == "MLP - y")
    rows = script.table([replace(known, end=1.5)], [10], [1e-2])
    assert [row[1] for row in rows] == ["float64", "float64", "float32", "float32"]
    for row in rows:
        assert len(row) == len(script.HEAD)
        exactness = [float(cell.split("| ")[1]) for cell in row[4:]]
        assert max(exactness) < (1e-12 if row[1] == "float64" else 1e-3)
    steps = [int(cell.split(",")[0]) for cell in rows[1][4:]]
    assert steps[0] >= steps[-1] > 0
