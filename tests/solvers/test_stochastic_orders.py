"""Strong and weak orders of every method for SDEs, for each kind of noise.

Each method runs on several grids along one Brownian path, against another method of the
other interpretation on a grid four times finer, whose drift was converted by hand.
"""

from functools import cache

import numpy as np
import pytest
import torch
from sde_paths import Path, brownian_path, driven
from sde_problems import PROBLEMS, start
from torch import Tensor

from nde.solvers import SDE_METHODS

F64 = {"dtype": torch.float64}
PATHS, COUNTS, FINEST = 10_000, (8, 16, 32, 64), 256
# What the orders of each method are measured against, and in which interpretation.
REFERENCES = {
    ("ito", False): ("slow_rk", "stratonovich"),
    ("stratonovich", False): ("srk", "ito"),
    ("ito", True): ("log_ode", "stratonovich"),
    ("stratonovich", True): ("milstein", "ito"),
}
CASES = [
    (name, noise, interpretation)
    for name, method in SDE_METHODS.items()
    for noise in method.noises
    for interpretation in method.interpretations
]


@cache
def path(noise: str, steps: int) -> Path:
    if steps == FINEST:
        return brownian_path(FINEST, PATHS, PROBLEMS[noise].motions, seed=7)
    return path(noise, 2 * steps).joined()


@cache
def reference(noise: str, interpretation: str) -> Tensor:
    name, form = REFERENCES[interpretation, noise == "general"]
    term = PROBLEMS[noise].term(noise, form)
    return driven(SDE_METHODS[name], term, start(PATHS, **F64), path(noise, FINEST))


def strong_errors(name: str, noise: str, interpretation: str) -> list[float]:
    term, y0 = PROBLEMS[noise].term(noise, interpretation), start(PATHS, **F64)
    exact = reference(noise, interpretation)
    ends = (driven(SDE_METHODS[name], term, y0, path(noise, n)) for n in COUNTS)
    return [(end - exact).abs().mean().item() for end in ends]


def slope(counts: tuple[int, ...], errors: list[float]) -> float:
    return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.mark.parametrize(("name", "noise", "interpretation"), CASES)
def test_strong_order(name: str, noise: str, interpretation: str) -> None:
    errors = strong_errors(name, noise, interpretation)
    found = slope(COUNTS, errors)
    print(f"{name} {noise} {interpretation}: {found:.3f}  {errors}")
    assert found == pytest.approx(SDE_METHODS[name].orders[noise], abs=0.2)
