"""The benchmarks of regularizers: what they run, keep, and make of it."""

import importlib
import io
import math
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nde.regularizers import AutoWeight
from nde.solvers import ODETerm, solve

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "benchmarks"
sys.path.append(str(FOLDER / "regularizers"))
named = importlib.import_module("named_methods")
trials = importlib.import_module("trials")
tables = importlib.import_module("trial_tables")
campaign = importlib.import_module("campaign")
images = importlib.import_module("images")
stays = importlib.import_module("hourly_stays")

TASKS = {"node": named.NODE, "latent": named.LATENT_ODE, "nsde": named.NSDE}
ISSUED = {"vanilla", "steer", "er", "sr", "sr+er", "local-unbiased", "local-biased"} | {
    "local-published-unbiased",
    "local-published-biased",
}


@pytest.mark.parametrize("task", TASKS)
def test_methods_are_made_anew(task: str) -> None:
    found = named.methods(TASKS[task])
    assert next(iter(found)) == "vanilla" and found["vanilla"]() == []
    assert set(found) >= ISSUED
    assert ("taynode" in found) == ("rnode" in found) == (task != "nsde")
    learning = 0
    for name, make in found.items():
        once, again = ([getattr(r, "weight", None) for r in make()] for _ in range(2))
        assert bool(once) == (name != "vanilla")
        # A weight that learns belongs to one training.
        for one, other in zip(once, again, strict=True):
            learning += isinstance(one, AutoWeight)
            assert one is not other or not isinstance(one, AutoWeight)
    assert learning >= 2


def _row(method: str, seed: int, **numbers: float) -> Any:
    base = trials.Row(method, seed, "s", 90.0, 100.0, 80.0, 10.0, 0.5)
    return replace(base, **numbers)


def test_ratios_are_to_vanilla_of_the_same_seed() -> None:
    rows = [
        _row("vanilla", 0),
        _row("vanilla", 1, metric=80.0, test_evaluations=200.0, train_seconds=40.0),
        _row("cheap", 0, metric=91.0, test_evaluations=50.0, train_seconds=5.0),
        _row("cheap", 1, metric=83.0, test_evaluations=50.0, train_seconds=30.0),
        _row("cheap", 2, metric=70.0, note="failed"),
        _row("alone", 7),
    ]
    plain, cheap, alone = tables.summaries(rows, higher_is_better=True)
    assert (cheap.done, cheap.failed) == (2, 1)
    assert cheap.metric == 87.0
    assert cheap.change == pytest.approx(2.0)
    # Of the changes 1 and 3.
    assert cheap.change_error == pytest.approx(1.0)
    assert cheap.evaluations_ratio == pytest.approx((0.5 + 0.25) / 2)
    assert cheap.train_seconds_ratio == pytest.approx((0.5 + 0.75) / 2)
    assert cheap.predict_seconds_ratio == 1.0
    assert math.isnan(alone.evaluations_ratio)
    # 2 more for less than half beats 0 for all; nobody knows of the one without a pair.
    assert (plain.front, cheap.front, alone.front) == (False, True, False)
    lines = tables.markdown([cheap, alone], "accuracy", 1).splitlines()
    assert "| 87.0 ± 5.7 | +2.0 ± 1.0 | 50.0 | 0.38 |" in lines[2]
    # One seed alone has no deviation.
    assert "| 90.0 | +nan | 100.0 | nan |" in lines[3]
    losses = tables.summaries(rows, higher_is_better=False)
    assert [one.front for one in losses] == [True, True, False]


def test_files_hold_what_was_measured(tmp_path: Path) -> None:
    rows = [_row("vanilla", 0, predict_seconds=1 / 3), _row("er", 3, note="a, b")]
    path = tmp_path / "rows.csv"
    assert tables.read_rows(path) == []
    tables.write_rows(path, rows)
    assert tables.read_rows(path) == rows


class Counted(nn.Module):
    """y' = -y."""

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -y


