"""Files of a run: written whole, refused when they are not ours."""

import errno
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nde.training import atomic
from nde.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from nde.training.run_folder import (
    RunFolderError,
    check_folder,
    create_run,
    find_checkpoint,
    free_path,
    to_json,
)


def checkpoint() -> Checkpoint:
    return Checkpoint(
        config={"optim": {"lr": 0.1}},
        schema={"channels": ["a"]},
        splits={"test": ["s1"]},
        model={"weight": torch.arange(6.0).view(2, 3)},
        optimiser={},
        schedule={},
        generators={"order": torch.get_rng_state()},
        rng={"python": (3, (1, 2), None)},
        epoch=1,
        iteration=7,
        best={"epoch": 1, "value": 0.5},
    )


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.write_text(path, "old")
    atomic.write_text(path, "new ü")
    assert path.read_text(encoding="utf-8") == "new ü"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, checkpoint())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, replace(checkpoint(), epoch=2))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    atomic.write_bytes(path, b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_checkpoint_round_trip_of_tensors_and_plain_containers(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, checkpoint())
    tree = torch.load(path, weights_only=True)
    assert tree["version"] == 1 and tree["config"] == {"optim": {"lr": 0.1}}
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.model["weight"], checkpoint().model["weight"])
    assert (loaded.epoch, loaded.iteration, loaded.best["value"]) == (1, 7, 0.5)
    assert loaded.rng == checkpoint().rng


class Evil:
    """Makes a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    save_checkpoint(good, checkpoint())
    raw = good.read_bytes()
    weights = checkpoint().model["weight"].numpy().tobytes()
    place = raw.index(weights) + 5
    flipped = bytearray(raw)
    flipped[place] ^= 0x40

    def written(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    def saved(name: str, tree: object) -> Path:
        path = tmp_path / name
        torch.save(tree, path)
        return path

    trap = tmp_path / "trap"
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a.txt", "b")
    future = torch.load(good, weights_only=True) | {"version": 2}
    lacking = torch.load(good, weights_only=True)
    del lacking["schema"]
    broken = {"weight": torch.tensor([1.0, float("nan")])}
    save_checkpoint(tmp_path / "nan.pt", replace(checkpoint(), model=broken))
    cases = {
        tmp_path / "none.pt": "no such",
        written("empty.pt", b""): "empty",
        written("cut.pt", raw[: len(raw) // 2]): "truncated or corrupt",
        written("flipped.pt", bytes(flipped)): "corrupt, wrong checksum",
        written("text.pt", b"hello"): "not a checkpoint",
        tmp_path / "zip.pt": "not a checkpoint",
        written("pickle.pt", pickle.dumps(Evil(trap))): "not a checkpoint",
        saved("evil.pt", {"format": "nde-checkpoint", "x": Evil(trap)}): "unsafe",
        saved("module.pt", torch.nn.Linear(1, 1)): "unsafe",
        saved("foreign.pt", {"state_dict": {}}): "another program",
        saved("future.pt", future): "version 2, this program reads version 1",
        saved("lacking.pt", lacking): "lacks the key 'schema'",
        tmp_path / "nan.pt": "NaN or infinite",
    }
    for path, reason in cases.items():
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path)
        assert reason in str(caught.value) and path.name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not trap.exists()


def test_run_folders(tmp_path: Path) -> None:
    run = create_run(tmp_path / "a" / "b ü")
    assert run.best.parent.is_dir() and run.plot("training").parent.is_dir()
    run.write_json("metrics.json", {"x": float("nan")})
    (run.path / "notes.md").write_text("mine")
    with pytest.raises(RunFolderError, match="--overwrite"):
        create_run(run.path)
    create_run(run.path, overwrite=True)
    assert not run.metrics.exists() and (run.path / "notes.md").exists()
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunFolderError, match="is a file"):
        check_folder(file)
    with pytest.raises(RunFolderError, match="no checkpoint"):
        find_checkpoint(run.path)
    assert find_checkpoint(file) == file
    assert free_path(tmp_path / "new") == tmp_path / "new"
    assert free_path(file) == tmp_path / "file-2"


def test_json_has_null_for_what_json_cannot_hold() -> None:
    text = to_json({"a": [float("inf"), 1.5], "b": {"c": float("nan")}})
    assert text.split() == '{ "a": [ null, 1.5 ], "b": { "c": null } }'.split()
