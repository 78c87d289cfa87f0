"""What was parsed once: found again, replaced when anything changed, never half."""

import os
from pathlib import Path

import numpy as np
import pytest
from same_data import assert_same
from stays import write_stays

from nde.data import Columns, Request, read_source


def kept(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "parsed").iterdir())


def from_cache(notes: tuple[str, ...]) -> bool:
    return any(note.startswith("parsed before") for note in notes)


def test_the_second_reading_is_the_first(tmp_path: Path, data_dir: Path) -> None:
    folder = write_stays(tmp_path / "p")
    first, second = (read_source(str(folder)) for _ in range(2))
    assert not from_cache(first.notes) and from_cache(second.notes)
    assert_same(second.dataset, first.dataset)
    assert second.dataset.time_unit == "hours"
    assert second.dataset.name == first.dataset.name
    assert second.warnings == first.warnings
    assert second.notes[:-1] == first.notes
    (file,) = kept(data_dir)
    assert str(file) in second.notes[-1]


def test_a_change_of_anything_is_read_anew(tmp_path: Path, data_dir: Path) -> None:
    folder = write_stays(tmp_path / "p")
    read_source(str(folder))
    stay = folder / "set-a" / "132539.txt"
    stay.write_text(stay.read_text().replace("HR,73", "HR,74"))
    os.utime(stay, ns=(1, 1))
    reading = read_source(str(folder))
    assert not from_cache(reading.notes)
    hr = reading.dataset.channels.index("HR")
    assert np.nanmax(reading.dataset.values[0][:, hr]) == 74
    wanted = Request(columns=Columns(label="Survival"))
    assert not from_cache(read_source(str(folder), wanted).notes)
    (folder / "Outcomes-a.txt").unlink()
    assert read_source(str(folder)).dataset.labels is None
    assert len(kept(data_dir)) == 1


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "folder"])
def test_a_damaged_file_is_replaced(
    tmp_path: Path, data_dir: Path, damage: str
) -> None:
    folder = write_stays(tmp_path / "p")
    first = read_source(str(folder))
    (file,) = kept(data_dir)
    whole = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        broken = {"cut": whole[: len(whole) // 2], "text": b"text", "empty": b""}
        file.write_bytes(broken[damage])
    again = read_source(str(folder))
    assert not from_cache(again.notes)
    assert_same(again.dataset, first.dataset)
    if damage == "folder":
        assert any("could not be kept" in line for line in again.warnings)
    else:
        assert from_cache(read_source(str(folder)).notes)
    assert [path.name for path in kept(data_dir)] == [file.name]


def test_labels_from_a_file_are_matched_after_reading(tmp_path: Path) -> None:
    folder = write_stays(tmp_path / "p")
    labels = tmp_path / "labels.csv"
    request = Request(labels=labels)
    for word in ("u", "v"):
        labels.write_text(f"id,label\n132539,{word}\n132540,w\n132541,w\n")
        assert word in read_source(str(folder), request).dataset.classes
    assert from_cache(read_source(str(folder), request).notes)
    assert read_source(str(folder)).dataset.classes == ("0", "1")


def test_nothing_is_written_beside_the_data(tmp_path: Path, data_dir: Path) -> None:
    folder = write_stays(tmp_path / "p")
    before = sorted(folder.rglob("*"))
    read_source(str(folder), Request(data_dir=folder))
    assert sorted(folder.rglob("*")) == before
    assert len(kept(data_dir)) == 1


def test_it_can_be_turned_off(tmp_path: Path, data_dir: Path) -> None:
    folder = write_stays(tmp_path / "p")
    for _ in range(2):
        assert not from_cache(read_source(str(folder), Request(cache=False)).notes)
    assert not (data_dir / "parsed").exists()
