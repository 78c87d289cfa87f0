"""The .ts reader: grammar, pairs, refusals that name the line, real archives."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from nde.data import DataError, read_ts

HEADER = "@problemName P\n@timeStamps false\n@classLabel true a b\n"


def write(folder: Path, text: str, name: str = "P.ts") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_comments_blank_lines_and_case_of_tags(tmp_path: Path) -> None:
    text = (
        "% one\n\n# two\n@PROBLEMNAME P\n@ClassLabel TRUE a b\n@Data\n\n"
        "# three\n1,2,3:4,?,NaN:b\n\n-1e-3,,0.5:7,8,9:a\n"
    )
    dataset = read_ts(write(tmp_path, text)).dataset
    assert dataset.name == "P"
    assert dataset.channels == ("x1", "x2")
    assert dataset.classes == ("a", "b")
    assert dataset.labels is not None and dataset.labels.tolist() == [1, 0]
    assert dataset.parts is None
    np.testing.assert_array_equal(dataset.values[0], [[1, 4], [2, np.nan], [3, np.nan]])
    np.testing.assert_array_equal(
        dataset.values[1], [[-1e-3, 7], [np.nan, 8], [0.5, 9]]
    )
    np.testing.assert_array_equal(dataset.times[0], [0, 1, 2])


def test_series_of_unequal_length(tmp_path: Path) -> None:
    text = HEADER + "@data\n1,2,3:a\n4:b\n"
    dataset = read_ts(write(tmp_path, text)).dataset
    assert [len(times) for times in dataset.times] == [3, 1]


def test_windows_line_ends_byte_order_mark_and_gzip(tmp_path: Path) -> None:
    text = (HEADER + "@data\n1,2:a\n").replace("\n", "\r\n")
    path = tmp_path / "P.ts.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    assert read_ts(path).dataset.values[0].tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("given", ["P_TRAIN.ts", "P_TEST.ts", "", "P"])
def test_pair_from_either_file_folder_or_prefix(tmp_path: Path, given: str) -> None:
    write(tmp_path, HEADER + "@data\n1,2:a\n3,4:b\n", "P_TRAIN.ts")
    write(tmp_path, HEADER + "@data\n5,6:b\n", "P_TEST.ts")
    dataset = read_ts(tmp_path / given).dataset
    assert dataset.name == "P"
    assert dataset.parts == ("train", "train", "test")
    assert dataset.ids == ("train-1", "train-2", "test-1")
    assert dataset.values[2].tolist() == [[5.0], [6.0]]


def test_half_a_pair_has_no_parts(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "@data\n1,2:a\n", "P_TRAIN.ts")
    assert read_ts(path).dataset.parts is None


def test_pair_of_different_classes_is_refused(tmp_path: Path) -> None:
    write(tmp_path, HEADER + "@data\n1,2:a\n", "P_TRAIN.ts")
    other = HEADER.replace("a b", "a c")
    write(tmp_path, other + "@data\n1,2:a\n", "P_TEST.ts")
    with pytest.raises(DataError, match="do not belong together"):
        read_ts(tmp_path)


def test_stamps_are_read_onto_the_union_of_the_channels(tmp_path: Path) -> None:
    text = (
        "@timeStamps true\n@classLabel true a b\n@data\n"
        "(2020-01-01 00:00:00,1),(2020-01-01 00:01:30,2)"
        ":(2020-01-01 00:00:30,?),(2020-01-01 00:01:30,4):b\n"
    )
    reading = read_ts(write(tmp_path, text))
    dataset = reading.dataset
    assert dataset.time_unit == "seconds"
    np.testing.assert_array_equal(dataset.times[0] - dataset.times[0][0], [0, 30, 90])
    np.testing.assert_array_equal(
        dataset.values[0], [[1, np.nan], [np.nan, np.nan], [2, 4]]
    )


def test_numeric_stamps_out_of_order_are_sorted_with_a_warning(tmp_path: Path) -> None:
    text = "@timeStamps true\n@classLabel true a\n@data\n(2.5,1),(0,2):a\n"
    reading = read_ts(write(tmp_path, text))
    assert reading.dataset.times[0].tolist() == [0.0, 2.5]
    assert reading.dataset.values[0].tolist() == [[2.0], [1.0]]
    assert any("out of order" in line for line in reading.warnings)


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (HEADER + "1,2:a\n", "line 4", "before the @data"),
        (HEADER, "P.ts", "no @data"),
        (HEADER + "@data\n\n", "P.ts", "no cases"),
        ("@data\n1,2:a\n", "line 2", "@classLabel"),
        ("@targetLabel true\n@data\n1,2:0.5\n", "line 1", "regression"),
        (HEADER + "@data\n1,2:z\n", "line 5", "unknown label 'z'"),
        (HEADER + "@dimensions two\n@data\n", "line 4", "@dimensions"),
        (HEADER + "@dimensions 2\n@data\n1:2:a\n1,2:a\n", "line 7", "1 channels"),
        (HEADER + "@data\n1,2:3,4:a\n1,2:b\n", "line 6", "expected 2 dimensions"),
        (HEADER + "@data\n1,2:3:a\n", "line 5", "unequal length"),
        (HEADER + "@data\n1,x2:a\n", "line 5, channel 1", "'x2' is not a number"),
        (HEADER + "@data\n1:2,inf:a\n", "line 5, channel 2", "not finite"),
        (HEADER + "@data\n1,2,3:4,5\n", "line 5", "no class of the header"),
        (
            "@timeStamps true\n@classLabel true a\n@data\n(1,1),(1,2):a\n",
            "line 4, channel 1",
            "duplicate time",
        ),
        (
            "@timeStamps true\n@classLabel true a\n@data\n1,2:a\n",
            "line 4, channel 1",
            "@timeStamps is true",
        ),
        (
            "@timeStamps true\n@classLabel true a\n@data\n(soon,2):a\n",
            "line 4, channel 1",
            "neither a number nor a date",
        ),
    ],
)
def test_refusals_name_file_and_line(
    tmp_path: Path, text: str, place: str, reason: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_ts(path)
    message = str(caught.value)
    assert place in message and reason in message and "P.ts" in message
    assert "\n" not in message


def test_equal_length_that_is_not_is_a_warning(tmp_path: Path) -> None:
    text = HEADER + "@equalLength true\n@data\n1,2:a\n1,2,3:b\n"
    assert any("lengths differ" in w for w in read_ts(write(tmp_path, text)).warnings)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "P.ts"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    with pytest.raises(DataError, match="not readable"):
        read_ts(path)


@pytest.mark.parametrize(
    ("name", "train", "test", "channels", "classes", "lengths"),
    [
        ("JapaneseVowels", 270, 370, 12, 9, (7, 29)),
        ("BasicMotions", 40, 40, 6, 4, (100, 100)),
        ("ArrowHead", 36, 175, 1, 3, (251, 251)),
        ("GunPoint", 50, 150, 1, 2, (150, 150)),
        ("Epilepsy", 137, 138, 3, 4, (206, 206)),
        ("ItalyPowerDemand", 67, 1029, 1, 2, (24, 24)),
        ("OSULeaf", 200, 242, 1, 6, (427, 427)),
        ("PickupGestureWiimoteZ", 50, 50, 1, 10, (29, 361)),
    ],
)
def test_archives(
    real_data: Path,
    name: str,
    train: int,
    test: int,
    channels: int,
    classes: int,
    lengths: tuple[int, int],
) -> None:
    dataset = read_ts(real_data / "ts" / name).dataset
    assert dataset.parts is not None
    assert (dataset.parts.count("train"), dataset.parts.count("test")) == (train, test)
    assert len(dataset.channels) == channels
    assert len(dataset.classes) == classes
    found = [len(times) for times in dataset.times]
    assert (min(found), max(found)) == lengths


def test_archive_with_stamps(real_data: Path) -> None:
    path = real_data / "ts" / "UnitTest" / "UnitTestTimeStamps_TRAIN.ts"
    dataset = read_ts(path).dataset
    assert len(dataset) == 4
    np.testing.assert_array_equal(np.diff(dataset.times[0]), [60, 60, 60])
    assert dataset.values[0][0].tolist() == [241.97]


def test_archive_of_a_regression_is_refused(real_data: Path) -> None:
    with pytest.raises(DataError, match="regression"):
        read_ts(real_data / "ts" / "Covid3Month")
