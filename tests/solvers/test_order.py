"""Convergence orders, measured on a non-autonomous nonlinear system."""

import numpy as np
import pytest
from problems import KIND, SPIRAL
from torch import Tensor

from nde.solvers import ODE_METHODS, PID, FixedSteps, ODETerm, solve
from nde.solvers.methods import SYMPLECTIC_METHODS
from nde.solvers.tableaus import EXPLICIT

ORDERS = {name: tableau.order for name, tableau in EXPLICIT.items()}
ORDERS |= {"explicit_adams": 4, "implicit_adams": 4}

# Step counts whose errors lie between the pre-asymptotic range and rounding.
COUNTS = {
    1: (64, 128, 256),
    2: (32, 64, 128),
    3: (32, 64, 128),
    4: (32, 64, 128),
    5: (32, 64, 128),
    6: (8, 12, 16),
    7: (16, 24, 32),
    8: (12, 16, 20),
    9: (6, 8, 10),
}

# They miss the conditions of the next order by 2e-6 at most, others by 8e-6 and more:
# terms so small that above rounding those after them rule, one power of h steeper.
STEEPER = {"vern6", "vern9"}


def slope(counts: tuple[int, ...], errors: list[float]) -> float:
    assert min(errors) > 1e-13, "rounding spoils the slope"
    return float(np.polyfit(np.log(1 / np.array(counts)), np.log(errors), 1)[0])


def assert_order(method: str, found: float) -> None:
    order = ORDERS[method]
    above = 1.25 if method in STEEPER else 0.15
    assert order - 0.15 <= found <= order + above


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("method", ORDERS)
def test_order_at_the_end(method: str, batch: str, f64: KIND) -> None:
    order = ORDERS[method]
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(2, **f64)
    exact = SPIRAL.solution(ts, y0)[:, -1]
    errors = []
    for count in COUNTS[order]:
        step = (SPIRAL.t1 - SPIRAL.t0) / count
        sol = solve(
            ODETerm(SPIRAL.field),
            y0,
            ts,
            method=method,
            controller=FixedSteps(step),
            batch=batch,
        )
        assert sol.stats.accepted.tolist() == [count] * len(y0)
        errors.append((sol.ys[:, -1] - exact).abs().max().item())
    assert_order(method, slope(COUNTS[order], errors))


@pytest.mark.parametrize("method", ORDERS)
def test_order_off_the_grid(method: str, f64: KIND) -> None:
    """Output times and the dense solution converge as fast as the steps do."""
    order = ORDERS[method]
    # Enough times that the largest error is met whatever the grid.
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(1001, **f64)
    between = (ts[1:] + ts[:-1]) / 2

    def largest(found: Tensor, at: Tensor) -> float:
        return (found - SPIRAL.solution(at, y0)).abs().max().item()

    saved, dense = [], []
    counts = (64, 128, 256) if order == 5 else COUNTS[order]
    for count in counts:
        step = (SPIRAL.t1 - SPIRAL.t0) / count
        sol = solve(
            ODETerm(SPIRAL.field),
            y0,
            ts,
            method=method,
            controller=FixedSteps(step),
            dense=True,
        )
        saved.append(largest(sol.ys, ts))
        dense.append(largest(sol.evaluate(between), between))
    assert_order(method, slope(counts, saved))
    assert_order(method, slope(counts, dense))


@pytest.mark.parametrize("method", ["heun_euler", "bosh3", "dopri5", "tsit5"])
def test_order_of_the_error_estimate(method: str, f64: KIND) -> None:
    """The first step's estimate falls as h to the declared error order."""
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(2, **f64)
    want = EXPLICIT[method].error_order
    counts = (8, 16, 32) if want == 5 else (32, 64, 128)
    rows = []
    for count in counts:
        step = (SPIRAL.t1 - SPIRAL.t0) / count
        sol = solve(
            ODETerm(SPIRAL.field),
            y0,
            ts,
            method=method,
            controller=FixedSteps(step, rtol=0.0, atol=1.0),
        )
        rows.append(sol.stats.error_estimate[: count // 4].amax().item())
    assert slope(counts, rows) == pytest.approx(want, abs=0.25)


@pytest.mark.parametrize("method", ["heun_euler", "bosh3", "dopri5", "tsit5"])
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_tolerance_proportionality(method: str, batch: str, f64: KIND) -> None:
    """Under the adaptive controller the error follows the tolerance down."""
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(2, **f64)
    exact = SPIRAL.solution(ts, y0)[:, -1]
    errors, steps = [], []
    for tol in (1e-4, 1e-6, 1e-8):
        if method == "heun_euler" and tol == 1e-8:
            continue
        sol = solve(
            ODETerm(SPIRAL.field),
            y0,
            ts,
            method=method,
            controller=PID(rtol=tol, atol=tol),
            batch=batch,
        )
        errors.append((sol.ys[:, -1] - exact).abs().max().item())
        steps.append(int(sol.stats.accepted.max()))
        assert errors[-1] < 30 * tol
    assert errors == sorted(errors, reverse=True)
    assert steps == sorted(steps)


def test_every_method_is_measured_here() -> None:
    """A new ODE method must enter the table this file runs over, or that of
    `test_symplectic.py`, which has a problem of pairs."""
    assert set(ORDERS) | set(SYMPLECTIC_METHODS) == set(ODE_METHODS)
