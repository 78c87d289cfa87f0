"""Fixtures that every test shares: where and in which precision to compute."""

import pytest
import torch
from problems import KIND

torch.set_num_threads(1)

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="no CUDA device here"
        ),
    ),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device a numerical test must pass on."""
    return torch.device(request.param)


@pytest.fixture
def f64(device: torch.device) -> KIND:
    """Factory arguments of a double-precision tensor on the tested device."""
    return {"dtype": torch.float64, "device": device}
