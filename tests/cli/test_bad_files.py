"""Every way we know of that a file of series can be wrong, through `nde train`.

A refusal is exit code 2 and one line that names the file and the place; nothing is
written. What is accepted with a doubt says so on stderr.
"""

import io
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from visits import small_flags

from nde.cli import main

COUNT = 24  # series, of 5 visits each
Change = Callable[[list[str]], list[str]]


def good() -> list[str]:
    """Header and rows `id,t,x1,x2,label`, in order; line n is `good()[n - 1]`."""
    lines = ["id,t,x1,x2,label"]
    for i in range(COUNT):
        for j in range(5):
            x1, x2 = (i % 2) * 3 + 0.1 * j, (7 * i + 3 * j) % 11
            lines.append(f"p{i},{0.5 * j + 0.01 * i:.2f},{x1:.1f},{x2},{i % 2}")
    return lines


def cells(
    change: Callable[[list[str], int], list[str]], *, head: bool = False
) -> Change:
    """Apply `change` to the cells and number of every row, and of the header."""

    def apply(lines: list[str]) -> list[str]:
        rows = [line.split(",") for line in lines]
        done = [change(row, i) if i or head else row for i, row in enumerate(rows)]
        return [",".join(row) for row in done]

    return apply


def put(column: int, text: str, *, line: int = 0) -> Change:
    """Write `text` into a column, of every row or of one line."""
    return cells(
        lambda row, i: (
            [*row[:column], text, *row[column + 1 :]] if line in (0, i + 1) else row
        )
    )


def header(text: str) -> Change:
    return lambda lines: [text, *lines[1:]]


def at(number: int, change: Callable[[str], str]) -> Change:
    return lambda lines: [
        change(line) if i == number else line for i, line in enumerate(lines, 1)
    ]


ACCEPTED: dict[str, Change] = {
    "ok": lambda lines: lines,
    "interleaved_ids": lambda lines: [
        lines[0],
        *(lines[1 + 5 * i + j] for j in range(5) for i in range(COUNT)),
    ],
    "negative_time": cells(lambda r, i: [r[0], str(float(r[1]) - 99), *r[2:]]),
    "epoch_time": cells(lambda r, i: [r[0], str(float(r[1]) + 1.7e9), *r[2:]]),
    "missing_values": cells(lambda r, i: [*r[:2], "" if i % 5 == 0 else r[2], *r[3:]]),
    "missing_words": put(2, "n/a", line=9),
    "all_missing_in_one": cells(lambda r, i: [*r[:2], "" if i < 6 else r[2], *r[3:]]),
    "huge_1e38": cells(lambda r, i: [*r[:2], f"{r[2]}e38", *r[3:]]),
    "tiny": cells(lambda r, i: [*r[:2], f"{r[2]}e-40", *r[3:]]),
    "label_text": cells(lambda r, i: [*r[:4], "yes" if r[4] == "1" else "no"]),
    "label_gap": cells(lambda r, i: [*r[:4], "7" if r[4] == "1" else r[4]]),
    "label_float": cells(lambda r, i: [*r[:4], f"{r[4]}.0"]),
    "id_leading_zero": cells(lambda r, i: [r[0].replace("p", "00"), *r[1:]]),
    "formula": cells(lambda r, i: ["=1+" + r[0], *r[1:]]),
    "header_spaces": header(" id , t , x1 , x2 , label "),
    "header_case": header("ID,T,X1,X2,LABEL"),
    "semicolon": lambda lines: [line.replace(",", ";") for line in lines],
    "quoted": lambda lines: ['"' + line.replace(",", '","') + '"' for line in lines],
}
DOUBTED: dict[str, tuple[Change, str]] = {
    "extra_column": (
        cells(lambda r, i: [*r, "word" if i else "note"], head=True),
        "'note'",
    ),
    "unsorted_time": (lambda lines: [lines[0], *lines[:0:-1]], "sorted"),
    "duplicate_time": (lambda lines: [*lines, lines[-1]], "duplicate"),
    "constant_channel": (put(2, "3"), "'x1' is constant"),
    "one_point_series": (lambda lines: [*lines[:1], *lines[5:]], "'p0'"),
}
REFUSED: dict[str, tuple[Change, list[str]]] = {
    "empty": (lambda lines: [], ["empty"]),
    "header_only": (lambda lines: lines[:1], ["no rows"]),
    "no_header": (lambda lines: lines[1:], ["header"]),
    "decimal_comma": (
        lambda lines: [line.replace(",", ";").replace(".", ",") for line in lines],
        ["line 2", "neither a number"],
    ),
    "missing_time_column": (cells(lambda r, i: [r[0], *r[2:]], head=True), ["--time"]),
    "missing_label_column": (cells(lambda r, i: r[:4], head=True), ["label"]),
    "duplicate_column": (header("id,t,x1,x1,label"), ["duplicate", "x1"]),
    "ragged_long": (at(7, lambda line: line + ",9"), ["line 7", "6 fields"]),
    "ragged_short": (at(7, lambda line: line[:6]), ["line 7", "2 fields"]),
    "nan_time": (put(1, "", line=9), ["line 9", "column t"]),
    "inf_time": (put(1, "inf", line=9), ["line 9", "finite"]),
    "text_time": (put(1, "noon", line=9), ["line 9", "column t"]),
    "all_missing_channel": (put(3, ""), ["x2", "missing"]),
    "text_value": (put(2, "word", line=9), ["line 9", "column x1", "number"]),
    "missing_dash": (put(2, "-", line=9), ["line 9", "column x1", "'-'"]),
    "thousands": (put(2, '"1,234.5"', line=9), ["line 9", "column x1", "number"]),
    "inf_value": (put(2, "inf", line=9), ["line 9", "finite"]),
    "huge_1e400": (put(2, "1e400", line=9), ["line 9", "finite"]),
    "one_class": (put(4, "1"), ["same class"]),
    "label_changes": (put(4, "0", line=9), ["line 9", "label", "'p1'"]),
    "label_missing": (put(4, "", line=9), ["line 9", "label"]),
    "id_missing": (put(0, "", line=9), ["line 9", "id"]),
    "one_series": (lambda lines: lines[:6], ["class"]),
    "one_row": (lambda lines: lines[:2], ["class"]),
    "latin1": (put(0, "\xe9", line=9), ["line 9", "UTF-8"]),
    "nul": (put(2, "\0", line=9), ["line 9", "NUL"]),
    "cut_in_line": (lambda lines: [*lines[:-1], lines[-1][:5]], ["fields"]),
}


