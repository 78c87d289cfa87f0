"""What a name or path on the command line leads to, and the bundled data."""

import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from nde.data import BUNDLED, Columns, DataError, Request, read_source, read_ts


def test_bundled_japanese_vowels() -> None:
    dataset = read_source("japanese-vowels").dataset
    assert dataset.parts is not None and dataset.labels is not None
    assert dataset.parts.count("train") == 270 and dataset.parts.count("test") == 370
    assert len(dataset.channels) == 12 and len(dataset.classes) == 9
    lengths = [len(times) for times in dataset.times]
    assert (min(lengths), max(lengths)) == (7, 29)
    train = dataset.labels[np.array(dataset.parts) == "train"]
    assert np.bincount(train).tolist() == [30] * 9


def test_bundled_files_are_small_and_credited() -> None:
    folder = files("nde.data") / "bundled"
    size = sum(len(f.read_bytes()) for f in folder.iterdir() if f.is_file())
    assert size < 500_000
    notice = (folder / "NOTICE").read_text()
    assert "10.24432/C5NS47" in notice and "CC BY 4.0" in notice


def test_bundled_copy_equals_the_archive(real_data: Path) -> None:
    bundled = read_source("japanese-vowels").dataset
    archive = read_ts(real_data / "ts" / "JapaneseVowels").dataset
    assert bundled.ids == archive.ids
    np.testing.assert_array_equal(bundled.labels, archive.labels)
    for a, b in zip(bundled.values, archive.values, strict=True):
        np.testing.assert_array_equal(a, b)


def test_channels_of_ts_files_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_text("@classLabel true u v\n@data\n1,2:3,4:u\n5:6:v\n")
    whole = read_source(str(tmp_path / "a.ts")).dataset
    chosen = Request(columns=Columns(channels=("x2",)))
    some = read_source(str(tmp_path / "a.ts"), chosen).dataset
    assert some.channels == ("x2",)
    for a, b in zip(some.values, whole.values, strict=True):
        np.testing.assert_array_equal(a, b[:, 1:])
    bad = Request(columns=Columns(channels=("x1", "y2")))
    with pytest.raises(DataError, match="did you mean 'x2'"):
        read_source(str(tmp_path / "a.ts"), bad)


def test_options_go_with_bundled_data_or_are_refused(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    dataset = read_source("japanese-vowels").dataset
    rows = [f"{key},{i % 2}" for i, key in enumerate(dataset.ids)]
    labels.write_text("id,label\n" + "\n".join(rows))
    relabelled = read_source("japanese-vowels", Request(labels=labels)).dataset
    assert relabelled.classes == ("0", "1") and relabelled.parts == dataset.parts
    for request in (Request(times=labels), Request(format="ts")):
        with pytest.raises(DataError, match=r"leave out --.*\./japanese-vowels"):
            read_source("japanese-vowels", request)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(DataError, match="did you mean 'japanese-vowels'"):
        read_source("JapaneseVowel")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(DataError, match=r"no known format.*\.csv"):
        read_source(str(path))
    path.write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match="damaged or truncated"):
        read_source(str(path))


def test_paths_win_nothing_over_bundled_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "japanese-vowels").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_source("japanese-vowels").dataset.name == BUNDLED["japanese-vowels"]


def test_ts_pair_and_table_are_told_apart(tmp_path: Path) -> None:
    text = "@classLabel true a b\n@data\n1,2:a\n"
    for part in ("TRAIN", "TEST"):
        (tmp_path / f"P_{part}.ts").write_text(text)
    for source in (tmp_path, tmp_path / "P", tmp_path / "P_TEST.ts"):
        assert read_source(str(source)).dataset.name == "P"
    (tmp_path / "visits.csv").write_text("id,t,x\na,0,1\n")
    assert read_source(str(tmp_path / "visits.csv")).dataset.name == "visits"
