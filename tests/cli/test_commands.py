"""The commands end to end: what they print, write and return."""

import csv
import json
from pathlib import Path

import pytest
from visits import small_flags, write_visits

from nde.cli import main


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines on stdout since the last look."""
    return capsys.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table and a run trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_visits(folder / "visits.csv", label="outcome")
    out = folder / "run"
    argv = ["train", str(data), "--label", "outcome", "--out", str(out), "-q"]
    assert main([*argv, *small_flags(), "--drop-rate", "0.2"]) == 0
    return data, out


def test_train_prints_what_it_understood_and_ends_with_the_path(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    code = main(["train", str(visits), "--out", str(out), *small_flags()])
    assert code == 0
    found = lines(capsys)
    told = "\n".join(found)
    for word in (
        "id: id",
        "time: time",
        "label: label",
        "channels: x1, x2",
        "series: 40",
        "parts: 28 train, 6 validation, 6 test",
        "model: lnsde",
        "epoch   1/2",
        "validation log_loss",
    ):
        assert word in told
    metrics = json.loads((out / "metrics.json").read_text())
    assert found[-1] == str(out / "metrics.json")
    assert f"test accuracy {metrics['test']['accuracy']:.4f}" in found[-3]
    assert f"{metrics['solver']['nfe']:.1f}" in found[-2]
    assert "function evaluations" in found[-2]
    log = (out / "log.txt").read_text()
    assert "epoch   2/2" in log and "test accuracy" in log


def test_bundled_data_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = ["--smoke", "--hidden", "4", "--width", "4", "--layers", "1"]
    assert main(["train", "japanese-vowels", "--out", str(out), *flags]) == 0
    assert "216 train, 54 validation, 370 test" in capsys.readouterr().out
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1


def test_quiet_prints_the_path_alone(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = ["train", str(visits), "--out", str(out), "--smoke", "-q", *small_flags()]
    assert main(argv) == 0
    assert lines(capsys) == [str(out / "metrics.json")]


def test_json_prints_one_object(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = ["train", str(visits), "--out", str(out), "--json", *small_flags()]
    assert main(argv) == 0
    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    tree = json.loads(line)
    assert tree.pop("path") == str(out / "metrics.json")
    assert tree == json.loads((out / "metrics.json").read_text())
    assert "epoch   1/2" in captured.err


def test_dry_run_writes_nothing(
    visits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["train", str(visits), "--dry-run", "--hidden", "4"]
    assert main(argv) == 0
    told = capsys.readouterr().out
    assert "parameters" in told and "hidden: 4" in told and "series: 40" in told
    assert list(tmp_path.iterdir()) == []


def test_default_folders_do_not_collide(
    visits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["train", str(visits), "--smoke", "-q", *small_flags()]) == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names[0].endswith("_lnsde_visits_s0") and names[1] == f"{names[0]}-2"


def test_order_of_sources(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        f"[data]\nsource = '{visits}'\n[model]\nhidden = 5\nwidth = 6\n"
        "[optim]\nlr = 0.5\n[regularizers]\nerror = 1.0\n"
    )
    argv = ["train", "--config", str(file), "--width", "7", "--set", "optim.lr=0.25"]
    argv += ["--solver", "heun", "--regularizer", "local-error=100:10", "--dry-run"]
    assert main(argv) == 0
    told = capsys.readouterr().out
    for line in (
        "  hidden: 5",
        "  width: 7",
        "  lr: 0.25",
        "  error: 1.0",
        "  local-error: '100:10'",
    ):
        assert line in told.splitlines()


def test_evaluate_repeats_the_test_of_the_run(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = trained
    assert main(["evaluate", str(out)]) == 0
    found = lines(capsys)
    assert found[-1] == str(out / "evaluation.json")
    metrics = json.loads((out / "metrics.json").read_text())
    again = json.loads((out / "evaluation.json").read_text())
    assert again["test"] == metrics["test"]
    assert again["solver"]["nfe"] == metrics["solver"]["nfe"]
    assert f"accuracy {metrics['test']['accuracy']:.4f}" in found


def test_evaluate_on_other_data(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = trained
    assert main(["evaluate", str(out), str(data), "--json"]) == 0
    (line,) = lines(capsys)
    tree = json.loads(line)
    assert tree["series"] == 40
    assert tree["path"] == str(out / "evaluation-visits.json")


def test_predict_matches_channels_by_name(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = trained
    rows = list(csv.DictReader(data.read_text().splitlines()))
    other = tmp_path / "new.csv"
    with open(other, "w", newline="") as file:
        writer = csv.DictWriter(file, ["x2", "time", "extra", "x1", "id"])
        writer.writeheader()
        for row in rows:
            del row["outcome"]
            writer.writerow(row | {"extra": "text"})
    assert main(["predict", str(out), str(data), "-o", str(tmp_path / "a.csv")]) == 0
    assert main(["predict", str(out), str(other), "-o", str(tmp_path / "b.csv")]) == 0
    assert lines(capsys)[-1] == str(tmp_path / "b.csv")
    first = (tmp_path / "a.csv").read_text()
    assert first == (tmp_path / "b.csv").read_text()
    table = list(csv.reader(first.splitlines()))
    assert table[0] == ["id", "y_pred", "p_c0", "p_c1"]
    assert [row[0] for row in table[1:]] == sorted(f"p{i}" for i in range(40))


def test_predict_with_labels_from_the_checkpoint_alone(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = trained
    bare = tmp_path / "only.pt"
    bare.write_bytes((out / "checkpoints" / "best.pt").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "only.pt", str(data), "--label", "outcome", "-q"]) == 0
    text = (tmp_path / "predictions-visits.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert {row["y_true"] for row in rows} == {"c0", "c1"}
    for row in rows:
        assert row["y_pred"] == ("c0" if float(row["p_c0"]) > 0.5 else "c1")
