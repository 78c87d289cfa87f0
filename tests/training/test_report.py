"""The report of a run: what it rests on, what it shows, made again from the folder."""

import base64
import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from visits import small_config, write_visits

from nde.cli import main
from nde.training.predictions import read_predictions, write_predictions
from nde.training.preparation import Prepared, prepare
from nde.training.record import read_record
from nde.training.report import write_report
from nde.training.restore import restore
from nde.training.run import run_training
from nde.training.run_folder import RunFolder, RunFolderError, create_run
from nde.training.step_trace import read_trace, trace_steps, write_trace

PICTURES = ("training", "roc_pr", "reliability", "confusion", "steps")
# What HTML, CSV and matplotlib would each like to read in their own way.
BAD = "_<script>alert('1')</script> & \"$x$\""


def write_bad_visits(path: Path) -> Path:
    """The small table with a hostile name for the class c1 and the channel x2."""
    rows = list(csv.reader(write_visits(path).read_text().splitlines()))
    rows[0][3] = "<img src=http://x.org/y>"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(
            [cell if cell != "c1" else BAD for cell in row] for row in rows
        )
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Prepared]:
    """A run of a neural ODE with adaptive steps, and its data."""
    folder = tmp_path_factory.mktemp("report")
    config = small_config(
        write_bad_visits(folder / "visits.csv"),
        model__name="neural-ode",
        solver__step="adaptive",
        data__drop_rate=0.2,
        log__plots=True,
    )
    prepared = prepare(config)
    run = create_run(folder / "run")
    run_training(config, prepared, run, lambda event: None)
    return run, prepared