class Decay:
    """An experiment without parameters that matter."""

    def __init__(self, fails: bool) -> None:
        self.field = Counted()
        self.rate = nn.Parameter(torch.ones(()))
        self.model = nn.ModuleList([self.field])
        self.optimizer = torch.optim.SGD([self.rate], lr=0.1)
        self.fails = fails

    def _solve(self) -> Any:
        return solve(
            ODETerm(self.field),
            torch.ones(1, 1),
            torch.tensor([0.0, 1.0]),
            max_steps=1 if self.fails else 100,
        )

    def loss(self, iteration: int, progress: float) -> tuple[torch.Tensor, Any]:
        self.cost = int(self._solve().stats.evaluations)
        zero = torch.zeros(())
        return self.rate**2, SimpleNamespace(penalty=zero, terms={})

    def test(self) -> float:
        self._solve()
        return float(self.rate)


def test_a_trial_counts_calls() -> None:
    work = Decay(fails=False)
    row = trials.trial("m", 1, "s", work, 3)
    assert row.train_evaluations == row.test_evaluations == work.cost > 5
    assert row.metric == pytest.approx(0.8**3)
    assert row.train_seconds > 0 and row.predict_seconds > 0 and not row.note


def test_a_solve_that_fails_is_a_row() -> None:
    row = trials.trial("m", 1, "s", Decay(fails=True), 3)
    assert math.isnan(row.metric) and "step" in row.note and "\n" not in row.note


def _run(script: str, folder: Path, *arguments: str) -> str:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    small = ("--iterations", "3", "--batch", "8", "--out", str(folder))
    return importlib.import_module(script).main([*arguments, *small])


def test_node_script_keeps_and_resumes(tmp_path: Path) -> None:
    options = ("--tolerance", "1e-3", "--seeds", "0", "1", "--methods", "vanilla")
    _run("digits_node", tmp_path, *options, "rnode")
    path = tmp_path / "digits_node.csv"
    first = tables.read_rows(path)
    assert [(r.method, r.seed) for r in first] == [
        (method, seed) for seed in (0, 1) for method in ("vanilla", "rnode")
    ]
    with pytest.raises(ValueError, match="--resume"):
        _run("digits_node", tmp_path, *options)
    table = _run("digits_node", tmp_path, *options, "local-unbiased", "--resume")
    rows = tables.read_rows(path)
    assert rows[:4] == first
    assert [(r.method, r.seed) for r in rows[4:]] == [
        ("local-unbiased", 0),
        ("local-unbiased", 1),
    ]
    assert table in path.with_suffix(".md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "vanilla",
        "rnode",
        "local-unbiased",
    ]
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="other|another folder"):
        _run("digits_node", tmp_path, "--tolerance", "1e-2", "--resume")


def test_results_without_vanilla_have_no_ratios(tmp_path: Path) -> None:
    options = ("--tolerance", "1e-2", "--seeds", "0", "--methods", "er")
    table = _run("digits_node", tmp_path, *options)
    assert "| er | 1 |" in table and "nan" in table
    assert (tmp_path / "digits_node.png").exists()


def test_unknown_methods_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="local-unbiassed"):
        _run("digits_node", tmp_path, "--methods", "local-unbiassed")


def test_all_methods_start_from_one_model() -> None:
    # Also those that draw parameters of their own.
    seen = {}

    def start(seed: int, regularizers: Any) -> Any:
        seen[seed, len(regularizers), type(next(iter(regularizers), None))] = (
            torch.rand(3)
        )
        return Decay(fails=False)

    task = campaign.Task("t", "m", 1, True, "s", named.NODE, start)
    asked = SimpleNamespace(
        methods=["vanilla", "adaptive-jacobian"],
        seeds=[5],
        iterations=1,
        resume=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaign, "write_rows", lambda *_: None)
        patch.setattr(campaign, "_report", lambda *_: "")
        asked.out = Path(".")
        campaign.run(task, asked)
    plain, other = seen.values()
    assert torch.equal(plain, other)


def test_node_learns() -> None:
    pytest.importorskip("sklearn")
    script = importlib.import_module("digits_node")
    torch.manual_seed(0)
    work = script.Digits(
        images.load(None, 0), 0, [], iterations=60, batch=64, lr=3e-3, tolerance=1e-3
    )
    row = trials.trial("vanilla", 0, "s", work, 60)
    assert row.metric > 70.0


