"""Orders of every method for SDEs: strong, and of the error estimate.

Each method runs on several grids along one Brownian path, against another method of the
other interpretation on a grid four times finer, whose drift was converted by hand.
"""

from functools import cache

import numpy as np
import pytest
import torch
from sde_paths import Path, bound, brownian_path, driven, one_step
from sde_problems import PROBLEMS, start
from torch import Tensor

from nde.solvers import SDE_METHODS, BrownianGrid

F64 = {"dtype": torch.float64}
AREA = (torch.float64, "area")
PATHS, COUNTS, FINEST = 10_000, (8, 16, 32, 64), 256
# What the orders of each method are measured against, and in which interpretation.
REFERENCES = {
    ("ito", False): ("slow_rk", "stratonovich"),
    ("stratonovich", False): ("srk", "ito"),
    ("ito", True): ("log_ode", "stratonovich"),
    ("stratonovich", True): ("milstein", "ito"),
}
# The splitting is for noise that is linear in the state, and tested beside it.
CASES = [
    (name, noise, interpretation)
    for name, method in SDE_METHODS.items()
    for noise in method.noises
    for interpretation in method.interpretations
    if name != "linear_splitting"
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
    assert found == pytest.approx(SDE_METHODS[name].orders[noise], abs=0.2)


def estimate(name: str, noise: str, interpretation: str, h: float) -> float:
    """Mean size of the error estimate of one step."""
    problem, y = PROBLEMS[noise], start(2000, **F64)
    lengths = torch.full((1,), h, **F64)
    drawn = BrownianGrid(3).increments(lengths, (2000, problem.motions), *AREA)
    step = Path(h, drawn).increment(0)
    term = bound(problem.term(noise, interpretation), y)
    sizes = []
    # The directions in which some look for errors depend on the time.
    for t in (0.3 + 0.01 * k for k in range(12)):
        error = one_step(SDE_METHODS[name], term, y, t, step).error
        assert error is not None
        sizes.append(error.abs().mean().item())
    return sum(sizes) / len(sizes)


@pytest.mark.parametrize(("name", "noise", "interpretation"), CASES)
def test_error_estimate_order(name: str, noise: str, interpretation: str) -> None:
    """As declared where noise commutes; at least 1.5 without noise in the state."""
    order, counts = SDE_METHODS[name].error_order, (32, 64, 128, 256, 512)
    if order is None:
        pytest.skip("it has no estimate")
    if noise == "general":
        order = 1.0
    if noise == "additive":
        order = 1.5
    errors = [estimate(name, noise, interpretation, 1.0 / n) for n in counts]
    assert slope(counts, errors) == pytest.approx(order, abs=0.1)
