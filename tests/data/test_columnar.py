"""Parquet and Feather: types of columns, damage, what has no rows."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from same_data import refusal

from nde.data import read_source

GOOD = {"id": ["a", "a", "b"], "t": [0.0, 1.5, 0.25], "x1": [1.0, None, 1 / 3]}
LATER = datetime(2024, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
LATER_UTC = LATER.astimezone(UTC).replace(tzinfo=None)


def write(path: Path, frame: pl.DataFrame) -> Path:
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_ipc(path)
    return path


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
@pytest.mark.parametrize(
    "change",
    [
        lambda f: f,
        lambda f: f.with_columns(pl.col("id").cast(pl.Categorical)),
        lambda f: f.with_columns(pl.col("x1").fill_null(float("nan"))),
        lambda f: f.with_columns(pl.col("t").cast(pl.Decimal(10, 2))),
    ],
    ids=["plain", "dictionary", "nan-for-null", "decimal"],
)
def test_types(
    tmp_path: Path, suffix: str, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    path = write(tmp_path / f"a.{suffix}", change(pl.DataFrame(GOOD)))
    reading = read_source(str(path))
    dataset = reading.dataset
    assert dataset.ids == ("a", "b") and dataset.channels == ("x1",)
    np.testing.assert_array_equal(dataset.times[0], [0, 1.5])
    np.testing.assert_array_equal(dataset.values[0].ravel(), [1, np.nan])
    assert dataset.values[1][0, 0] == 1 / 3
    assert suffix in reading.notes[0].lower()


def test_floats_come_through_to_the_last_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=2000) * 10.0 ** generator.integers(-300, 300, 2000)
    frame = pl.DataFrame({"id": ["a"] * 2000, "t": range(2000), "x": values})
    dataset = read_source(str(write(tmp_path / "a.parquet", frame))).dataset
    np.testing.assert_array_equal(dataset.values[0].ravel(), values)


@pytest.mark.parametrize(
    "stamps",
    [
        [LATER, LATER + timedelta(seconds=1.5)],
        [LATER_UTC, LATER_UTC + timedelta(seconds=1.5)],
    ],
    ids=["zone", "no-zone"],
)
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_dates(tmp_path: Path, stamps: list[datetime], unit: str) -> None:
    zone = None if stamps[0].tzinfo is None else "Europe/Berlin"
    column = pl.Series("t", stamps)
    if zone:
        column = column.dt.convert_time_zone(zone)
    kind = pl.Datetime(unit, zone)  # type: ignore[arg-type]
    frame = pl.DataFrame({"id": ["a", "a"], "t": column.cast(kind), "x": [1, 2]})
    dataset = read_source(str(write(tmp_path / "a.parquet", frame))).dataset
    assert dataset.time_unit == "seconds"
    np.testing.assert_allclose(
        dataset.times[0], LATER.timestamp() + np.array([0, 1.5]), rtol=0, atol=1e-6
    )


def test_whole_times_that_float64_merges(tmp_path: Path) -> None:
    big = pl.Series([2**63, 2**63 + 1], dtype=pl.UInt64)
    frame = pl.DataFrame({"id": ["a", "a"], "time": big, "x": [1, 2]})
    reading = read_source(str(write(tmp_path / "a.parquet", frame)))
    assert any("2^53" in line for line in reading.warnings)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pl.DataFrame(GOOD).clear(), ["no rows", "empty"]),
        (pl.DataFrame({"id": ["a"], "t": [[0.0]], "x": [[1.0]]}), ["column t", "List"]),
        (pl.DataFrame({"id": ["a"]}), ["1 columns"]),
        (pl.DataFrame({"id": ["a"], "t": [0], "x": ["w"]}), ["no column of numbers"]),
        (pl.DataFrame({"id": ["a"], "t": [0], "x": [np.inf]}), ["row 1", "finite"]),
        (
            pl.DataFrame({"id": ["a", "a"], "t": [0, None], "x": [1, 2]}),
            ["row 2", "column t", "empty"],
        ),
    ],
)
def test_refusals(tmp_path: Path, frame: pl.DataFrame, words: list[str]) -> None:
    path = write(tmp_path / "a.parquet", frame)
    message = refusal(lambda: read_source(str(path)))
    for word in ["a.parquet", *words]:
        assert word in message


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame({"id": ["a"] * 500, "t": range(500), "x": np.sqrt(range(500))})
    path = write(tmp_path / f"a.{suffix}", frame)
    raw = path.read_bytes()
    middle = len(raw) // 2
    for bad in (raw[:middle], raw[:middle] + raw[-30:], raw[:12] + raw[-6:]):
        path.write_bytes(bad)
        message = refusal(lambda: read_source(str(path)))
        assert f"a.{suffix}" in message and "truncated or corrupt" in message
