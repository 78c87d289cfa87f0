"""The small data set of the training tests."""

from pathlib import Path

import pytest
from visits import write_visits


@pytest.fixture(scope="session")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a table of 40 labelled series."""
    return write_visits(tmp_path_factory.mktemp("data") / "visits.csv")
