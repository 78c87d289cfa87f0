"""The SDE speed benchmark: its sides solve one equation; what it prints."""

import importlib
import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nde.solvers import Direct, Recompute
from nde.solvers.brownian import FromTorchsde

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "benchmarks"
sys.path.append(str(FOLDER))
equation = importlib.import_module("sde_equation")
variants = importlib.import_module("sde_variants")
increments = importlib.import_module("sde_increments")
methods = importlib.import_module("sde_methods")
turns = importlib.import_module("turns")
script = importlib.import_module("sde_solvers")

needs_torchsde = pytest.mark.skipif(
    not variants.HAS_TORCHSDE, reason="torchsde is not installed"
)


def _both(method: str, steps: int, adjoint: Any = None) -> tuple[Any, Any, Any]:
    """A problem, and nde and torchsde on it along one path of torchsde."""
    work = equation.workload(method, steps, batch=8)
    ours = variants.ours(
        work, lambda: FromTorchsde(variants.interval(work, work.dt), 0, 1), adjoint
    )
    theirs = variants.theirs(work, lambda: variants.interval(work, work.dt))
    return work, ours, theirs


@needs_torchsde
@torch.no_grad()
@pytest.mark.parametrize("method", ["euler", "heun", "reversible_heun"])
def test_both_packages_take_the_same_path(method: str) -> None:
    work, ours, theirs = _both(method, 16)
    end = ours(work.y0)
    assert float((end - work.y0).abs().max()) > 0.5
    torch.testing.assert_close(end, theirs(work.y0), rtol=0, atol=1e-5)


@needs_torchsde
@torch.no_grad()
@pytest.mark.parametrize("method", ["milstein", "srk"])
def test_methods_that_differ_meet(method: str) -> None:
    # srk is two methods, and milstein takes what noise across entries adds, of order
    # sqrt(h), in two ways: with steps 16 times as short, less than half the difference.
    gaps = []
    for steps in (16, 256):
        work, ours, theirs = _both(method, steps)
        gaps.append(float((ours(work.y0) - theirs(work.y0)).square().mean().sqrt()))
    assert 0 < gaps[1] < 0.5 * gaps[0] < 0.05


@needs_torchsde
@pytest.mark.parametrize("adjoint", [Direct(), Recompute()])
def test_gradients_are_theirs(adjoint: Any) -> None:
    work, *runs = _both("euler", 8, adjoint)
    found = []
    for run in runs:
        script.step(work, run, backward=True)
        found.append([p.grad.clone() for p in work.equation.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("method", equation.METHODS)
def test_all_variants_end_in_one_law(method: str) -> None:
    work = equation.workload(method, 8, batch=4000)
    ends = {v.name: v.run(work.y0) for v in variants.variants(work, backward=False)}
    first, *others = ends.values()
    assert len(others) == (4 if variants.HAS_TORCHSDE else 1)
    for name, end in list(ends.items())[1:]:
        # The sides share y0, but no noise: the mean and the mean square of y1 - y0.
        for power in (1, 2):
            one, other = ((y - work.y0) ** power for y in (first, end))
            error = ((one.var(0) + other.var(0)) / len(one)).sqrt()
            far = ((one.mean(0) - other.mean(0)).abs() / error).max()
            assert far < 5, (name, power)


def test_drawn_noise_has_the_law_of_brownian_motion() -> None:
    h, y0 = 0.3, torch.zeros(20_000, 2)
    w, u = variants.Drawn(y0, "space-time")(0.5, 0.5 + h, return_U=True)
    area = u / h - w / 2
    for sample, variance in ((w, h), (area, h / 12)):
        square = sample.square()
        error = float(square.std()) / math.sqrt(square.numel())
        assert abs(float(square.mean()) - variance) < 5 * error
    assert abs(float((w * area).mean())) < 5 * h / math.sqrt(12 * w.numel())


@pytest.mark.parametrize("method", equation.METHODS)
def test_the_floor_makes_the_calls_of_the_solve(method: str) -> None:
    work = equation.workload(method, 5, batch=2)
    calls = work.equation.calls
    variants.variants(work, backward=False)[0].run(work.y0)
    counted = tuple(calls)
    assert all(count >= work.steps for count in counted)
    calls[:] = [0, 0]
    end = script.chain(work, counted)(work.y0)
    assert tuple(calls) == counted and end.shape == work.y0.shape


def test_turns_are_taken_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([5.0, 1.0, 7.0, 2.0, 6.0, 9.0])
    done: list[str] = []

    def clock(action: Any, device: str) -> float:
        action()
        return next(seconds)

    monkeypatch.setattr(turns, "clock", clock)
    actions = {name: lambda n=name: done.append(n) for name in "ab"}
    assert turns.medians(actions, 3, "cpu") == {"a": 6.0, "b": 2.0}
    assert "".join(done) == "ababab"


def _cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_quick_report(capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--quick", "--only", "srk"])
    printed = capsys.readouterr().out
    rows = [row for row in _cells(printed) if row[0] == "srk" and len(row) == 9]
    solvers = {row[2] for row in rows}
    assert {"nde", "nde direct", "nde recompute"} <= solvers
    assert {"torchsde", "torchsde adjoint"} <= solvers or not variants.HAS_TORCHSDE
    for row in rows:
        assert float(row[5]) > 0 and float(row[8]) > 0
        if row[2] != "diffrax":
            assert float(row[6]) > 0 and float(row[7]) > 0
    by_side = {(row[1], row[2], row[3]): row[4] for row in rows}
    assert by_side["fwd", "nde", "grid"] == "2, 4"
    sources = [row for row in _cells(printed) if row[0] in ("W", "W and H")]
    assert len(sources) == (12 if variants.HAS_TORCHSDE else 8)
    assert all(float(row[2]) > 0 for row in sources)


def test_absent_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "PEERS", {"torchsde": False, "diffrax": False})
    for module in (variants, increments):
        monkeypatch.setattr(module, "HAS_TORCHSDE", False)
    monkeypatch.setattr(script.sde_diffrax, "HAS_DIFFRAX", False)
    script.main(["--quick", "--only", "euler"])
    printed = capsys.readouterr().out
    assert "torchsde is not installed" in printed
    assert "diffrax is not installed" in printed
    assert {row[2] for row in _cells(printed) if row[0] == "euler"} >= {"nde"}
    assert "BrownianInterval" not in printed


@needs_torchsde
def test_torchsde_has_the_methods_that_are_named() -> None:
    known = importlib.import_module("torchsde.settings").METHODS.all()
    named = {name.split(",")[0] for name in methods.TORCHSDE.values()}
    assert named <= set(known)
    assert set(known) - named == {"adjoint_reversible_heun"}
    assert set(methods.DIFFRAX) | set(methods.TORCHSDE) <= {
        row[0] for row in methods.methods_table()[1:]
    }


@pytest.mark.skipif(
    not importlib.util.find_spec("diffrax"), reason="diffrax is not installed"
)
@pytest.mark.parametrize("method", ["euler", "heun", "reversible_heun"])
def test_diffrax_ends_in_the_same_law(method: str) -> None:
    work = equation.workload(method, 8, batch=4000)
    end = variants.variants(work, backward=False)[0].run(work.y0).detach()
    module = importlib.import_module("sde_diffrax")
    for name, action in module.actions(work, backward=False).items():
        other = torch.tensor(action().tolist())
        one: Tensor = end - work.y0
        two = other - work.y0
        for a, b in ((one, two), (one.square(), two.square())):
            error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
            assert ((a.mean(0) - b.mean(0)).abs() / error).max() < 5, name
