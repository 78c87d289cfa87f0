"""A folder of tables: names as ids, one header, labels beside them."""

from pathlib import Path

import pytest
from same_data import assert_same, refusal

from nde.data import Request, read_long_csv, read_source
from nde.data.columns import Columns

TABLES = {
    "10": "time,x,label\n0,1,u\n1,2,u\n",
    "9": 'time,x,label\n2,"5",v\n1,,v\n',
    "b": "time,x,label\n0,3,u\n",
}


def write_tables(folder: Path, tables: dict[str, str] = TABLES) -> Path:
    folder.mkdir()
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_names_are_ids(tmp_path: Path) -> None:
    reading = read_source(str(write_tables(tmp_path / "d")))
    long = tmp_path / "d.csv"
    rows = ["id,time,x,label"]
    for name, text in TABLES.items():
        rows += [f"{name},{line}" for line in text.splitlines()[1:]]
    long.write_text("\n".join(rows))
    wanted = read_long_csv(long)
    assert_same(reading.dataset, wanted.dataset)
    assert reading.warnings == wanted.warnings
    assert reading.dataset.ids == ("9", "10", "b")
    told = "\n".join(reading.notes)
    assert "5 rows, 3 files" in told and "id: stem" in told


def test_a_column_of_ids_is_ambiguous(tmp_path: Path) -> None:
    text = "id,time,x\n{0},0,1\nother{0},0,1\n"
    folder = write_tables(tmp_path / "d", {n: text.format(n) for n in "ab"})
    message = refusal(lambda: read_source(str(folder)))
    assert "--id id or --id stem" in message
    ids = {}
    for name in ("id", "stem"):
        request = Request(columns=Columns(id=name, channels=("x",)))
        ids[name] = read_source(str(folder), request).dataset.ids
    assert ids == {"id": ("a", "b", "othera", "otherb"), "stem": ("a", "b")}


def test_labels_in_the_folder_are_no_series(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "d", {n: "t,x\n0,1\n" for n in ("p1", "p2")})
    labels = folder / "labels.csv"
    labels.write_text("subject,outcome\np2,dead\np1,alive\n")
    dataset = read_source(str(folder), Request(labels=labels)).dataset
    assert dataset.ids == ("p1", "p2") and dataset.classes == ("alive", "dead")
    assert "labels.csv" in refusal(lambda: read_source(str(folder)))


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"a": "t,x\n0,1\n", "b": "t,y\n0,1\n"}, ["b.csv", "t, y", "a.csv", "t, x"]),
        ({"a": "t,x\n0,1\n", "b": "t,x\n"}, ["b.csv", "no rows"]),
        ({"a": "t,x\n0,1\n", "b": ""}, ["b.csv", "empty"]),
        ({"a": "t,x\n0,1\n", "b": "t,x\n\n0,w\n1,2\n"}, ["b.csv, line 3", "column x"]),
        ({"a": 't,x\n0,"1"\n', "b": "t,x\n0,1\n1,w\n"}, ["b.csv, line 3", "column x"]),
        ({"a": "stem,t,x\nq,0,1\n"}, ["'stem'", "rename"]),
    ],
)
def test_refusals(tmp_path: Path, tables: dict[str, str], words: list[str]) -> None:
    folder = write_tables(tmp_path / "d", tables)
    message = refusal(lambda: read_source(str(folder)))
    for word in words:
        assert word in message


def test_one_name_twice(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "d", {"a": "t,x\n0,1\n"})
    (folder / "a.tsv").write_text("t,x\n0,1\n")
    assert "two files of the name 'a'" in refusal(lambda: read_source(str(folder)))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("id,label\na,u\n", ["no row for 1 of 2 series", "'b'"]),
        ("id,label\na,u\nb,\n", ["line 3", "column label", "empty"]),
        ("id,x,y\na,u,v\nb,u,v\n", ["label", "--label"]),
        ("who,label\na,u\nb,v\n", ["id", "--id"]),
        ("id,label\na,u\na,v\nb,u\n", ["line 3", "changes from 'u' to 'v'"]),
        ("id,label,split\na,u,train\nb,v,tset\n", ["did you mean 'test'"]),
    ],
)
def test_tables_of_labels_that_do_not_fit(
    tmp_path: Path, rows: str, words: list[str]
) -> None:
    folder = write_tables(tmp_path / "d", {n: "t,x\n0,1\n" for n in "ab"})
    labels = tmp_path / "labels.csv"
    labels.write_text(rows)
    message = refusal(lambda: read_source(str(folder), Request(labels=labels)))
    for word in ["labels.csv", *words]:
        assert word in message


def test_folders_of_two_kinds_and_of_none(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "d", {"a": "t,x\n0,1\n"})
    (folder / "b.psv").write_text("ICULOS|SepsisLabel|HR\n1|0|70\n")
    message = refusal(lambda: read_source(str(folder)))
    assert "--format physionet-2019 or --format table-folder" in message
    for name, ids in (("physionet-2019", ("b",)), ("table-folder", ("a",))):
        assert read_source(str(folder), Request(format=name)).dataset.ids == ids
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "nothing" in refusal(lambda: read_source(str(empty)))
    (empty / "x.jpg").write_bytes(b"")
    message = refusal(lambda: read_source(str(empty)))
    assert "x.jpg" in message and "PhysioNet" in message