def tell(
    path: Path, capsys: pytest.CaptureFixture[str], *flags: str
) -> tuple[int, list[str]]:
    """Exit code, and lines on stderr."""
    code = main(["train", str(path), "--dry-run", *small_flags(), *flags])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    return code, shown.err.splitlines()


def written(folder: Path, change: Change, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes("\n".join(change(good())).encode("latin-1"))
    return path


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = tell(written(tmp_path, ACCEPTED[name]), capsys)
    assert (code, told) == (0, [])


@pytest.mark.parametrize("name", DOUBTED)
def test_accepted_with_a_doubt(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, word = DOUBTED[name]
    code, told = tell(written(tmp_path, change), capsys)
    assert code == 0
    assert any(line.startswith("warning: ") and word in line for line in told)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change, words = REFUSED[name]
    path = written(tmp_path, change)
    monkeypatch.chdir(tmp_path)
    code, told = tell(path, capsys)
    assert code == 2 and len(told) == 1
    for word in ["error: ", "data", *words]:
        assert word in told[0]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_channel_that_is_named_and_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, cells(lambda r, i: [*r[:3], r[4]], head=True))
    code, told = tell(path, capsys, "--channels", "x1,x2")
    assert code == 2 and "'x2'" in told[0]


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("utf16.csv", "\n".join(good()).encode("utf-16"), ["UTF-8"]),
        ("is_png.csv", b"\x89PNG\r\n\x1a\n\x00", ["UTF-8", ".csv"]),
        ("text.parquet", "\n".join(good()).encode(), ["parquet", "--format table"]),
        ("empty.parquet", b"", ["parquet", "empty"]),
        ("no_data_tag.ts", b"@classLabel true a\n1,2:a\n", ["@data"]),
        ("no_rows.ts", b"@classLabel true a\n@data\n", ["no cases", "empty"]),
        ("no_classlabel.ts", b"@data\n1,2:a\n", ["@classLabel"]),
        ("unknown_label.ts", b"@classLabel true a b\n@data\n1,2:z\n", ["'z'"]),
        ("header_value.ts", b"@dimensions two\n", ["@dimensions"]),
        (
            "text_value.ts",
            b"@classLabel true a b\n@data\n1,two:a\n",
            ["line 3", "number"],
        ),
        (
            "truncated.ts",
            b"@dimensions 2\n@classLabel true a b\n@data\n1,2:3,4:a\n1,2:3",
            ["line 5", "label"],
        ),
    ],
)
def test_other_files(
    name: str,
    raw: bytes,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    code, told = tell(path, capsys)
    assert code == 2 and len(told) == 1
    for word in [name, *words]:
        assert word in told[0]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_parquet_whole_cut_and_under_another_name(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"data.{suffix}"
    frame = pl.read_csv(io.StringIO("\n".join(good())))
    frame.write_parquet(path)
    code, told = tell(path, capsys)
    if suffix == "csv":
        assert code == 2 and "--format parquet" in told[0]
        code, told = tell(path, capsys, "--format", "parquet")
    assert (code, told) == (0, [])
    path.write_bytes(path.read_bytes()[:-200])
    code, told = tell(path, capsys, "--format", "parquet")
    assert code == 2 and "truncated or corrupt" in told[0]
