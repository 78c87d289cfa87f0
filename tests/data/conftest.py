"""Where real data may lie beside the project; tests without it are skipped."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data sets: $NDE_SHARED_DATA, else ../shared/data."""
    folder = Path(os.environ.get("NDE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set NDE_SHARED_DATA")
    return folder
