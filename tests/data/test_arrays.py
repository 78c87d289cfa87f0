"""Array files: shapes, masks and lengths, labels, damage, and code that never runs."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from same_data import assert_same, refusal

from nde.data import Columns, Request, read_source

X = np.arange(12, dtype=float).reshape(2, 3, 2)


def save(folder: Path, **arrays: object) -> Path:
    path = folder / "a.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_only_values(tmp_path: Path) -> None:
    reading = read_source(str(save(tmp_path, X=X)))
    dataset = reading.dataset
    assert dataset.ids == ("0", "1") and dataset.channels == ("x1", "x2")
    assert dataset.labels is None and dataset.time_unit == "steps"
    assert dataset.times[0].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(dataset.values, X)
    assert "X (2, 3, 2)" in reading.notes[0]
    np.save(tmp_path / "b.npy", X)
    assert_same(read_source(str(tmp_path / "b.npy")).dataset, dataset)
    torch.save(torch.from_numpy(X), tmp_path / "b.pt")
    assert_same(read_source(str(tmp_path / "b.pt")).dataset, dataset)
    flat = read_source(str(save(tmp_path, X=X[:, :, 0]))).dataset
    np.testing.assert_array_equal(flat.values, X[:, :, :1])


def test_times_of_each_series_mask_and_lengths(tmp_path: Path) -> None:
    nan = np.nan
    times = np.array([[0.0, 0.3, 0.9], [5.0, 6.0, nan]])
    mask = np.ones_like(X, dtype=bool)
    mask[0, 1] = mask[0, 0, 1] = False
    path = save(tmp_path, X=X, t=times, mask=mask, lengths=[3, 2], y=[1.0, 0.0])
    reading = read_source(str(path))
    dataset = reading.dataset
    assert [t.tolist() for t in dataset.times] == [[0.0, 0.9], [5.0, 6.0]]
    np.testing.assert_array_equal(dataset.values[0], [[0, nan], [4, 5]])
    np.testing.assert_array_equal(dataset.values[1], X[1, :2])
    assert dataset.classes == ("0", "1") and dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0]
    assert "1 steps without any value are left out" in reading.notes


def test_choosing_channels_keeps_the_times_of_the_others(tmp_path: Path) -> None:
    values = X.copy()
    values[0, 1, 0] = np.nan
    path = save(tmp_path, X=values, channels=np.array(["hr", "bp"]))
    chosen = Request(columns=Columns(channels=("hr",)))
    dataset = read_source(str(path), chosen).dataset
    assert dataset.channels == ("hr",) and len(dataset.times[0]) == 3
    bad = Request(columns=Columns(channels=("hrr",)))
    assert "did you mean 'hr'" in refusal(lambda: read_source(str(path), bad))


def test_other_arrays_are_told(tmp_path: Path) -> None:
    reading = read_source(str(save(tmp_path, X=X, X_ori=X, masks=X)))
    assert any("'masks'" in w and "'mask'" in w for w in reading.warnings)
    assert any("held back" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X}, ["no array X", "did you mean 'X'"]),
        ({"X": X[0, 0]}, ["X has the shape (2,)", "(series, steps, channels)"]),
        ({"X": X[:0]}, ["none of them 0"]),
        ({"X": X.astype(str)}, ["X holds <U", "numbers"]),
        ({"X": X.astype(complex)}, ["X holds complex128"]),
        (
            {"X": np.where(X == 7, np.inf, X)},
            ["series 1, step 0, channel x2"],
        ),
        ({"X": X, "t": [0, 1]}, ["t has the shape (2,)", "(3,) or (2, 3)"]),
        ({"X": X, "t": [0, 1, np.nan]}, ["series 0, step 2", "finite time"]),
        ({"X": X, "mask": X[0] > 0}, ["mask has the shape (3, 2)"]),
        ({"X": X, "mask": X}, ["mask", "neither 0 nor 1"]),
        ({"X": X, "lengths": [3, 4]}, ["lengths", "from 1 to 3"]),
        ({"X": X, "lengths": [1.5, 3]}, ["lengths", "whole numbers"]),
        ({"X": X, "lengths": [3]}, ["lengths", "2 whole numbers"]),
        ({"X": X, "y": [1, 2, 3]}, ["y has the shape (3,)"]),
        ({"X": X, "y": [1, np.nan]}, ["y", "not finite"]),
        ({"X": X, "ids": ["a", "a"]}, ["ids are not unique"]),
        ({"X": X, "channels": ["a"]}, ["channels has the shape (1,)"]),
        ({"X": np.array([X[0], None], dtype=object)}, ["Python objects"]),
    ],
)
def test_refusals(tmp_path: Path, arrays: dict[str, object], words: list[str]) -> None:
    path = save(tmp_path, **arrays)
    message = refusal(lambda: read_source(str(path)))
    for word in words:
        assert word in message
    assert "a.npz" in message or "unique" in message


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.path, "ran")


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"X": Trap(trap)}, tmp_path / "a.pt")
    objects = np.array([Trap(trap)], dtype=object)
    np.savez(tmp_path / "a.npz", X=objects)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Trap(trap)))
    for name in ("a.pt", "a.npz", "bare.pt"):
        assert name in refusal(lambda name=name: read_source(str(tmp_path / name)))
    assert not trap.exists()


def test_damaged_files(tmp_path: Path) -> None:
    path = save(tmp_path, X=np.zeros((50, 9, 2)))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    assert "damaged or truncated" in refusal(lambda: read_source(str(path)))
    middle = len(raw) // 2
    path.write_bytes(raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :])
    assert "damaged" in refusal(lambda: read_source(str(path)))
    torch.save({"weights": torch.zeros(3)}, tmp_path / "model.pt")
    assert "no array X" in refusal(lambda: read_source(str(tmp_path / "model.pt")))


def test_hdf5_without_h5py_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    monkeypatch.setitem(sys.modules, "h5py", None)
    message = refusal(lambda: read_source(str(path)))
    assert "train.h5" in message and "pip install 'nde[hdf5]'" in message


def test_hdf5_of_pypots(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    values = np.where(X == 3, np.nan, X)
    path = tmp_path / "train.h5"
    with h5py.File(path, "w") as file:
        file["X"], file["X_ori"], file["y"] = values, X, np.array([1, 0])
    reading = read_source(str(path))
    wanted = read_source(str(save(tmp_path, X=values, y=[1, 0])))
    assert_same(reading.dataset, wanted.dataset)
    assert any("held back" in note for note in reading.notes)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    assert "damaged or truncated" in refusal(lambda: read_source(str(path)))
    with h5py.File(path, "w") as file:
        file["train/X"] = X
    assert "only the groups train" in refusal(lambda: read_source(str(path)))
