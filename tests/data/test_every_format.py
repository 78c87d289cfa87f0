"""One data set in every format becomes the same series; content tells the format."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from same_data import assert_same, refusal

from nde.data import FORMATS, Columns, Request, SeriesDataset, read_source

STEPS = np.array([0.0, 0.5, 1.25, 3.0])
CHANNELS = ("hr", "bp")


def made() -> SeriesDataset:
    """Three series on parts of one grid, some values missing, with labels."""
    generator = np.random.default_rng(5)
    times, values = [], []
    for steps in ([0, 1, 3], [1, 2], [0, 1, 2, 3]):
        value = generator.normal(50, 20, (len(steps), 2))
        value[-1, 0] = np.nan
        times.append(STEPS[steps])
        values.append(value)
    return SeriesDataset(
        name="made",
        ids=("a", "b", "c"),
        times=tuple(times),
        values=tuple(values),
        channels=CHANNELS,
        labels=np.array([1, 0, 1]),
        classes=("no", "yes"),
    )


def rows() -> list[dict[str, object]]:
    """One record per visit; None for a missing value."""
    dataset = made()
    assert dataset.labels is not None
    found: list[dict[str, object]] = []
    for i, key in enumerate(dataset.ids):
        for time, value in zip(dataset.times[i], dataset.values[i], strict=True):
            cells = [None if np.isnan(x) else float(x) for x in value]
            label = dataset.classes[dataset.labels[i]]
            row = {"id": key, "time": float(time)}
            found.append({**row, "hr": cells[0], "bp": cells[1], "label": label})
    return found


def grid() -> dict[str, np.ndarray]:
    """The same on the whole grid."""
    dataset = made()
    values = np.full((3, len(STEPS), 2), np.nan)
    for i in range(3):
        values[i, np.searchsorted(STEPS, dataset.times[i])] = dataset.values[i]
    assert dataset.labels is not None
    return {
        "X": values,
        "t": STEPS,
        "y": np.array(dataset.classes)[dataset.labels],
        "ids": np.array(dataset.ids),
        "channels": np.array(CHANNELS),
    }


def long_text(separator: str = ",") -> str:
    lines = [separator.join(rows()[0])]
    for row in rows():
        lines.append(separator.join("" if x is None else str(x) for x in row.values()))
    return "\n".join(lines) + "\n"


def write(name: str, folder: Path) -> tuple[Path, Request]:
    """The data set in the form `name`, and what else to say to read it."""
    path = folder / f"made.{name}"
    columns = Columns(channels=CHANNELS)
    if name in ("csv", "txt", "tsv"):
        path.write_text(long_text("\t" if name == "tsv" else ","))
    elif name == "csv.gz":
        path.write_bytes(gzip.compress(long_text().encode()))
    elif name in ("parquet", "feather", "jsonl"):
        frame = pl.DataFrame(rows())
        {
            "parquet": frame.write_parquet,
            "feather": frame.write_ipc,
            "jsonl": frame.write_ndjson,
        }[name](path)
    elif name == "tidy.csv":
        frame = pl.DataFrame(rows()).unpivot(CHANNELS, index=("id", "time", "label"))
        frame.drop_nulls().sort("id", "time").write_csv(path)
    elif name == "masks.csv":
        lines = ["ID,Time,Value_hr,Value_bp,Mask_hr,Mask_bp,label"]
        for row in rows():
            hr, bp = row["hr"], row["bp"]
            seen = f"{int(hr is not None)},{int(bp is not None)}"
            cells = f"{row['id']},{row['time']},{hr or 0},{bp or 0},{seen}"
            lines.append(f"{cells},{row['label']}")
        path.write_text("\n".join(lines))
        columns = Columns(channels=("Value_hr", "Value_bp"))
    elif name == "npz":
        np.savez(path, **grid())
    elif name == "pt":
        arrays = grid()
        tree = {key: torch.tensor(arrays[key]) for key in ("X", "t")}
        words = {key: arrays[key].tolist() for key in ("y", "ids", "channels")}
        torch.save(tree | words, path)
    elif name == "wide.csv":
        arrays = grid()
        heads = [f"{c}_{i}" for c in CHANNELS for i in range(len(STEPS))]
        lines = [",".join(["id", *heads, "label"])]
        for key, values, label in zip(
            arrays["ids"], arrays["X"], arrays["y"], strict=True
        ):
            cells = ["" if np.isnan(x) else repr(float(x)) for x in values.T.ravel()]
            lines.append(",".join([key, *cells, label]))
        path.write_text("\n".join(lines))
        times = folder / "times.txt"
        times.write_text("\n".join(str(step) for step in STEPS))
        return path, Request(times=times)
    elif name == "folder":
        path.mkdir()
        for key in made().ids:
            own = [line for line in long_text().splitlines() if line[0] in (key, "i")]
            text = "\n".join(line.partition(",")[2] for line in own)
            (path / f"{key}.csv").write_text(text)
    return path, Request(columns=columns)


FORMS = (
    *("csv", "txt", "tsv", "csv.gz", "parquet", "feather", "jsonl", "tidy.csv"),
    *("masks.csv", "npz", "pt", "wide.csv", "folder"),
)


@pytest.mark.parametrize("name", FORMS)
def test_the_same_series(name: str, tmp_path: Path) -> None:
    path, request = write(name, tmp_path)
    reading = read_source(str(path), request)
    wanted = made()
    if name == "masks.csv":
        wanted = replace(wanted, channels=("Value_hr", "Value_bp"))
    assert_same(reading.dataset, wanted)
    assert reading.dataset.name == "made"
    assert not reading.warnings
    told = "\n".join(reading.notes)
    assert "time: " in told and "label" in told and "channels: " in told


def test_the_right_name_of_a_format_changes_nothing(tmp_path: Path) -> None:
    names = {"csv": "table", "folder": "table-folder", "jsonl": "json-lines"}
    for name, form in names.items():
        path, request = write(name, tmp_path)
        told = Request(columns=request.columns, format=form)
        assert_same(read_source(str(path), told).dataset, made())


@pytest.mark.parametrize(
    ("content", "suffix", "words"),
    [
        ("parquet", "csv", ["Parquet", "--format parquet"]),
        ("csv", "parquet", ["parquet", "--format table"]),
        ("npz", "csv", ["arrays", "--format arrays"]),
        ("jsonl", "csv", ["JSON", "--format json-lines"]),
        ("csv", "ts", [".ts", "--format table"]),
        ("feather", "parquet", ["Feather", "--format feather"]),
    ],
)
def test_a_name_that_promises_something_else(
    content: str, suffix: str, words: list[str], tmp_path: Path
) -> None:
    path, request = write(content, tmp_path)
    other = tmp_path / f"other.{suffix}"
    path.rename(other)
    message = refusal(lambda: read_source(str(other), request))
    for word in [other.name, "promises", *words]:
        assert word in message
    form = words[-1].removeprefix("--format ")
    told = Request(columns=request.columns, format=form)
    assert_same(read_source(str(other), told).dataset, made())


@pytest.mark.parametrize("suffix", ["csv", "parquet", "ts", "npz", "jsonl", "h5", "x"])
def test_empty_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"")
    assert "a." in (message := refusal(lambda: read_source(str(path))))
    assert "is empty" in message


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("a.csv", b"\x89PNG\r\n\x1a\n\x00", ["UTF-8", ".csv"]),
        ("a.bin", b"\x7fELF\x02\x01\x00\x00", ["no known format", "Parquet", ".csv"]),
        ("a.csv.gz", gzip.compress(b"id,t,x\na,0,1\n" * 99)[:-9], ["cannot be read"]),
        ("a.npz", b"PK\x03\x04", ["damaged or truncated"]),
        ("a.pt", b"\x80\x02\x00cposix", ["cannot be loaded"]),
        ("a.feather", b"FEA1\0\0", ["not a Feather file"]),
        ("a.h5", b"\0\0", ["HDF5"]),
    ],
)
def test_bytes_of_no_format(
    name: str, raw: bytes, words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    message = refusal(lambda: read_source(str(path)))
    for word in [name, *words]:
        assert word in message


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_that_the_path_is_not(form: str, tmp_path: Path) -> None:
    folder, _ = write("folder", tmp_path)
    table, _ = write("csv", tmp_path)
    wrong = (
        table
        if form in ("table-folder", "physionet-2012", "physionet-2019")
        else folder
    )
    message = refusal(lambda: read_source(str(wrong), Request(format=form)))
    assert "made" in message


def test_unknown_formats_and_times_that_do_not_fit(tmp_path: Path) -> None:
    path, request = write("csv", tmp_path)
    told = Request(format="tabel")
    assert "did you mean 'table'" in refusal(lambda: read_source(str(path), told))
    times = tmp_path / "times.txt"
    times.write_text("0\n1\n")
    told = Request(times=times)
    message = refusal(lambda: read_source(str(path), told))
    assert "--times" in message and "one row per time" in message
    folder, _ = write("folder", tmp_path)
    assert "--times" in refusal(lambda: read_source(str(folder), told))
    series = tmp_path / "series.jsonl"
    series.write_text(json.dumps({"start": "2020-01-01", "target": [1, 2]}))
    assert "--times" in refusal(lambda: read_source(str(series), told))


def test_every_format_says_what_it_is() -> None:
    assert all(form.what for form in FORMATS.values())
