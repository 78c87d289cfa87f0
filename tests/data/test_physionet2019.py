"""PhysioNet 2019: one table per patient, labels by the hour, refusals by place."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from same_data import assert_same, refusal

from nde.data import Columns, Request, read_source

HEADER = "HR|Temp|EtCO2|Age|Gender|Unit1|HospAdmTime|ICULOS|SepsisLabel"
PATIENTS = {
    "p000001": "97|NaN|NaN|83.14|0|NaN|-0.03|1|0\n89|36.5|NaN|83.14|0|NaN|-0.03|2|0\n",
    "p000002": "70|NaN|NaN|50|1|1|-5|1|0\nNaN|NaN|NaN|50|1|1|-5|2|0\n"
    "NaN|38|NaN|50|1|1|-5|4|1\n",
}


def write_patients(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, rows in PATIENTS.items():
        (folder / f"{name}.psv").write_text(f"{HEADER}\n{rows}")
    return folder


def test_patients_become_series(tmp_path: Path) -> None:
    reading = read_source(str(write_patients(tmp_path / "training")))
    dataset = reading.dataset
    assert dataset.ids == ("p000001", "p000002")
    assert dataset.channels == ("HR", "Temp", "Age", "Gender", "Unit1", "HospAdmTime")
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1]
    assert dataset.classes == ("0", "1") and dataset.time_unit == "hours"
    assert dataset.times[1].tolist() == [1, 2, 4]
    np.testing.assert_array_equal(
        dataset.values[1][:, :2], [[70, np.nan], [np.nan, np.nan], [np.nan, 38]]
    )
    assert any("EtCO2" in line for line in reading.warnings)
    told = "\n".join(reading.notes)
    for words in ("2 files, separator |", "time: ICULOS", "label: SepsisLabel", "6 h"):
        assert words in told


def test_folders_as_published(tmp_path: Path) -> None:
    wanted = read_source(str(write_patients(tmp_path / "flat"))).dataset
    write_patients(tmp_path / "both" / "training")
    first = tmp_path / "both" / "training" / "p000002.psv"
    (tmp_path / "both" / "training_setB").mkdir()
    first.rename(tmp_path / "both" / "training_setB" / "p000002.psv")
    assert_same(read_source(str(tmp_path / "both")).dataset, wanted)


def test_archives_as_published(tmp_path: Path) -> None:
    wanted = read_source(str(write_patients(tmp_path / "flat"))).dataset
    packed = tmp_path / "packed"
    packed.mkdir()
    for i, name in enumerate(PATIENTS):
        with zipfile.ZipFile(packed / f"training_set{'AB'[i]}.zip", "w") as archive:
            archive.write(tmp_path / "flat" / f"{name}.psv", f"training/{name}.psv")
            archive.writestr(f"__MACOSX/training/._{name}.psv", "no table")
    assert_same(read_source(str(packed)).dataset, wanted)
    one = read_source(str(packed / "training_setB.zip")).dataset
    assert one.ids == ("p000002",)
    raw = (packed / "training_setA.zip").read_bytes()
    (packed / "training_setA.zip").write_bytes(raw[:-40])
    message = refusal(lambda: read_source(str(packed)))
    assert "training_setA.zip" in message and "truncated" in message


def test_a_folder_named_training_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "a.csv").write_text("t,x\n0,1\n1,2\n")
    assert read_source(str(tmp_path)).dataset.ids == ("a",)


def test_the_label_is_never_a_channel(tmp_path: Path) -> None:
    folder = write_patients(tmp_path / "training")
    columns = Columns(channels=("HR", "SepsisLabel"))
    message = refusal(lambda: read_source(str(folder), Request(columns=columns)))
    assert "SepsisLabel" in message and "--channels" in message
    other = Request(columns=Columns(label="Gender"))
    dataset = read_source(str(folder), other).dataset
    assert "SepsisLabel" not in dataset.channels and "Gender" not in dataset.channels
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1]


def test_chosen_channels_stay_even_if_unseen(tmp_path: Path) -> None:
    folder = write_patients(tmp_path / "training")
    columns = Columns(channels=("EtCO2", "HR"))
    dataset = read_source(str(folder), Request(columns=columns)).dataset
    assert dataset.channels == ("EtCO2", "HR")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("97|", "fast|", ["line 2", "column HR", "number"]),
        ("|2|0\n", "|2|2\n", ["line 3", "column SepsisLabel", "neither 0 nor 1"]),
        ("|2|0\n", "||0\n", ["line 3", "column ICULOS", "empty"]),
        ("97|NaN|", "97|", ["line 2", "8 fields"]),
        ("|SepsisLabel", "|Sepsis", ["share one header"]),
        ("97|NaN", "\xe9|NaN", ["line 2", "UTF-8"]),
    ],
)
def test_refusals(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    folder = write_patients(tmp_path / "training")
    file = folder / "p000001.psv"
    file.write_bytes(file.read_text().replace(old, new, 1).encode("latin-1"))
    message = refusal(lambda: read_source(str(folder)))
    for word in ["p000001.psv", *words]:
        assert word in message


def test_bar_tables_of_something_else(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a.psv").write_text("t|x\n0|1\n")
    message = refusal(lambda: read_source(str(folder)))
    assert "a.psv" in message and "ICULOS" in message
