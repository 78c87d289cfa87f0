"""Strong orders of the SDE methods against pathwise exact solutions, and Brownian law.

A constant diffusion under the same seed and grid reads the Brownian motion itself off
a solve, so that the exact solution is taken along the very path the method saw.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import KIND
from torch import Tensor

from nde.solvers import BrownianGrid, FixedSteps, ODETerm, SDETerm, Solution, solve

Field = Callable[[Tensor, Tensor], Tensor]
PATHS = 5000
COUNTS = (8, 16, 32, 64, 128)


def run(
    term: SDETerm, y0: Tensor, t1: float, count: int, method: str, seed: int
) -> Solution:
    return solve(
        term,
        y0,
        torch.tensor([0.0, t1], dtype=y0.dtype, device=y0.device),
        method=method,
        controller=FixedSteps(t1 / count),
        noise=BrownianGrid(seed=seed),
    )


def brownian_end(y0: Tensor, t1: float, count: int, method: str, seed: int) -> Tensor:
    """W at t1 of the diagonal Brownian motion a solve with this seed sees."""
    interpretation = "ito" if method == "euler" else "stratonovich"
    term = SDETerm(
        lambda t, y: torch.zeros_like(y),
        lambda t, y: torch.ones_like(y),
        interpretation=interpretation,
    )
    return run(term, torch.zeros_like(y0), t1, count, method, seed).final


def strong_slope(
    term: SDETerm, exact: Callable[[Tensor], Tensor], y0: Tensor, method: str
) -> float:
    """Slope of log E|y_h(1) - y(1)| against log h, `exact` a function of W(1)."""
    errors = []
    for seed, count in enumerate(COUNTS):
        w = brownian_end(y0, 1.0, count, method, seed)
        got = run(term, y0, 1.0, count, method, seed).final
        errors.append((got - exact(w)).abs().mean().item())
    return float(np.polyfit(-np.log(COUNTS), np.log(errors), 1)[0])


def test_euler_maruyama_order_half_with_multiplicative_noise(f64: KIND) -> None:
    y0 = torch.full((PATHS, 2), 1.0, **f64)
    term = SDETerm(lambda t, y: 0.5 * y, lambda t, y: 0.8 * y)
    found = strong_slope(
        term, lambda w: torch.exp(0.5 - 0.32 + 0.8 * w), y0, method="euler"
    )
    assert found == pytest.approx(0.5, abs=0.1)


def test_euler_maruyama_order_one_with_additive_noise(f64: KIND) -> None:
    """X = (x0 + b t + a b W) / sqrt(1 + t); non-autonomous, noise free of the state."""
    y0 = torch.full((PATHS, 2), 1.0, **f64)
    term = SDETerm(
        lambda t, y: 1.0 / (1 + t) ** 0.5 - y / (2 * (1 + t)),
        lambda t, y: (0.7 / (1 + t) ** 0.5) * torch.ones_like(y),
    )
    found = strong_slope(
        term, lambda w: (2.0 + 0.7 * w) / math.sqrt(2.0), y0, method="euler"
    )
    # W enters the exact solution at t = 1 only; the increments use sigma(t_n).
    assert found == pytest.approx(1.0, abs=0.15)


def test_heun_order_one_with_diagonal_noise(f64: KIND) -> None:
    y0 = torch.full((PATHS, 2), 1.0, **f64)
    term = SDETerm(
        lambda t, y: 0.5 * y, lambda t, y: 0.8 * y, interpretation="stratonovich"
    )
    found = strong_slope(term, lambda w: torch.exp(0.5 + 0.8 * w), y0, method="heun")
    assert found == pytest.approx(1.0, abs=0.15)


def test_heun_order_one_with_a_nonlinear_diffusion(f64: KIND) -> None:
    """dX = p cos(X)^2 o dW with X = arctan(tan x0 + p W)."""
    y0 = torch.full((PATHS, 2), 0.3, **f64)
    term = SDETerm(
        lambda t, y: torch.zeros_like(y),
        lambda t, y: 0.6 * y.cos() ** 2,
        interpretation="stratonovich",
    )
    found = strong_slope(
        term, lambda w: torch.atan(math.tan(0.3) + 0.6 * w), y0, method="heun"
    )
    assert found == pytest.approx(1.0, abs=0.15)


def test_the_two_interpretations_have_their_own_limits(f64: KIND) -> None:
    """The mean of GBM: exp(a t) for Ito, exp((a + b^2/2) t) for Stratonovich."""
    y0 = torch.full((20000, 1), 1.0, **f64)
    for method, interpretation, rate in (
        ("euler", "ito", 0.3),
        ("heun", "stratonovich", 0.3 + 0.125),
    ):
        term = SDETerm(
            lambda t, y: 0.3 * y, lambda t, y: 0.5 * y, interpretation=interpretation
        )
        end = run(term, y0, 1.0, 64, method, seed=3).final
        error = end.std().item() / math.sqrt(len(end))
        assert abs(end.mean().item() - math.exp(rate)) < 4 * error + 0.01


def doubled(field: Callable[[Tensor], Tensor], of_w: float) -> Field:
    """A field of the state (x, w) whose second entry has the constant rate `of_w`."""

    def both(t: Tensor, y: Tensor) -> Tensor:
        x = field(y[:, :1])
        return torch.cat((x, torch.full_like(x, of_w)), -1)

    return both


@pytest.mark.parametrize(
    ("method", "interpretation", "order"),
    [("euler", "ito", 0.5), ("heun", "stratonovich", 1.0)],
)
def test_scalar_noise_is_one_motion_per_sample(
    method: str, interpretation: str, order: float, f64: KIND
) -> None:
    """State (x, w): w is the motion that drove x, so x(1) = exp(.. + 0.8 w)."""
    term = SDETerm(
        doubled(lambda x: 0.5 * x, 0.0),
        doubled(lambda x: 0.8 * x, 1.0),
        noise="scalar",
        interpretation=interpretation,
    )
    y0 = torch.tensor([[1.0, 0.0]], **f64).repeat(PATHS, 1)
    shift = 0.5 - (0.32 if interpretation == "ito" else 0.0)
    errors = []
    for seed, count in enumerate(COUNTS):
        end = run(term, y0, 1.0, count, method, seed).final
        errors.append((end[:, 0] - torch.exp(shift + 0.8 * end[:, 1])).abs().mean())
    found = np.polyfit(-np.log(COUNTS), np.log([e.item() for e in errors]), 1)[0]
    assert found == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(
    ("method", "interpretation"), [("euler", "ito"), ("heun", "stratonovich")]
)
def test_additive_noise_mixes_by_its_matrix(
    method: str, interpretation: str, f64: KIND
) -> None:
    """Zero drift and a constant matrix G: y(1) - y(0) = G W, covariance G G^T."""
    matrix = torch.tensor([[1.0, 0.0], [0.5, -0.7], [0.2, 0.4]], **f64)
    term = SDETerm(
        lambda t, y: torch.zeros_like(y),
        lambda t, y: matrix.expand(y.shape[0], 3, 2),
        noise="additive",
        noise_dim=2,
        interpretation=interpretation,
    )
    y0 = torch.zeros(20000, 3, **f64)
    end = run(term, y0, 1.0, 4, method, seed=5).final
    torch.testing.assert_close(
        end.T.cov(), matrix @ matrix.T, atol=0.03, rtol=0, check_stride=False
    )
    # Two motions only: the third entry is a fixed combination of the others.
    w = torch.linalg.solve(matrix[:2], end[:, :2].T)
    torch.testing.assert_close(matrix[2] @ w, end[:, 2])


def test_additive_noise_order_one(f64: KIND) -> None:
    """dX = -X dt + dW against the path's own integral on a grid 64 times finer."""
    y0 = torch.zeros(PATHS, 2, **f64)
    term = SDETerm(
        lambda t, y: torch.cat((-y[:, :1], torch.zeros_like(y[:, :1])), -1),
        lambda t, y: torch.ones(y.shape[0], 2, 1, dtype=y.dtype, device=y.device),
        noise="additive",
        noise_dim=1,
    )
    # X(1) = W(1) - int e^{s-1} W(s) ds; given the grid values of W (second entry),
    # the trapezoidal rule and the bridge's law leave an O(h^1.5) remainder.
    errors = []
    for seed, count in enumerate(COUNTS):
        ts = torch.linspace(0, 1, count + 1, **f64)
        sol = solve(
            term,
            y0,
            ts,
            method="euler",
            controller=FixedSteps(1 / count),
            noise=BrownianGrid(seed=seed),
        )
        w = sol.ys[..., 1]
        exact = w[:, -1] - torch.trapezoid(torch.exp(ts - 1) * w, ts, dim=1)
        errors.append((sol.final[:, 0] - exact).abs().mean().item())
    found = np.polyfit(-np.log(COUNTS), np.log(errors), 1)[0]
    assert found == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_same_seed_same_path(method: str, f64: KIND) -> None:
    y0 = torch.zeros(6, 3, **f64)
    first = brownian_end(y0, 2.0, 10, method, seed=11)
    torch.manual_seed(99)
    second = brownian_end(y0, 2.0, 10, method, seed=11)
    other = brownian_end(y0, 2.0, 10, method, seed=12)
    assert torch.equal(first, second)
    assert not torch.isclose(first, other).any()


