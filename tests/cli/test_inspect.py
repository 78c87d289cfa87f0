"""`nde inspect`: what it prints of a table, and what it doubts."""

import json
from pathlib import Path

import pytest

from nde.cli import main


def test_a_table(visits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(visits)]) == 0
    captured = capsys.readouterr()
    told = captured.out
    for word in (
        "id: id",
        "series: 40",
        "irregular clock",
        "classes: c0 20 (50%), c1 20 (50%)",
        "x1         100.0%",
    ):
        assert word in told
    assert captured.err == ""


def test_json_and_doubts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["id,time,x,ward,label"]
    for number in range(20):
        for time in range(3):
            x = (number * 7 + time * 5) % 41
            lines.append(f"p{number},{time},{x},{number % 2},c{number % 2}")
    path = tmp_path / "wards.csv"
    path.write_text("\n".join(lines) + "\n")
    assert main(["inspect", str(path), "-q"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("warning: channel 'ward', constant in each series, tells")
    assert main(["inspect", str(path), "--json", "--channels", "x"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["series"] == 20 and tree["doubts"] == []
    assert [channel["name"] for channel in tree["channels"]] == ["x"]
    # Data to predict has no labels.
    path.write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    assert main(["inspect", str(path)]) == 0
    assert "classes: no labels" in capsys.readouterr().out


def test_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "japanese-vowel"]) == 2
    assert "did you mean 'japanese-vowels'" in capsys.readouterr().err
    assert main(["inspect"]) == 2
