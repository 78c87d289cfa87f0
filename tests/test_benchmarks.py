"""The work-precision benchmark: its problems, its runs and what it makes of them."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "benchmarks"
sys.path.append(str(FOLDER))
problems = importlib.import_module("ode_problems")
runs = importlib.import_module("ode_runs")
sections = importlib.import_module("ode_sections")
script = importlib.import_module("work_precision")

# First and last entry at the end: the values that W. H. Enright and J. D. Pryce publish
# with "Two FORTRAN packages for assessing initial value methods" (ACM Trans. Math.
# Softw. 13, 1987), the closed form of A1 to A4, and for the Pleiades x_1 and y_7' of
# Hairer and Wanner's solution.
PUBLISHED = {
    "A1": (math.exp(-20.0), math.exp(-20.0)),
    "A2": (21.0**-0.5, 21.0**-0.5),
    "A3": (math.exp(math.sin(20.0)), math.exp(math.sin(20.0))),
    "A4": (20.0 / (1.0 + 19.0 * math.exp(-5.0)), 20.0 / (1.0 + 19.0 * math.exp(-5.0))),
    "A5": (-0.7887826688964196, -0.7887826688964196),
    "B1": (0.6761876008576667, 0.1860816099640036),
    "B2": (1.000000001030576, 0.9999999989694235),
    "B3": (2.061153488557776e-09, 0.9474277177183630),
    "B4": (0.9826950928005993, 0.9129452507276399),
    "B5": (-0.9396570798729192, 0.7414126596199957),
    "C1": (2.061153622240064e-09, 0.9979127409508656),
    "C2": (2.061153577984930e-09, 0.9999999814496180),
    "C3": (2.948119211022058e-03, 2.762434379029886e-03),
    "C4": (3.124111453721466e-03, 1.891330702629865e-14),
    "C5": (-4.792730224323733, -3.189687411323877e-02),
    "D1": (0.2198835352008397, 0.3287977990962036),
    "D2": (-0.1777027357140412, 0.1211074890053952),
    "D3": (-0.5780432953035361, -0.06504915126712089),
    "D4": (-0.9538990293416394, -0.1539574259125825),
    "D5": (-1.295266250987574, -0.1270838154278686),
    "E1": (0.1456723600728308, -0.09883500195574063),
    "E2": (2.008149762174948, -0.04250887527320057),
    "E3": (-0.1004178858647128, 0.2411400132095954),
    "E4": (33.95091444646555, 0.2767822659672869),
    "E5": (14.11797390542629, 2.400000000000002),
    "pleiades": (0.3706139143970502, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_problem_ends_as_published(name: str) -> None:
    problem = problems.PROBLEMS[name]
    done = solve_ivp(
        runs.for_numpy(problem.field),
        (problem.t0, problem.t1),
        problem.start,
        method="DOP853",
        rtol=1e-9,
        atol=1e-12,
    )
    for found, known in zip(done.y[[0, -1], -1], PUBLISHED[name], strict=True):
        assert known is None or math.isclose(found, known, rel_tol=1e-6, abs_tol=1e-7)


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_field_takes_a_batch_as_its_samples(name: str) -> None:
    problem = problems.PROBLEMS[name]
    y = problem.y0() * torch.tensor([[1.0], [1.1]], dtype=torch.float64)
    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    both = problem.field(t, y)
    assert both.shape == y.shape and both.dtype == torch.float64
    for i in range(2):
        alone = problem.field(t[i], y[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["lorenz", "vdp10", "brusselator"])
def test_field_is_the_slope_of_its_reference(name: str) -> None:
    # Those without published ends, against their equations in plain numbers.
    known = {
        "lorenz": lambda a, b, c: (10 * (b - a), a * (28 - c) - b, a * b - 8 * c / 3),
        "vdp10": lambda x, v: (v, 10 * (1 - x**2) * v - x),
        "brusselator": lambda a, b: (1 + a**2 * b - 4 * a, 3 * a - a**2 * b),
    }[name]
    field = runs.for_numpy(problems.PROBLEMS[name].field)
    size = len(problems.PROBLEMS[name].start)
    done = solve_ivp(
        lambda t, y: known(*y),
        (0.0, 1.0),
        [1.2, 0.7, 0.4][:size],
        "DOP853",
        rtol=1e-10,
        atol=1e-12,
        dense_output=True,
    )
    for t in (0.3, 0.8):
        slope = (done.sol(t + 1e-5) - done.sol(t - 1e-5)) / 2e-5
        np.testing.assert_allclose(field(t, done.sol(t)), slope, rtol=1e-4, atol=1e-5)


def test_runs_of_one_problem() -> None:
    pytest.importorskip("torchdiffeq")
    methods = runs.adaptive_methods()
    assert {"heun_euler", "bosh3", "dopri5", "tsit5"} <= set(methods)
    found = runs.run_all(problems.PROBLEMS["B5"], methods, [1e-4])
    assert {run.library for run in found} == {"nde", "torchdiffeq", "scipy"}
    assert {run.method for run in found if run.library == "nde"} == set(methods)
    for run in found:
        # Fehlberg's 2(1) pair sees little of its error.
        assert runs.FLOOR < run.error < (1.0 if run.method == "fehlberg2" else 1e-2)
        attempts = run.accepted + run.rejected
        assert run.rejected >= 0 and run.accepted > 0
        assert attempts < run.evaluations <= 20 * attempts
    by_method = {(run.library, run.method): run for run in found}
    # The same tableau and controller, but for the last step and the cautious ones.
    ours, theirs = by_method["nde", "dopri5"], by_method["torchdiffeq", "dopri5"]
    assert 0.7 < ours.evaluations / theirs.evaluations < 1.3


def test_low_orders_skip_tight_tolerances() -> None:
    assert runs.reaches("heun_euler", 1e-5) and not runs.reaches("heun_euler", 1e-6)
    assert runs.reaches("bosh3", 1e-7) and not runs.reaches("bosh3", 1e-9)
    assert runs.reaches("tsit5", 1e-9)


def _curve(factor: float, order: int, errors: list[float]) -> list:
    return [
        runs.Run("p", "nde", "m", e, e, round(factor * e ** (-1 / order)), 1, 0)
        for e in errors
    ]


def test_ratio_at_equal_error() -> None:
    ours = _curve(3000.0, 5, [1e-3, 1e-6, 1e-9])
    theirs = _curve(2000.0, 5, [1e-8, 3e-5, 1e-2])
    assert runs.equal_error_ratio(ours, theirs) == pytest.approx(1.5, rel=1e-3)
    assert math.isnan(runs.equal_error_ratio(ours, _curve(1.0, 5, [1e-1, 1e-2])))
    assert math.isnan(runs.equal_error_ratio(ours, []))


def test_report(tmp_path: Path) -> None:
    arguments = ["--problems", "A3", "--methods", "dopri5", "--rtol", "1e-3", "1e-5"]
    files = ["--out", str(tmp_path), "--plot", str(tmp_path / "curves.png")]
    report = script.compare(script.parse(arguments + files))
    tables = [part for part in report.split("\n\n") if part.startswith("|")]
    assert [len(table.splitlines()) for table in tables] >= [4, 3, 3]
    lines = (tmp_path / "problems.csv").read_text().splitlines()
    peers = 3 if runs.HAS_TORCHDIFFEQ else 2
    assert len(lines) == 1 + 2 * (1 + peers)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.parse(["--problems", "A9"])
    assert "A9" in capsys.readouterr().err


def test_sections() -> None:
    batch = sections.batch_table(samples=4)
    cost = {tuple(row[:3]): row for row in batch[1:]}
    alone = cost["nde", "dopri5", "per sample"]
    tied = cost["nde", "dopri5", "shared"]
    calls = [int(text.replace(",", "")) for text in (*alone[3:5], *tied[3:5])]
    assert calls[1] < 4 * calls[0] and calls[3] == 4 * calls[2]
    assert all(float(row[-1]) < 1e-2 for row in batch[1:])
    for row in sections.float32_table(t1=20.0)[1:]:
        assert int(row[4]) > 0 and float(row[6]) < 0.3