def test_the_default_noise_follows_the_global_seed(f64: KIND) -> None:
    y0 = torch.zeros(6, 3, **f64)
    term = SDETerm(lambda t, y: -y, lambda t, y: torch.ones_like(y))

    def end() -> Tensor:
        return solve(
            term,
            y0,
            torch.tensor([0.0, 1.0], **f64),
            method="euler",
            controller=FixedSteps(0.1),
        ).final

    torch.manual_seed(4)
    first, second = end(), end()
    torch.manual_seed(4)
    assert torch.equal(first, end())
    assert not torch.isclose(first, second).any()


def test_a_given_seed_leaves_the_global_generator_alone(f64: KIND) -> None:
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    brownian_end(torch.zeros(2, 2, **f64), 1.0, 4, "euler", seed=1)
    assert torch.equal(torch.rand(3), want)


def test_brownian_law(f64: KIND) -> None:
    """Increments are N(0, dt), independent over time, samples and entries."""
    y0 = torch.zeros(4000, 3, **f64)
    term = SDETerm(lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y))
    ts = torch.tensor([0.0, 0.1, 0.5, 0.6, 2.0], **f64)
    sol = solve(
        term,
        y0,
        ts,
        method="euler",
        controller=FixedSteps(0.05),
        noise=BrownianGrid(seed=8),
    )
    dw = sol.ys.diff(dim=1) / ts.diff().sqrt()[:, None]  # (4000, 4, 3)
    columns = dw.reshape(4000, 12)
    torch.testing.assert_close(columns.T.cov(), torch.eye(12, **f64), atol=0.08, rtol=0)
    assert columns.mean(0).abs().max() < 5 / math.sqrt(4000)
    # Kolmogorov-Smirnov distance of all 48,000 numbers from the normal law.
    values = columns.flatten().sort().values
    normal = 0.5 * (1 + torch.erf(values / math.sqrt(2)))
    ranks = torch.arange(1, len(values) + 1, **f64) / len(values)
    assert (normal - ranks).abs().max() < 1.95 / math.sqrt(len(values))
    # Neighbouring samples share nothing.
    assert (columns[:-1] * columns[1:]).mean(0).abs().max() < 5 / math.sqrt(4000)


