"""Formats and files of labels through the commands: train, evaluate, predict."""

import csv
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from visits import small_flags, write_visits

from nde.cli import main
from nde.training.restore import restore


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the user's cache."""
    monkeypatch.setenv("NDE_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def table_folder(folder: Path) -> tuple[Path, Path]:
    """The small table of visits as a file per series, and a table of their labels."""
    frame = pl.read_csv(write_visits(folder / "visits.csv"))
    inside = folder / "visits"
    inside.mkdir()
    for (key,), part in frame.group_by(["id"]):
        part.drop("id", "label").write_csv(inside / f"{key}.csv")
    labels = folder / "labels.csv"
    frame.select("id", "label").unique().write_csv(labels)
    return inside, labels


def probabilities(path: Path) -> dict[str, float]:
    with open(path, newline="") as file:
        return {row["id"]: float(row["p_c0"]) for row in csv.DictReader(file)}


def test_a_folder_with_labels_beside_it_trains_what_one_table_trains(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, labels = table_folder(tmp_path)
    runs = {"folder": tmp_path / "a", "table": tmp_path / "b"}
    monkeypatch.chdir(tmp_path)
    argv = ["train", "-q", *small_flags(), "--seed", "3"]
    inside = ["visits", "--labels", "labels.csv", "--out", str(runs["folder"])]
    assert main([*argv, *inside]) == 0
    assert main([*argv, "visits.csv", "--out", str(runs["table"])]) == 0
    metrics = [(run / "metrics.json").read_bytes() for run in runs.values()]
    assert metrics[0] == metrics[1]
    assert len(list((data_dir / "parsed").iterdir())) == 1

    # What was told in relative paths is found from anywhere.
    monkeypatch.chdir("/")
    config = restore(runs["folder"]).config.data
    assert config.source == os.fspath(folder) and config.labels == os.fspath(labels)
    assert main(["evaluate", str(runs["folder"]), "-q"]) == 0

    # A model of one format predicts on another.
    for name, source in (("folder", tmp_path / "visits.csv"), ("table", folder)):
        out = tmp_path / f"{name}.csv"
        assert main(["predict", str(runs[name]), str(source), "-o", str(out)]) == 0
    found = [probabilities(tmp_path / f"{name}.csv") for name in runs]
    assert found[0] == found[1] and len(found[0]) == 40


def test_evaluate_on_other_data_with_labels_of_its_own(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, labels = table_folder(tmp_path)
    run = tmp_path / "run"
    argv = ["train", str(tmp_path / "visits.csv"), "-q", "--out", str(run)]
    assert main([*argv, *small_flags()]) == 0
    capsys.readouterr()
    argv = ["evaluate", str(run), str(folder)]
    assert main(argv) == 2
    assert "no labels" in capsys.readouterr().err
    assert main([*argv, "--labels", str(labels)]) == 0
    assert "labels: label of" in capsys.readouterr().out
    assert (run / "evaluation-visits.json").exists()


def test_a_grid_with_times_of_its_own(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    values = generator.normal(size=(40, 6, 2)) + 3 * labels[:, None, None]
    np.savez(tmp_path / "grid.npz", X=values, y=labels)
    (tmp_path / "times.txt").write_text("0\n1\n2\n4\n8\n16\n")
    argv = ["train", str(tmp_path / "grid.npz"), "--dry-run", *small_flags()]
    assert main([*argv, "--times", str(tmp_path / "times.txt")]) == 0
    told = capsys.readouterr().out
    assert "X (40, 6, 2)" in told and "times.txt" in told and "label: y" in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--format", "tabel"], ["data.format", "did you mean 'table'"]),
        (["--format", "ts"], ["line 1", "@data"]),
        (["--labels", "none.csv"], ["none.csv", "No such file"]),
        (["--times", "none.txt"], ["--times", "one row per time"]),
        (["--set", "data.cache=maybe"], ["data.cache", "maybe"]),
    ],
)
def test_bad_options(
    visits: Path,
    flags: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", str(visits), "--dry-run", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line


def test_bad_options_of_the_other_commands(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("evaluate", "predict"):
        argv = [command, str(tmp_path), str(visits), "--format", "tabel"]
        assert main(argv) == 2
        assert "did you mean 'table'" in capsys.readouterr().err
