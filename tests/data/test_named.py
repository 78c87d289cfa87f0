"""Named data sets: fetched whole or not at all, found where they were put by hand."""

import hashlib
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from same_data import assert_same, refusal
from stays import write_stays

from nde.data import NAMED, Request, read_source
from nde.data.named import NamedSet, Piece


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the site of a data set `tiny` of two files."""
    folder = write_stays(tmp_path / "site")
    with tarfile.open(folder / "set-a.tar.gz", "w:gz") as archive:
        archive.add(folder / "set-a", "set-a")
    shutil.rmtree(folder / "set-a")
    pieces = tuple(
        Piece((folder / name).as_uri(), digest(folder / name), unpacked)
        for name, unpacked in (("set-a.tar.gz", "set-a"), ("Outcomes-a.txt", None))
    )
    monkeypatch.setitem(NAMED, "tiny", NamedSet("physionet-2012", "none", pieces))
    return folder


def test_it_is_fetched_once(site: Path, data_dir: Path) -> None:
    first = read_source("tiny")
    assert len(first.dataset) == 3 and first.dataset.name == "tiny"
    assert "fetched" in first.notes[0] and "licence" in first.notes[0]
    names = sorted(file.name for file in (data_dir / "tiny").iterdir())
    assert names == ["Outcomes-a.txt", "set-a.tar.gz"]
    shutil.rmtree(site)
    second = read_source("tiny")
    assert_same(second.dataset, first.dataset)
    assert "fetched" not in second.notes[0]


def test_only_what_is_missing_is_fetched(site: Path, data_dir: Path) -> None:
    read_source("tiny")
    (data_dir / "tiny" / "Outcomes-a.txt").unlink()
    (site / "set-a.tar.gz").unlink()
    reading = read_source("tiny")
    assert reading.dataset.labels is not None
    assert "Outcomes-a.txt" in reading.notes[0]
    assert "set-a.tar.gz" not in reading.notes[0]


def test_another_file_than_expected_is_refused(site: Path, data_dir: Path) -> None:
    (site / "Outcomes-a.txt").write_text("RecordID,In-hospital_death\n1,0\n")
    message = refusal(lambda: read_source("tiny"))
    for word in ("Outcomes-a.txt", "sha256", "--data-dir"):
        assert word in message
    left = [file.name for file in (data_dir / "tiny").iterdir()]
    assert left == ["set-a.tar.gz"]


def test_a_site_that_does_not_answer(site: Path, data_dir: Path) -> None:
    shutil.rmtree(site)
    message = refusal(lambda: read_source("tiny"))
    for word in ("set-a.tar.gz", "cannot be fetched", str(data_dir), "--data-dir"):
        assert word in message
    assert not list((data_dir / "tiny").iterdir())


@pytest.mark.parametrize("unpacked", [True, False])
def test_a_copy_by_hand(site: Path, tmp_path: Path, unpacked: bool) -> None:
    wanted = read_source("tiny").dataset
    mine = write_stays(tmp_path / "mine")
    if not unpacked:
        with tarfile.open(mine / "set-a.tar.gz", "w") as archive:
            archive.add(mine / "set-a", "set-a")
        shutil.rmtree(mine / "set-a")
    shutil.rmtree(site)
    reading = read_source("tiny", Request(data_dir=mine))
    assert_same(reading.dataset, wanted)
    # The archive made here is not packed as that of the site is.
    told = [line for line in reading.warnings if "not the published file" in line]
    assert len(told) == (0 if unpacked else 1)


def test_sources_are_stated_in_full() -> None:
    for known in NAMED.values():
        assert known.pieces and known.licence
        for piece in known.pieces:
            assert piece.url.startswith("https://")
            assert re.fullmatch("[0-9a-f]{64}", piece.sha256)


def test_published_outcomes(real_data: Path) -> None:
    folder = real_data / "physionet2012"
    pieces = [p for p in NAMED["physionet-2012"].pieces if "Outcomes" in p.file]
    assert [digest(folder / p.file) for p in pieces] == [p.sha256 for p in pieces]


def test_a_name_that_does_not_exist() -> None:
    message = refusal(lambda: read_source("physionet2012"))
    assert "did you mean 'physionet-2012'" in message and "ushcn" in message