def test_paths_land_on_every_output(f64: KIND) -> None:
    """Each output interval is cut into equal steps no longer than the step."""
    y0 = torch.zeros(2, 1, **f64)
    term = SDETerm(lambda t, y: torch.ones_like(y), lambda t, y: torch.zeros_like(y))
    ts = torch.tensor([0.0, 0.25, 0.3, 1.0], **f64)
    sol = solve(term, y0, ts, method="euler", controller=FixedSteps(0.1))
    torch.testing.assert_close(sol.ys[0, :, 0], ts)
    assert sol.stats.accepted.tolist() == [3 + 1 + 7] * 2
    steps = sol.stats.step[sol.stats.valid[:, 0], 0]
    want = [0.25 / 3] * 3 + [0.05] + [0.1] * 7
    torch.testing.assert_close(steps, torch.tensor(want, **f64))


def test_per_sample_output_times(f64: KIND) -> None:
    y0 = torch.zeros(2, 1, **f64)
    term = SDETerm(
        lambda t, y: t.reshape(-1, 1) * torch.ones_like(y),
        lambda t, y: torch.zeros_like(y),
        interpretation="stratonovich",
    )
    ts = torch.tensor([[0.0, 0.4, 1.0], [0.5, 0.75, 3.0]], **f64)
    sol = solve(term, y0, ts, method="heun", controller=FixedSteps(0.1))
    want = (ts**2 - ts[:, :1] ** 2) / 2
    torch.testing.assert_close(sol.ys[..., 0], want)


def test_a_constant_diffusion_makes_both_methods_agree_with_ode(f64: KIND) -> None:
    """With zero noise Heun is the ODE's Heun method, to rounding."""
    y0 = torch.tensor([[0.3, -0.2]], **f64)
    ts = torch.tensor([0.0, 1.0], **f64)

    def drift(t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(y) + t.reshape(-1, 1)

    term = SDETerm(
        drift, lambda t, y: torch.zeros_like(y), interpretation="stratonovich"
    )
    step = FixedSteps(0.125)
    stochastic = solve(term, y0, ts, method="heun", controller=step).final
    plain = solve(ODETerm(drift), y0, ts, method="heun", controller=step).final
    torch.testing.assert_close(stochastic, plain)


def test_heun_error_estimate_is_half_the_corrector_difference(f64: KIND) -> None:
    y0 = torch.tensor([[0.4, -0.3], [1.0, 0.1]], **f64)
    term = SDETerm(
        lambda t, y: -(y**3), lambda t, y: 0.3 * y, interpretation="stratonovich"
    )
    sol = solve(
        term,
        y0,
        torch.tensor([0.0, 0.1], **f64),
        method="heun",
        controller=FixedSteps(0.1, rtol=1e-2, atol=1e-3),
        noise=BrownianGrid(seed=2),
    )
    w = brownian_end(y0, 0.1, 1, "heun", seed=2)
    predicted = y0 - 0.1 * y0**3 + 0.3 * y0 * w
    error = 0.5 * (0.1 * (-(predicted**3) + y0**3) + 0.3 * (predicted - y0) * w)
    y1 = predicted + error
    torch.testing.assert_close(sol.final, y1)
    scale = 1e-3 + 1e-2 * torch.maximum(y0.abs(), y1.abs())
    want = (error / scale).square().mean(-1).sqrt()
    torch.testing.assert_close(sol.stats.error_estimate[0], want)
