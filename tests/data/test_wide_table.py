"""One row per series: several channels, times beside it, what is not wide."""

from pathlib import Path

import numpy as np
import pytest
from same_data import refusal

from nde.data import Request, read_source
from nde.data.columns import Columns

WIDE = "id,x_0,x_1,x_2,label\nb,1,2,3,u\na,4,,6,v\nc,7,,,u\n"


def write(folder: Path, text: str, name: str = "w.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_rows_become_series(tmp_path: Path) -> None:
    reading = read_source(str(write(tmp_path, WIDE)))
    dataset = reading.dataset
    assert dataset.ids == ("a", "b", "c") and dataset.channels == ("x",)
    assert dataset.labels is not None and dataset.labels.tolist() == [1, 0, 0]
    assert [t.tolist() for t in dataset.times] == [[0, 2], [0, 1, 2], [0]]
    assert [v.ravel().tolist() for v in dataset.values] == [[4, 6], [1, 2, 3], [7]]
    assert dataset.time_unit == "steps"
    told = "\n".join(reading.notes)
    assert "one row per series, x_0 to x_2" in told and "3 steps without" in told
    assert any("'c'" in line for line in reading.warnings)


def test_channels_counting_from_one(tmp_path: Path) -> None:
    text = "id,hr_max_1,bp_1,hr_max_2,bp_2\na,1,2,3,4\nb,5,6,7,8\n"
    dataset = read_source(str(write(tmp_path, text))).dataset
    assert dataset.channels == ("hr_max", "bp")
    np.testing.assert_array_equal(dataset.values[0], [[1, 2], [3, 4]])
    chosen = Request(columns=Columns(channels=("bp",)))
    dataset = read_source(str(write(tmp_path, text)), chosen).dataset
    np.testing.assert_array_equal(dataset.values[1], [[6], [8]])
    bad = Request(columns=Columns(channels=("hrmax",)))
    message = refusal(lambda: read_source(str(write(tmp_path, text)), bad))
    assert "did you mean 'hr_max'" in message


def test_times_from_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, WIDE)
    for text, unit, wanted in (
        ("0\n0.5\n\n4\n", "", [0, 0.5, 4]),
        ("2024-01-01\n2024-01-02\n2024-01-05", "seconds", [0, 86400, 345600]),
    ):
        request = Request(times=write(tmp_path, text, "times.txt"))
        reading = read_source(str(path), request)
        dataset = reading.dataset
        assert dataset.time_unit == unit
        np.testing.assert_array_equal(dataset.times[1] - dataset.times[1][0], wanted)
        assert any("times.txt" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\n1\n", ["2 times", "3 steps"]),
        ("0\nsoon\n1\n", ["line 2", "'soon'"]),
        ("0\nnan\n1\n", ["line 2", "'nan'"]),
        ("", ["0 times"]),
    ],
)
def test_times_that_do_not_fit(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, WIDE)
    request = Request(times=write(tmp_path, text, "times.txt"))
    message = refusal(lambda: read_source(str(path), request))
    for word in ["times.txt", *words]:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WIDE.replace("c,7", "a,7"), ["line 4", "'a'", "twice", "--time"]),
        (WIDE.replace("4,,6", "4,word,6"), ["line 3", "column x_1", "number"]),
        (WIDE.replace("4,,6", "4,inf,6"), ["line 3", "column x_1", "finite"]),
        (WIDE.replace("x_1", "x_3"), ["no column is named like the time"]),
        (WIDE.replace("x_1", "y"), ["no column is named like the time"]),
        (WIDE.replace("x_2", "y_0"), ["no column is named like the time"]),
        (WIDE.replace("id,", "who,"), ["no column is named like the id", "--id"]),
        (WIDE.replace("6,v", "6,"), ["line 3", "column label", "empty"]),
    ],
)
def test_refusals(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    message = refusal(lambda: read_source(str(path)))
    for word in ["w.csv", *words]:
        assert word in message


def test_a_series_without_any_value_is_told(tmp_path: Path) -> None:
    text = "id,x_0,x_1\na,1,2\nb,,\n"
    reading = read_source(str(write(tmp_path, text)))
    assert any("without any value" in w and "'b'" in w for w in reading.warnings)
    np.testing.assert_array_equal(reading.dataset.values[1], [[np.nan]])
