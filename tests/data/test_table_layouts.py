"""Relatives of the long table: tidy rows, masks, forecasting names of columns."""

from pathlib import Path

import numpy as np
import pytest
from same_data import assert_same, refusal

from nde.data import Columns, read_long_csv

LONG = "id,time,hr,bp,label\na,0,60,,u\na,1.5,61,90,u\nb,2,,80,v\nb,3,70,,v\n"
TIDY = (
    "id,time,variable,value,label\na,0,hr,60,u\na,1.5,bp,90,u\na,1.5,hr,61,u\n"
    "b,2,bp,80,v\nb,3,hr,70,v\n"
)


def write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_tidy_table_is_pivoted(tmp_path: Path) -> None:
    columns = Columns(channels=("hr", "bp"))
    tidy = read_long_csv(write(tmp_path, TIDY), columns)
    long = read_long_csv(write(tmp_path, LONG, "long.csv"), columns)
    assert_same(tidy.dataset, long.dataset)
    assert tidy.warnings == long.warnings == ()
    assert "variable names the channel" in "\n".join(tidy.notes)
    every = read_long_csv(write(tmp_path, TIDY)).dataset
    assert every.channels == ("bp", "hr")


@pytest.mark.parametrize("order", [(5, 3, 1, 4, 2), (2, 1, 3, 5, 4)])
def test_tidy_rows_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    lines = TIDY.splitlines()
    text = "\n".join(lines[i] for i in (0, *order))
    mixed = read_long_csv(write(tmp_path, text))
    assert_same(mixed.dataset, read_long_csv(write(tmp_path, TIDY, "good.csv")).dataset)


def test_tidy_repeats_are_averaged_and_empty_cells_keep_their_time(
    tmp_path: Path,
) -> None:
    text = "id,t,channel,value\na,0,x,1\na,0,x,3\na,0,y,5\na,4,y,\n"
    reading = read_long_csv(write(tmp_path, text))
    np.testing.assert_array_equal(reading.dataset.times[0], [0, 4])
    np.testing.assert_array_equal(reading.dataset.values[0], [[2, 5], [np.nan, np.nan]])
    assert any("1 repeats" in line for line in reading.warnings)


def test_channels_of_a_tidy_table_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, TIDY)
    chosen = read_long_csv(path, Columns(channels=("hr",))).dataset
    assert chosen.channels == ("hr",)
    # A time at which only another channel was measured stays one.
    np.testing.assert_array_equal(chosen.values[1].ravel(), [np.nan, 70])
    message = refusal(lambda: read_long_csv(path, Columns(channels=("hr", "bq"))))
    assert "t.csv" in message and "did you mean 'bp'" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("bp,90", "bp,high"), ["line 3", "column value", "'high'"]),
        (("bp,90", ",90"), ["line 3", "column variable", "no name"]),
        (("bp,90", "bp,inf"), ["line 3", "finite"]),
    ],
)
def test_tidy_refusals(
    tmp_path: Path, change: tuple[str, str], words: list[str]
) -> None:
    path = write(tmp_path, TIDY.replace(*change))
    message = refusal(lambda: read_long_csv(path))
    for word in words:
        assert word in message


def test_a_tidy_table_with_more_columns_is_ambiguous(tmp_path: Path) -> None:
    path = write(tmp_path, "id,t,variable,value,low\na,0,hr,60,50\na,0,bp,90,80\n")
    message = refusal(lambda: read_long_csv(path))
    assert "variable" in message and "value, low" in message
    assert "--channels" in message
    plain = read_long_csv(path, Columns(channels=("value", "low")))
    assert plain.dataset.channels == ("value", "low")


def test_masks_say_what_was_observed(tmp_path: Path) -> None:
    text = (
        "ID,Time,Value_0,Value_1,Mask_0,Mask_1\n"
        "0,0.1,1.5,0.0,1,0\n0,0.4,0.0,-2.0,0,1\n1,0.2,3,4,1.0,1.0\n"
    )
    reading = read_long_csv(write(tmp_path, text))
    dataset = reading.dataset
    assert dataset.channels == ("Value_0", "Value_1")
    np.testing.assert_array_equal(dataset.values[0], [[1.5, np.nan], [np.nan, -2]])
    np.testing.assert_array_equal(dataset.values[1], [[3, 4]])
    assert "masks" in "\n".join(reading.notes)
    one = read_long_csv(write(tmp_path, text), Columns(channels=("Value_1",))).dataset
    np.testing.assert_array_equal(one.values[0].ravel(), [np.nan, -2])
    bad = write(tmp_path, text.replace("0,1\n", "0,0.5\n"))
    message = refusal(lambda: read_long_csv(bad))
    assert "line 3" in message and "Mask_1" in message and "neither 0 nor 1" in message


def test_a_mask_without_its_value_is_a_channel_like_any(tmp_path: Path) -> None:
    text = "ID,Time,Value_0,Mask_0,Mask_1\n0,0.1,1.5,0,0\n"
    dataset = read_long_csv(write(tmp_path, text)).dataset
    assert dataset.channels == ("Value_0", "Mask_0", "Mask_1")


@pytest.mark.parametrize(
    "header", ["item_id,timestamp,target", "unique_id,ds,y", "id,time,target"]
)
def test_forecasting_tables_have_a_channel_and_no_label(
    tmp_path: Path, header: str
) -> None:
    text = f"{header}\nA,2024-01-01,1\nA,2024-01-02,2\nB,2024-01-01,3\n"
    dataset = read_long_csv(write(tmp_path, text)).dataset
    assert dataset.labels is None and dataset.channels == (header.split(",")[2],)
    np.testing.assert_array_equal(np.diff(dataset.times[0]), [86400])


def test_a_label_alone_is_no_channel(tmp_path: Path) -> None:
    path = write(tmp_path, "id,time,label\nA,0,1\nA,1,1\n")
    assert "no column of numbers" in refusal(lambda: read_long_csv(path))


def test_a_label_that_changes_may_be_a_channel(tmp_path: Path) -> None:
    path = write(tmp_path, "id,time,target,price\nA,0,1,5\nA,1,2,6\n")
    message = refusal(lambda: read_long_csv(path))
    assert "line 3" in message and "--channels" in message
    dataset = read_long_csv(path, Columns(channels=("target", "price"))).dataset
    assert dataset.labels is None and dataset.channels == ("target", "price")


def test_times_that_float64_merges_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "id,time,x\na,9007199254740993,1\na,9007199254740992,2\n")
    reading = read_long_csv(path)
    assert any("2^53" in line for line in reading.warnings)
    assert any("averaged" in line for line in reading.warnings)
