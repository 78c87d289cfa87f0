"""JSON lines: a series per line as GluonTS writes them, or a visit per line."""

import json
from pathlib import Path

import numpy as np
import pytest
from same_data import refusal

from nde.data import Columns, Request, read_source

SERIES = [
    {"start": "2020-01-01", "item_id": "A", "target": [1.5, None, 3]},
    {"start": "2021-01-01", "item_id": "B", "target": ["NaN", 5]},
]


def write(folder: Path, *records: object) -> Path:
    path = folder / "a.jsonl"
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_series_per_line(tmp_path: Path) -> None:
    reading = read_source(str(write(tmp_path, *SERIES)))
    dataset = reading.dataset
    assert dataset.ids == ("A", "B") and dataset.channels == ("target",)
    assert [t.tolist() for t in dataset.times] == [[0, 2], [1]]
    assert [v.ravel().tolist() for v in dataset.values] == [[1.5, 3], [5]]
    assert dataset.labels is None and dataset.time_unit == "steps"
    assert "steps from the start of each series" in "\n".join(reading.notes)


def test_channels_labels_and_other_fields(tmp_path: Path) -> None:
    rows = [
        {"target": [[1, 2], [3, 4]], "label": 1, "feat_static_cat": [0]},
        {"target": [[5], [6]], "label": 0},
    ]
    reading = read_source(str(write(tmp_path, *rows)))
    dataset = reading.dataset
    assert dataset.channels == ("target_0", "target_1") and dataset.ids == ("0", "1")
    np.testing.assert_array_equal(dataset.values[0], [[1, 3], [2, 4]])
    assert dataset.labels is not None and dataset.labels.tolist() == [1, 0]
    assert any("feat_static_cat" in line for line in reading.warnings)


def test_a_visit_per_line(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "time": "2020-01-01T00:00:00", "x": 1.5},
        "",
        {"time": "2020-01-01T00:01:00", "id": 7, "y": 2},
    ]
    dataset = read_source(str(write(tmp_path, *rows))).dataset
    assert dataset.ids == ("7",) and dataset.channels == ("x", "y")
    np.testing.assert_array_equal(np.diff(dataset.times[0]), [60])
    np.testing.assert_array_equal(dataset.values[0], [[1.5, np.nan], [np.nan, 2]])


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (['{"id": 1, "time": 0, "x": '], ["line 1", "JSON"]),
        (["[1, 2]"], ["line 1", "list", "one object per line"]),
        (["{}", '{"id": 1, "time": 0, "x": 1}'], ["line 1", "column id", "empty"]),
        (
            ['{"id": 1, "time": 0, "x": "w"}', '{"id": 1, "time": 1, "x": 2}'],
            ["line 1"],
        ),
        (['{"id": 1, "time": 0, "x": [1]}'], ["line 1, x", "list"]),
        ([SERIES[0], '{"target": 3}'], ["line 2", "'target' must be a list"]),
        ([SERIES[0], '{"target": []}'], ["line 2", "not empty"]),
        ([SERIES[0], '{"target": [1, "high"]}'], ["line 2", "high"]),
        ([SERIES[0], '{"target": [1, [2]]}'], ["line 2", "'target'"]),
        (['{"target": [[1, 2], [3]]}'], ["line 1", "equal length"]),
        ([SERIES[0], '{"target": [[1], [3]]}'], ["line 2", "2 channels"]),
        (['{"target": [1], "label": "u"}', '{"target": [1]}'], ["line 2", "label"]),
        (['{"target": [1e999]}'], ["finite"]),
        ([SERIES[0], SERIES[0]], ["not unique"]),
    ],
)
def test_refusals(tmp_path: Path, records: list[object], words: list[str]) -> None:
    path = write(tmp_path, *records)
    message = refusal(lambda: read_source(str(path)))
    for word in words:
        assert word in message
    assert "a.jsonl" in message or "unique" in message


def test_a_label_that_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, {"target": [1], "kind": "u"}, {"target": [1], "kind": "v"})
    request = Request(columns=Columns(label="kind"))
    assert read_source(str(path), request).dataset.classes == ("u", "v")
