"""`nde check-grad`: a table, a file, and an exit code that tells."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from visits import small_flags, write_visits

from nde.cli import main
from nde.models.settings import _ADJOINTS
from nde.solvers import Recompute


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of an SDE whose method has all adjoints."""
    folder = tmp_path_factory.mktemp("audited")
    data = write_visits(folder / "visits.csv")
    out = folder / "run"
    argv = ["train", str(data), "--out", str(out), "-q", "--smoke", *small_flags()]
    argv += ["--model", "neural-sde", "--solver", "reversible_heun"]
    assert main([*argv, "--regularizer", "error=1"]) == 0
    return out


def check(run: Path, *more: str) -> int:
    return main(["check-grad", str(run), "--series", "3", "--directions", "1", *more])


def test_table_file_and_code(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "neural-sde on 3 test series, float64"
    told = "\n".join(lines)
    for word in ("direct ", "reference", "recompute *", "reversible", "peak MiB"):
        assert word in told
    # Its gradients do not reach the statistics that the regularizer looks at.
    assert "backsolve: a gradient was asked of error" in told
    assert lines[-2].startswith("the gradients of recompute are right")
    assert lines[-1] == str(run / "gradients.json")
    tree = json.loads((run / "gradients.json").read_text())
    assert tree["passed"] and tree["series"] == 3 and tree["model"] == "neural-sde"
    rows = {row["name"]: row for row in tree["adjoints"]}
    assert rows["recompute"]["chosen"] and rows["recompute"]["error"] < 1e-10
    assert rows["reversible"]["verdict"] == "right"
    assert rows["backsolve"]["verdict"] == "refused"
    assert [row["verdict"] for row in tree["directions"]] == ["right"]


def test_json_is_one_object(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(run, "--json") == 0
    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    tree = json.loads(line)
    assert tree.pop("path") == str(run / "gradients.json")
    assert tree == json.loads((run / "gradients.json").read_text())
    assert "recompute *" in captured.err


@dataclass(frozen=True)
class Bent(Recompute):
    """Gradients that are a tenth too large."""

    def run(self, *arguments: Any) -> Any:
        outcome = super().run(*arguments)
        # Steps that are known are marched along; what is read goes through these.
        polynomials = outcome.polynomials
        bent = polynomials + 0.1 * (polynomials - polynomials.detach())
        return replace(outcome, polynomials=bent)


def test_wrong_gradients_are_exit_code_1(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(_ADJOINTS, "recompute", Bent())
    assert check(run) == 1
    captured = capsys.readouterr()
    assert "WRONG: bent is" in captured.err
    assert captured.out.splitlines()[-1] == str(run / "gradients.json")
    tree = json.loads((run / "gradients.json").read_text())
    assert not tree["passed"]
    assert check(run, "-q") == 1
    assert "WRONG" in capsys.readouterr().err


def test_a_bare_checkpoint(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "only.pt"
    file.write_bytes((run / "checkpoints" / "best.pt").read_bytes())
    assert check(file, "-q") == 0
    assert (tmp_path / "gradients.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["none"], ["none", "no checkpoint"]),
        ([], ["run"]),
        (["RUN", "--series", "0"], ["--series", "0"]),
        (["RUN", "--directions", "-1"], ["--directions", "-1"]),
        (["RUN", "--device", "cudda"], ["'cudda'", "auto, cpu"]),
        (["RUN", "--seeds", "1"], ["--seed"]),
    ],
)
def test_refusals(
    run: Path,
    flags: Sequence[str],
    words: Sequence[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["check-grad", *(str(run) if flag == "RUN" else flag for flag in flags)]
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line.lower()


def test_data_that_is_gone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    checkpoint["config"]["data"]["source"] = str(tmp_path / "moved.csv")
    torch.save(checkpoint, tmp_path / "moved.pt")
    assert main(["check-grad", str(tmp_path / "moved.pt")]) == 2
    assert "moved.csv" in capsys.readouterr().err
