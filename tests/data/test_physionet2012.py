"""PhysioNet 2012: stays as text files or archives, descriptors, outcomes, refusals."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from same_data import assert_same, refusal
from stays import OUTCOMES, write_stays

from nde.data import Columns, DataError, Request, read_source
from nde.training.preparation import prepare


def test_stays_become_series(tmp_path: Path) -> None:
    reading = read_source(str(write_stays(tmp_path / "p")))
    dataset = reading.dataset
    assert dataset.ids == ("132539", "132540", "132541")
    assert dataset.channels == (
        *("Age", "Gender", "Height", "ICUType", "Weight"),
        *("HR", "Temp", "pH"),
    )
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1, 0]
    assert dataset.classes == ("0", "1") and dataset.time_unit == "hours"
    np.testing.assert_allclose(dataset.times[1], [0, 42 / 60, 71 / 60, 48], rtol=1e-15)
    nan = np.nan
    np.testing.assert_array_equal(
        dataset.values[1],
        [
            [76, 1, 175.3, 2, 80.6, nan, nan, nan],
            [nan, nan, nan, nan, nan, nan, nan, 7.45],
            [nan, nan, nan, nan, nan, 90, nan, nan],
            [nan, nan, nan, nan, nan, 86, nan, nan],
        ],
    )
    np.testing.assert_array_equal(
        dataset.values[0][0], [54, nan, nan, 4, nan, nan, nan, nan]
    )
    assert any("1 repeats" in line for line in reading.warnings)
    assert any("'132541'" in line for line in reading.warnings)
    told = "\n".join(reading.notes)
    for words in ("3 stays", "time: Time (hours)", "labels: In-hospital_death", "-1"):
        assert words in told


def test_the_set_itself_its_archive_and_its_parent_are_the_same(tmp_path: Path) -> None:
    folder = write_stays(tmp_path / "p")
    wanted = read_source(str(folder)).dataset
    assert_same(read_source(str(folder / "set-a")).dataset, wanted)
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "set-a.tar.gz", "w:gz") as archive:
        archive.add(folder / "set-a", "set-a")
    (packed / "Outcomes-a.txt").write_text(OUTCOMES)
    assert_same(read_source(str(packed)).dataset, wanted)
    assert_same(read_source(str(packed / "set-a.tar.gz")).dataset, wanted)


def test_another_outcome_and_chosen_channels(tmp_path: Path) -> None:
    folder = write_stays(tmp_path / "p")
    columns = Columns(label="Length_of_stay", channels=("HR", "Lactate"))
    dataset = read_source(str(folder), Request(columns=columns)).dataset
    assert dataset.classes == ("5", "8", "19")
    assert dataset.channels == ("HR", "Lactate")
    # Times at which other channels were measured stay.
    assert len(dataset.times[1]) == 4 and np.isnan(dataset.values[1][:, 1]).all()
    bad = Request(columns=Columns(channels=("HR", "Lactat")))
    assert "did you mean 'Lactate'" in refusal(lambda: read_source(str(folder), bad))
    bad = Request(columns=Columns(label="In-hospital_deth"))
    message = refusal(lambda: read_source(str(folder), bad))
    assert "did you mean 'In-hospital_death'" in message


def test_stays_without_outcomes_have_no_labels(tmp_path: Path) -> None:
    folder = write_stays(tmp_path / "p", outcomes=None)
    reading = read_source(str(folder))
    assert reading.dataset.labels is None
    assert any("Outcomes" in line for line in reading.warnings)
    labels = tmp_path / "mine.csv"
    labels.write_text("id,label,split\n132541,x,train\n132539,y,test\n132540,x,train\n")
    dataset = read_source(str(folder), Request(labels=labels)).dataset
    assert dataset.classes == ("x", "y") and dataset.parts == ("test", "train", "train")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("00:07,HR,73", "00:07,HR,fast", ["line 8", "column Value", "number"]),
        ("00:07,HR,73", "0007,HR,73", ["line 8", "column Time", "'0007'"]),
        ("00:07,HR,73", "00:71,HR,73", ["line 8", "column Time"]),
        ("00:07,HR,73", "00:07,Heart,73", ["line 8", "column Parameter", "'Heart'"]),
        ("00:07,HR,73", "00:07,,73", ["line 8", "column Parameter"]),
        ("00:07,HR,73", "00:07,HR", ["line 8", "2 fields"]),
        ("RecordID,132539", "RecordID,132540", ["line 2", "file name"]),
        ("00:07,HR,73", "00:07,HR,\xe9", ["line 8", "UTF-8"]),
        ("Time,Parameter,Value", "Time,Parameter,Val", ["share one header"]),
    ],
)
def test_refusals_name_file_and_line(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    folder = write_stays(tmp_path / "p")
    file = folder / "set-a" / "132539.txt"
    file.write_bytes(file.read_text().replace(old, new, 1).encode("latin-1"))
    message = refusal(lambda: read_source(str(folder)))
    for word in ["1325", *words]:
        assert word in message
    if "share" not in words[0]:
        assert "132539.txt" in message


def test_an_outcome_that_is_not_there(tmp_path: Path) -> None:
    lost = OUTCOMES.replace("132540,16,8,8,3,1\n", "")
    folder = write_stays(tmp_path / "p", outcomes=lost)
    message = refusal(lambda: read_source(str(folder)))
    assert "no row for 1 of 3 series" in message and "'132540'" in message
    assert "Outcomes-a.txt, column RecordID" in message


def test_a_damaged_archive(tmp_path: Path) -> None:
    folder = write_stays(tmp_path / "p")
    file = tmp_path / "set-a.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder / "set-a", "set-a")
    file.write_bytes(file.read_bytes()[:-200])
    message = refusal(lambda: read_source(str(file)))
    assert "set-a.tar.gz" in message and "truncated" in message


def test_real_stays(real_data: Path) -> None:
    fixture = real_data / "physionet2012" / "fixture_100"
    dataset = read_source(str(fixture)).dataset
    assert len(dataset) == 100
    rows = 0
    with tarfile.open(fixture / "set-a.tar.gz") as archive:
        for member in archive:
            if member.name.endswith(".txt"):
                content = archive.extractfile(member)
                assert content is not None
                rows += len({line[:5] for line in content.read().splitlines()[1:]})
    assert sum(len(times) for times in dataset.times) == rows


def test_every_label_of_one_kind_is_refused_later(tmp_path: Path) -> None:
    from visits import small_config

    same = OUTCOMES.replace(",3,1\n", ",3,0\n")
    folder = write_stays(tmp_path / "p", outcomes=same)
    with pytest.raises(DataError, match="same class"):
        prepare(small_config(folder))