@pytest.fixture
def copied(made: tuple[RunFolder, Prepared], tmp_path: Path) -> RunFolder:
    """A copy of the run that may be changed."""
    shutil.copytree(made[0].path, tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


class Reader(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def row_of(page: Path, name: str) -> list[str]:
    """The cells of the first row of any table that begins with `name`."""
    text = page.read_text(encoding="utf-8")
    for row in re.findall(r"<tr>(.*?)</tr>", text):
        cells = re.findall(r"<td>(.*?)</td>", row)
        if cells and cells[0] == name:
            return cells[1:]
    raise AssertionError(f"no row {name}")


def test_the_page_needs_nothing_else(made: tuple[RunFolder, Prepared]) -> None:
    run, _ = made
    reader = read(run.report)
    sources = [value or "" for key, value in reader.attributes if key == "src"]
    assert len(sources) == len(PICTURES)
    for name, source in zip(PICTURES, sources, strict=True):
        head, _, data = source.partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == run.plot(name).read_bytes()
    assert not {"script", "link", "iframe"} & set(reader.tags)
    assert "href" not in dict(reader.attributes)


def test_names_from_the_data_are_text(made: tuple[RunFolder, Prepared]) -> None:
    reader = read(made[0].report)
    assert f"class {BAD}" in reader.text
    assert "<img src=http://x.org/y>" in reader.text
    assert reader.tags.count("img") == len(PICTURES)


def test_the_tables_tell_what_the_files_do(made: tuple[RunFolder, Prepared]) -> None:
    run, prepared = made
    metrics = json.loads(run.metrics.read_text())
    accuracy = row_of(run.report, "accuracy")
    for part, cell in zip(("train", "validation", "test"), accuracy, strict=False):
        assert cell == f"{metrics[part]['accuracy']:.4g}"
    # Two classes of equal size in every part.
    assert accuracy[3] == "0.5"
    assert float(row_of(run.report, "log loss")[3]) == pytest.approx(np.log(2), 1e-3)
    assert row_of(run.report, "series") == ["28", "6", "6"]
    assert row_of(run.report, "class c0") == ["14", "3", "3"]
    cost = row_of(run.report, "evaluations per series and path, test")
    assert cost == [f"{metrics['solver']['nfe']:.4g}"]
    data = json.loads(run.file("data.json").read_text())
    train = prepared.parts["train"]
    seen = np.isfinite(np.concatenate(train.values)).mean(axis=0)
    assert data["train"]["missing"]["x1"] == pytest.approx(1 - seen[0])
    assert row_of(run.report, "x1")[0] == f"{1 - seen[0]:.1%}"
    assert 0.1 < 1 - seen[0] < 0.3
    spans = [t[-1] for t in train.times]
    longest = data["train"]["duration"][2] / prepared.schema.scaling.time_scale
    assert longest == pytest.approx(max(spans))


def test_plot_makes_it_again_from_the_folder_alone(
    made: tuple[RunFolder, Prepared],
    copied: RunFolder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(copied.path / "plots")
    shutil.rmtree(copied.path / "checkpoints")
    copied.report.unlink()
    assert main(["plot", str(copied.path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == str(copied.report)
    assert told[:-1] == [str(copied.plot(name)) for name in PICTURES]
    run, _ = made
    assert copied.report.read_bytes() == run.report.read_bytes()
    assert main(["plot", str(copied.path), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree == {"plots": told[:-1], "path": told[-1]}


@pytest.mark.parametrize(
    "name", ["metrics.json", "predictions.csv", "steps.csv", "metrics.jsonl"]
)
def test_a_missing_or_damaged_file_is_named(
    copied: RunFolder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copied.file(name).write_text("{]\n")
    assert main(["plot", str(copied.path)]) == 2
    assert f"{name} cannot be read" in capsys.readouterr().err
    copied.file(name).unlink()
    assert main(["plot", str(copied.path)]) == 2
    told = capsys.readouterr().err
    assert f"{name} is missing; expected the folder of a run that has ended" in told


def test_a_file_is_no_run(
    copied: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", str(copied.best)]) == 2
    assert "best.pt is no folder" in capsys.readouterr().err


def test_one_class_has_no_curves(copied: RunFolder) -> None:
    classes = read_record(copied).schema.classes
    path = copied.file("predictions.csv")
    probabilities, labels = read_predictions(path, classes)
    keep = labels == 0
    count = int(keep.sum())
    write_predictions(
        path,
        ids=[str(k) for k in range(count)],
        classes=classes,
        probabilities=probabilities[keep],
        truth=[classes[0]] * count,
    )
    assert write_report(copied) == tuple(n for n in PICTURES if n != "roc_pr")
    assert "All test series are of one class" in copied.report.read_text()


def test_metrics_that_are_not_finite_are_a_dash(copied: RunFolder) -> None:
    metrics = json.loads(copied.metrics.read_text())
    metrics["test"]["auroc"] = None
    copied.write_json("metrics.json", metrics)
    rows = [
        json.loads(r) for r in copied.file("metrics.jsonl").read_text().split("\n") if r
    ]
    rows[-1]["loss"] = None
    copied.file("metrics.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    assert np.isnan(read_record(copied).epochs[-1].loss)
    write_report(copied)
    assert row_of(copied.report, "auroc")[2] == "-"


def test_predictions_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    classes, names = ("b,c", "a"), ["a", "b,c", "a"]
    given = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    write_predictions(
        path, ids=["x", "y", "z"], classes=classes, probabilities=given, truth=names
    )
    probabilities, labels = read_predictions(path, classes)
    assert torch.equal(probabilities, given) and labels.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="expected predictions of the classes a, b"):
        read_predictions(path, ("a", "b"))


def test_the_steps_of_a_series_cover_it(
    made: tuple[RunFolder, Prepared], tmp_path: Path
) -> None:
    run, prepared = made
    validation = prepared.parts["validation"]
    trace = trace_steps(restore(run.path, device="cpu"), validation)
    assert trace.estimates and len(trace.runs()) == len(validation)
    scale = prepared.schema.scaling.time_scale
    for (start, end), key, times in zip(
        trace.runs(), validation.ids, validation.times, strict=True
    ):
        assert set(trace.ids[start:end]) == {key}
        assert trace.t[start] == 0
        ends = trace.t[start:end] + trace.step[start:end]
        assert ends[:-1] == pytest.approx(trace.t[start + 1 : end], abs=1e-6)
        assert ends[-1] == pytest.approx(times[-1] * scale, rel=1e-5)
    assert (trace.error >= 0).all() and (trace.error <= 1).all()
    path = tmp_path / "steps.csv"
    write_trace(path, trace)
    assert path.read_bytes() == run.file("steps.csv").read_bytes()
    back = read_trace(path, "s")
    assert back.ids == trace.ids and back.unit == "s"
    assert back.t == pytest.approx(trace.t, rel=1e-8)
    assert back.step == pytest.approx(trace.step, rel=1e-8)
    assert back.error == pytest.approx(trace.error, rel=1e-5)


def test_fixed_steps_have_no_estimates(visits: Path, tmp_path: Path) -> None:
    config = small_config(visits, train__epochs=1, train__batch_size=4)
    prepared = prepare(config)
    run = create_run(tmp_path / "run")
    run_training(config, prepared, run, lambda event: None)
    assert not run.report.exists()
    trace = read_record(run).steps
    assert np.isnan(trace.error).all() and not trace.estimates
    # One batch, and in scaled time no step beyond the one that was asked for.
    assert len(trace.runs()) == 4
    assert trace.step.max() <= 0.25 * prepared.schema.scaling.time_scale * 1.0001
    assert write_report(run) == PICTURES
    assert "The method has no error estimates" in run.report.read_text()


def test_a_folder_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="metrics.json is missing"):
        write_report(RunFolder(tmp_path))
