"""The table reader: roles of columns, order, repeats, missing cells, refusals."""

from pathlib import Path

import numpy as np
import pytest
from same_data import assert_same

from nde.data import Columns, DataError, read_long_csv

GOOD = "id,time,x1,x2,label\na,0,1,10,yes\na,1.5,2,,yes\nb,0,,30,no\nb,2,4,40,no\n"


def write(folder: Path, text: str | bytes, name: str = "visits.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def same(path: Path, expected: Path) -> None:
    assert_same(read_long_csv(path).dataset, read_long_csv(expected).dataset)


def test_good_table(tmp_path: Path) -> None:
    reading = read_long_csv(write(tmp_path, GOOD))
    dataset = reading.dataset
    assert dataset.name == "visits"
    assert dataset.ids == ("a", "b")
    assert dataset.channels == ("x1", "x2")
    assert dataset.classes == ("no", "yes")
    assert dataset.labels is not None and dataset.labels.tolist() == [1, 0]
    assert dataset.times[0].tolist() == [0.0, 1.5]
    np.testing.assert_array_equal(dataset.values[0], [[1, 10], [2, np.nan]])
    np.testing.assert_array_equal(dataset.values[1], [[np.nan, 30], [4, 40]])
    assert reading.warnings == ()
    told = "\n".join(reading.notes)
    for line in ("id: id", "time: time", "label: label", "channels: x1, x2"):
        assert line in told


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: "\n".join(
            ",".join(f'"{cell}"' for cell in line.split(","))
            for line in text.splitlines()
        ),
        lambda text: text.replace("label", "label\n\n", 1),
        lambda text: "\n".join([(t := text.splitlines())[0], *reversed(t[1:])]),
        lambda text: text.replace("id,time,x1,x2,label", " ID , Time,x1,x2, Label"),
        lambda text: text.replace("1.5,2,,", "1.5,2,NA,"),
    ],
    ids=[
        "crlf",
        "bom",
        "no-final-newline",
        "semicolon",
        "tab",
        "quoted",
        "blank-line",
        "rows-in-any-order",
        "spaces-and-case",
        "missing-word",
    ],
)
def test_other_spellings_of_the_same_table(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    good = write(tmp_path, GOOD, "good.csv")
    same(write(tmp_path, change(GOOD)), good)


def test_rows_out_of_time_order_are_sorted_with_a_warning(tmp_path: Path) -> None:
    text = "id,t,x\na,2,20\nb,0,5\na,1,10\nb,1,6\n"
    reading = read_long_csv(write(tmp_path, text))
    assert reading.dataset.values[0].ravel().tolist() == [10.0, 20.0]
    assert any("out of time order" in line for line in reading.warnings)


def test_repeated_times_are_averaged_per_channel(tmp_path: Path) -> None:
    text = "id,t,x,y\na,0,1,\na,0,3,\na,0,,7\na,1,5,5\n"
    reading = read_long_csv(write(tmp_path, text))
    np.testing.assert_array_equal(reading.dataset.values[0], [[2, 7], [5, 5]])
    assert any("2 duplicate" in line for line in reading.warnings)


def test_dates_become_seconds(tmp_path: Path) -> None:
    text = "id,date,x\na,2020-01-01,1\na,2020-01-02 12:00:00,2\n"
    dataset = read_long_csv(write(tmp_path, text)).dataset
    assert dataset.time_unit == "seconds"
    np.testing.assert_array_equal(np.diff(dataset.times[0]), [36 * 3600])


def test_ids_keep_leading_zeros_and_sort_by_value(tmp_path: Path) -> None:
    text = "id,t,x\n10,0,1\n7,0,1\n007,0,1\n"
    dataset = read_long_csv(write(tmp_path, text)).dataset
    assert dataset.ids == ("007", "7", "10")


def test_numeric_labels_sort_by_value(tmp_path: Path) -> None:
    text = "id,t,x,label\na,0,1,10\nb,0,1,9\n"
    assert read_long_csv(write(tmp_path, text)).dataset.classes == ("9", "10")


def test_flags_name_the_columns(tmp_path: Path) -> None:
    text = "patient,day,bili,age,status\n1,0,1.5,50,dead\n1,9,2.5,50,dead\n"
    columns = Columns(id="patient", time="day", label="status", channels=("bili",))
    dataset = read_long_csv(write(tmp_path, text), columns).dataset
    assert dataset.channels == ("bili",) and dataset.classes == ("dead",)


def test_split_column(tmp_path: Path) -> None:
    text = "id,t,x,split\na,0,1,train\nb,0,1,VAL\nc,0,1,test\n"
    dataset = read_long_csv(write(tmp_path, text)).dataset
    assert dataset.parts == ("train", "validation", "test")
    assert dataset.channels == ("x",)


def test_text_column_is_left_out_with_a_warning(tmp_path: Path) -> None:
    text = "id,t,x,note\na,0,1,fine\na,1,2,\n"
    reading = read_long_csv(write(tmp_path, text))
    assert reading.dataset.channels == ("x",)
    assert any("note" in line for line in reading.warnings)


def test_empty_labels_mean_no_labels(tmp_path: Path) -> None:
    text = "id,t,x,label\na,0,1,\nb,0,1,\n"
    assert read_long_csv(write(tmp_path, text)).dataset.labels is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("id,t,x\n", ["no rows", "empty"]),
        ("a,0,1\na,1,2\n", ["header"]),
        ("id t x\na 0 1\n", ["column", "separator"]),
        ("id,x1\na,1\n", ["time", "--time"]),
        ("who,t,x1\na,0,1\n", ["id", "--id", "Columns: who, t, x1"]),
        ("id,t,time,x\na,0,0,1\n", ["t and time", "--time"]),
        ("id,t,x,x\na,0,1,1\n", ["duplicate", "'x'"]),
        ("id,t,,x\na,0,1,1\n", ["column 3"]),
        ("id,t,x\na,0,1\na,1,2,3\n", ["line 3", "4 fields"]),
        ("id,t,x\na,0,1\n\na,1\n", ["line 4", "2 fields"]),
        ('id,t,x\na,0,"1\n', ["line"]),
        ("id,t,x\na,0,1\na,1,word\n", ["line 3", "column x", "number"]),
        ('id,t,x\na,0,"1,234.5"\na,1,2\n', ["line 2", "column x", "number"]),
        ("id;t;x\na;0;1,5\na;1;2\n", ["line 2", "column x", "number"]),
        ("id,t,x\na,0,inf\n", ["line 2", "column x", "finite"]),
        ("id,t,x\na,0,1e400\n", ["line 2", "column x", "finite"]),
        ("id,t,x\na,,1\n", ["line 2", "time", "empty"]),
        ("id,t,x\na,0,1\na,inf,1\n", ["line 3", "time", "finite"]),
        ("id,t,x\na,soon,1\n", ["line 2", "column t", "date"]),
        ("id,t,x\na,2020-01-01,1\na,3,1\n", ["line 3", "number among dates"]),
        ("id,t,x\n,0,1\n", ["line 2", "id", "empty"]),
        (GOOD.replace("4,40,no", "4,40,yes"), ["line 5", "label", "'b'"]),
        (GOOD.replace("4,40,no", "4,40,"), ["line 5", "label", "empty"]),
        ("id,t,x,split\na,0,1,tran\n", ["split", "did you mean 'train'"]),
        ("id,t,note\na,0,word\n", ["no column of numbers"]),
    ],
)
def test_refusals_name_the_place(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_long_csv(write(tmp_path, text))
    message = str(caught.value)
    assert "visits.csv" in message and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ("id,t,x\né,0,1\n".encode("latin-1"), "line 2"),
        ("id,t,x\na,0,1\n".encode("utf-16"), "UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00", "UTF-8"),
        (b"id,t,x\na,0,1\na,\x001,2\n", "line 3"),
    ],
)
def test_bytes_that_are_no_table(tmp_path: Path, raw: bytes, word: str) -> None:
    with pytest.raises(DataError, match=word):
        read_long_csv(write(tmp_path, raw))


def test_a_misspelt_column_gets_a_suggestion(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(DataError, match="did you mean 'label'"):
        read_long_csv(path, Columns(label="lable"))
    with pytest.raises(DataError, match="did you mean 'x2'"):
        read_long_csv(path, Columns(channels=("x1", "xx2")))


def test_real_visits(real_data: Path) -> None:
    columns = Columns(
        id="id", time="day", label="status", channels=("bili", "chol", "albumin")
    )
    path = real_data / "longitudinal" / "survival__pbcseq.csv"
    reading = read_long_csv(path, columns)
    dataset = reading.dataset
    assert len(dataset) == 312
    assert sum(len(times) for times in dataset.times) == 1945
    assert dataset.labels is not None
    assert np.bincount(dataset.labels).tolist() == [143, 29, 140]
    assert dataset.observed()[1] < 1945
    assert any("one observation" in line for line in reading.warnings)