def test_nsde_script(tmp_path: Path) -> None:
    table = _run(
        "digits_nsde",
        tmp_path,
        *("--tolerance", "0.1", "--seeds", "0"),
        *("--methods", "vanilla", "sr", "local-biased"),
    )
    assert len(table.splitlines()) == 5
    assert all(not r.note for r in tables.read_rows(tmp_path / "digits_nsde.csv"))


def _archive(path: Path, count: int) -> None:
    """Stays in the official layout."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as tar:
        for number in range(count):
            lines = ["Time,Parameter,Value", f"00:00,RecordID,{number}"]
            lines += ["00:00,Age,54", "00:00,Weight,-1", "00:10,HR,60", "00:20,HR,80"]
            lines += ["01:29,Temp,35", f"01:31,Temp,{36 + number}"]
            lines += [
                f"{hour:02d}:00,Glucose,{rng.uniform(50, 200):.1f}"
                for hour in range(0, 49, 8)
            ]
            data = "\n".join(lines).encode()
            info = tarfile.TarInfo(f"set-a/{100 + number}.txt")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_stays_are_read_by_the_hour(tmp_path: Path) -> None:
    _archive(tmp_path / "a.tar.gz", 10)
    train, test = stays.split(tmp_path / "a.tar.gz", 10, seed=0)
    assert train.values.shape == (8, 49, 37) and len(test) == 2
    column = stays.SIGNALS.index
    for part in (train, test):
        assert not part.seen[..., column("Weight")].any()
        # Means over the hour are the same in all stays, and then scaled to zero.
        assert part.seen[:, 0, column("HR")].all()
        assert not part.values[..., column("HR")].any()
        assert part.seen[:, [1, 2], column("Temp")].all()
        assert part.seen.sum(dim=(1, 2)).eq(1 + 2 + 7).all()
        assert part.values.min() >= 0 and part.values.max() <= 1
    highs = torch.cat((train.values, test.values))[:, 2, column("Temp")]
    torch.testing.assert_close(
        highs.sort().values, (1.0 + torch.arange(10.0).double()) / 10.0
    )


def test_latent_ode_script(tmp_path: Path) -> None:
    _archive(tmp_path / "a.tar.gz", 10)
    table = _run(
        "physionet_latent_ode",
        tmp_path,
        str(tmp_path / "a.tar.gz"),
        *("--stays", "10", "--tolerance", "1e-2", "--seeds", "0"),
        *("--methods", "vanilla", "steer", "taynode", "local-biased"),
    )
    assert len(table.splitlines()) == 6
    rows = tables.read_rows(tmp_path / "physionet_latent_ode.csv")
    assert all(not row.note for row in rows)


def test_recognition_passes_over_times_without_measurements() -> None:
    model = importlib.import_module("latent_ode").Recognition(3).double()
    torch.manual_seed(0)
    values = torch.randn(2, 4, 3, dtype=torch.float64)
    seen = torch.ones_like(values)
    seen[:, 2] = 0.0
    whole = model(values * seen, seen, 0.1)
    kept = [0, 1, 3]
    short = model((values * seen)[:, kept], seen[:, kept], 0.1)
    torch.testing.assert_close(whole, short)


def test_mnist_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        "y_train": rng.integers(0, 10, 6, dtype=np.uint8),
        "x_test": rng.integers(0, 256, (2, 28, 28), dtype=np.uint8),
        "y_test": rng.integers(0, 10, 2, dtype=np.uint8),
    }
    np.savez(tmp_path / "m.npz", **arrays)
    found = images.load(tmp_path / "m.npz", 0)
    assert found.train_x.shape == (6, 784) and found.test_x.dtype == torch.float64
    np.testing.assert_allclose(found.test_x[1].numpy() * 255, arrays["x_test"][1].flat)
    assert found.train_y.tolist() == arrays["y_train"].tolist()
    np.savez(tmp_path / "n.npz", x_train=arrays["x_train"])
    with pytest.raises(ValueError, match="y_test"):
        images.load(tmp_path / "n.npz", 0)
