"""Every example runs, in small, and says what it promises."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name: str, *options: str) -> str:
    """Standard output of an example."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_node_layer() -> None:
    out = run("node_layer.py", "--iterations", "150")
    found = re.findall(r"accuracy (\S+)  evaluations (\S+)", out)
    assert len(found) == 2
    (plain, plain_cost), (regular, regular_cost) = (map(float, row) for row in found)
    assert plain > 0.9 and regular > 0.9
    assert regular_cost < plain_cost


def test_classify_csv() -> None:
    out = run("classify_csv.py", "--epochs", "20")
    accuracy = float(re.search(r"test accuracy (\S+),", out)[1])
    assert accuracy >= 0.75


def test_inside_a_solve(tmp_path: Path) -> None:
    picture = tmp_path / "solve.png"
    out = run("inside_a_solve.py", "--out", str(picture), "--end", "5")
    steps = [int(n) for n in re.findall(r"(\d+) steps accepted", out)]
    assert len(steps) == 3 and min(steps) > 5
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_solver_benchmark() -> None:
    pytest.importorskip("torchdiffeq")
    out = run("benchmarks/solvers.py", "--rounds", "1")
    rows = [line for line in out.splitlines() if line.startswith(("| A", "| C"))]
    assert len(rows) >= 10
    assert {row.split("|")[3].strip() for row in rows} >= {"nde", "torchdiffeq"}
    assert all(float(row.split("|")[-2]) > 0 for row in rows)


def test_compat_benchmark() -> None:
    pytest.importorskip("torchdiffeq")
    out = run("benchmarks/compat_torchdiffeq.py", "--rounds", "1")
    rows = [line for line in out.splitlines() if " | odeint" in line]
    assert len(rows) == 8
    assert all(float(row.split("|")[-2]) > 0 for row in rows)


@pytest.mark.parametrize("name", sorted(p.name for p in EXAMPLES.glob("*.py")))
def test_examples_stay_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 120
