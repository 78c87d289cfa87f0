"""Where real data may lie beside the project; tests without it are skipped."""

import os
from pathlib import Path

import pytest

Patch = pytest.MonkeyPatch
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data sets: $NDE_SHARED_DATA, else ../shared/data."""
    folder = Path(os.environ.get("NDE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set NDE_SHARED_DATA")
    return folder


@pytest.fixture(autouse=True)
def data_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Patch) -> Path:
    """An empty folder for downloads and what was parsed, instead of the user's."""
    folder = tmp_path_factory.mktemp("data_dir")
    monkeypatch.setenv("NDE_DATA_DIR", str(folder))
    return folder
