"""More of what theory says about the stable SDEs: laws, dimension, zero, orders."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from fine_path import FinePath, fine_increments
from models.series import (
    Constant,
    Flat,
    Matrix,
    Pull,
    constant_path,
    random_path,
)
from problems import KIND, normal
from torch import Tensor, nn

from nde.models import GeometricSDE, LangevinSDE, LinearNoiseSDE, SolverSettings
from nde.solvers import BrownianGrid, FixedSteps, SDETerm, solve
from nde.solvers.control import HermiteCubic


def final(
    term: SDETerm, z0: Tensor, end: float, step: float, method: str, seed: int = 3
) -> Tensor:
    out: Tensor = solve(
        term,
        z0,
        z0.new_tensor([0.0, end]),
        method=method,
        controller=FixedSteps(step),
        noise=BrownianGrid(seed),
    ).final
    return out


def proportional(rate: float, size: float) -> LinearNoiseSDE:
    layer = LinearNoiseSDE(1, 1)
    layer.gamma, layer.sigma = Pull(rate), Constant(size, 1)
    return layer


def test_the_median_shrinks_and_the_mean_does_not(device: torch.device) -> None:
    """a = .5, sigma = 1.5, T = 4: median e^-2.5 = .0821, mean e^2 = 7.39.

    The p-th moment is exp(p (a - s^2 / 2) T + p^2 s^2 T / 2): .882 for p = 1/2, .709
    for p = 1/4. The mean itself is out of reach of a sample (its standard error is 90
    times the mean, over the root of the sample's size): see the next test.
    """
    z0 = torch.ones(40000, 1, device=device)
    layer = proportional(0.5, 1.5)
    # (1 + a h)^n in place of e^{aT}: 0.5 % less.
    term = layer.term(constant_path(z0, 4.0))
    ratio = final(term, z0, 4.0, 0.02, "linear_splitting").abs()
    # Four standard errors of the median of a normal law of deviation 3.
    error = 4 * 1.2533 * 3 / math.sqrt(len(z0))
    assert ratio.median().log().item() == pytest.approx(-2.5, abs=error + 0.01)
    for p, want in ((0.25, 0.709), (0.5, 0.882)):
        moment = ratio**p
        error = 4 * moment.std().item() / math.sqrt(len(z0))
        assert moment.mean().item() == pytest.approx(want, abs=error + 0.01)


def test_the_mean_distance_does_not_see_the_noise(device: torch.device) -> None:
    """E |D_T| = |D_0| e^{aT} for every sigma, and so is the distance W1 of two laws.

    For one-dimensional laws W1 is the mean distance of the sorted samples.
    """
    means, medians = [], []
    for size in (0.2, 0.8):
        z0 = torch.ones(40000, 1, device=device)
        term = proportional(0.5, size).term(constant_path(z0, 1.0))
        one = final(term, z0, 1.0, 0.01, "linear_splitting", seed=1)
        other = final(term, 2.0 * z0, 1.0, 0.01, "linear_splitting", seed=2)
        means.append(one.mean().item())
        medians.append(one.median().item())
        error = 4 * one.std().item() / math.sqrt(len(z0))
        assert means[-1] == pytest.approx(math.exp(0.5), abs=error + 0.003)
        w1 = (other.sort(0).values - one.sort(0).values).abs().mean().item()
        # Two independent samples, one of them twice as wide.
        assert w1 == pytest.approx(math.exp(0.5), abs=2.3 * error + 0.003)
    assert medians[0] - medians[1] > 0.3


@pytest.mark.parametrize(
    ("hidden", "diagonal", "scalar"),
    [(2, -0.23, -0.64), (8, 0.16, -0.67), (32, 0.34, -0.70)],
)
def test_a_motion_per_dimension_loses_the_damping(
    hidden: int, diagonal: float, scalar: float, f64: KIND
) -> None:
    """Drift .5 11' / d, sigma = 1.5, T = 40: scalar noise stays below -.625.

    Exponents of log |z_T / z_0| / T with their start-up, simulated elsewhere.
    """
    matrix = torch.full((hidden, hidden), 0.5 / hidden, **f64)
    z0 = normal((300, hidden), hidden, **f64)
    found = {}
    for noise, want in (("diagonal", diagonal), ("scalar", scalar)):
        layer = LinearNoiseSDE(1, hidden, noise=noise)  # type: ignore[arg-type]
        layer.gamma = Matrix(matrix)
        layer.sigma = Constant(1.5, 1 if noise == "scalar" else hidden)
        term = layer.term(constant_path(z0[:, :1], 40.0))
        z = final(term, z0, 40.0, 0.02, "linear_splitting")
        rates = (z.norm(dim=1) / z0.norm(dim=1)).log() / 40.0
        error = 4 * rates.std().item() / math.sqrt(len(rates))
        found[noise] = rates.mean().item()
        assert found[noise] == pytest.approx(want, abs=error + 0.02)
    assert found["scalar"] < -0.55 < found["diagonal"]


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize(
    ("rate", "size", "step"),
    [(0.0, 1.0, 1.0), (0.0, 0.5, 1.0), (1.0, 1.0, 1.0), (-0.5, 1.2, 0.5)],
)
def test_plain_euler_flips_signs_with_the_normal_law(
    rate: float, size: float, step: float, device: torch.device
) -> None:
    """Phi(-(1 + gamma h) / (sigma sqrt h)) per step; the logarithm never flips."""
    layer = GeometricSDE(1, 1)
    layer.gamma, layer.sigma = Flat(rate), Constant(size, 1)
    z0 = torch.ones(60000, 1, device=device)
    path = constant_path(z0, step)
    z = final(layer.term(path), z0, step, step, "euler")
    want = phi(-(1 + rate * step) / (size * math.sqrt(step)))
    error = 4 * math.sqrt(want * (1 - want) / len(z0))
    assert (z < 0).float().mean().item() == pytest.approx(want, abs=error)
    u = final(layer.log_term(path, z0), z0.log(), step, step, "euler")
    assert bool((u.exp() > 0).all())


def test_the_flips_of_short_steps_are_too_rare_to_see() -> None:
    """sigma = 1: 1e-12 at a step of 1/49, 4e-6 at .05, .16 at 1; half of it, .023."""
    assert phi(-math.sqrt(49)) == pytest.approx(1.3e-12, rel=0.05)
    assert phi(-math.sqrt(20)) == pytest.approx(3.9e-6, rel=0.02)
    assert phi(-1.0) == pytest.approx(0.1587, abs=1e-4)
    assert phi(-2.0) == pytest.approx(0.0228, abs=1e-4)


def test_the_runtime_form_loses_signs_over_a_long_clock(f64: KIND) -> None:
    """None by T = 1 in 49 steps, some by 72 steps of length one; paper: none.

    In double precision and with a sigma at rest: exp(u) is zero in single below
    u = -103, and a network of raw time is large at t = 72, where -sigma^2 / 2 drives u
    below what double precision has.
    """
    lost = {}
    for form in ("runtime", "paper"):
        torch.manual_seed(0)
        layer = GeometricSDE(2, 16, form=form).to(**f64)  # type: ignore[arg-type]
        if form == "paper":
            layer.sigma = Constant(1.0, 16)
        with torch.no_grad():
            layer.initial.bias.fill_(2.0)
            for end, step in ((1.0, 1 / 49), (72.0, 1.0)):
                layer.solver = SolverSettings(step=step).for_sde()
                path = constant_path(torch.zeros(200, 2, **f64), end)
                ts = torch.tensor([0.0, end], **f64)
                z = layer(path, ts, seed=0).final
                lost[form, end] = (z <= 0).float().mean().item()
    assert lost["runtime", 1.0] == 0 and lost["runtime", 72.0] > 0.002
    assert lost["paper", 1.0] == 0 and lost["paper", 72.0] == 0


@pytest.mark.parametrize("method", ["euler", "linear_splitting"])
def test_zero_absorbs_in_a_solve(method: str, f64: KIND) -> None:
    """z = 0 stays exactly, in a state whose other entries move; linear noise leaves."""
    torch.manual_seed(0)
    z0 = torch.tensor([[0.0, 1.0, 0.0]], **f64).repeat(20, 1)
    path = random_path(20, 2, device=z0.device)
    geometric = GeometricSDE(2, 3).to(**f64)
    with torch.no_grad():
        z = final(geometric.term(path), z0, 1.0, 0.1, method)
        assert torch.equal(z[:, ::2], torch.zeros_like(z[:, ::2]))
        assert bool((z[:, 1] != 1.0).all())
        linear = LinearNoiseSDE(2, 3).to(**f64)
        z = final(linear.term(path), z0, 1.0, 0.1, method)
    assert bool((z[:, ::2] != 0.0).all())


class Driven(nn.Module):
    """-2 z + tanh(B x): one-sided Lipschitz -2 in z, and at most |B| in x."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return -2.0 * z + torch.tanh(x @ self.matrix.T)


def thinned(values: Tensor, share: float) -> HermiteCubic:
    """The path through what is left of 41 values when a share of each is hidden."""
    generator = torch.Generator().manual_seed(int(100 * share))
    times = torch.linspace(0, 1, 41, dtype=torch.float64, device=values.device)
    hidden = torch.rand(values.shape, generator=generator).to(values.device) < share
    return HermiteCubic(times, values.masked_fill(hidden, math.nan))


@pytest.mark.parametrize("kind", [LangevinSDE, LinearNoiseSDE])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_hidden_observations_move_the_state_within_the_bound(
    kind: Any, share: float, f64: KIND
) -> None:
    """|D| <= (1 - 2 h) |D| + h L |X - X'| in every step of Euler.

    For additive noise and each pair; for scalar linear noise on average, since |D| then
    has this drift and a martingale of mean zero.
    """
    scalar = {"noise": "scalar"} if kind is LinearNoiseSDE else {}
    torch.manual_seed(1)
    layer = kind(3, 3, solver=SolverSettings(step=0.02, method="euler"), **scalar)
    layer = layer.to(**f64)
    matrix = torch.randn(3, 3, **f64)
    layer.gamma = Driven(matrix)
    layer.sigma = Constant(0.5, 1 if scalar else 3)
    values = torch.randn(400, 41, 3, **f64).cumsum(1) / 6
    whole, gaps = thinned(values, 0.0), thinned(values, share)
    ts = torch.tensor([0.0, 1.0], **f64)
    grid = torch.linspace(0, 1, 51, **f64)
    with torch.no_grad():
        one, other = (layer(path, ts, seed=6) for path in (whole, gaps))
        first = (one.ys[:, 0] - other.ys[:, 0]).norm(dim=1)
        moved = (one.final - other.final).norm(dim=1)
        apart = torch.stack(
            [(whole.evaluate(t) - gaps.evaluate(t)).norm(dim=1) for t in grid]
        )
    bound = first
    for distance in apart[:-1]:
        bound = 0.96 * bound + 0.02 * torch.linalg.matrix_norm(matrix, 2) * distance
    assert moved.min() > 0
    if kind is LangevinSDE:
        assert bool((moved <= bound).all())
        # And is no bound without content.
        assert moved.mean() > 0.05 * bound.mean()
    else:
        error = 4 * moved.std() / math.sqrt(len(moved))
        assert moved.mean() + error < bound.mean()


class Waving(nn.Module):
    """A noise size that moves: 0.7 + 0.5 sin 4 t."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, t: Tensor) -> Tensor:
        size = 0.7 + 0.5 * torch.sin(4 * t)
        return size.unsqueeze(-1).expand(*t.shape, self.outputs)


FINE, COUNTS = 2048, (8, 16, 32, 64)


@pytest.mark.parametrize(
    ("kind", "method", "order"),
    [
        (LangevinSDE, "euler", 1.0),
        (LinearNoiseSDE, "euler", 0.5),
        (LinearNoiseSDE, "linear_splitting", 1.0),
        (GeometricSDE, "euler", 1.0),
    ],
)
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_strong_order(
    kind: Any, method: str, order: float, noise: str, f64: KIND
) -> None:
    """Along one path of W, with a network for the drift and a sigma that moves."""
    torch.manual_seed(0)
    layer = kind(2, 3, noise=noise).to(**f64)
    with torch.no_grad():
        for parameter in layer.gamma.parameters():
            parameter.mul_(2.0)
    m = 1 if noise == "scalar" else 3
    layer.sigma = Waving(m if kind is not LangevinSDE else 3)
    path = random_path(1, 2, device=torch.device("cpu"))
    batch = 600
    values = path.values.expand(batch, -1, -1)
    path = HermiteCubic(path.times.to(f64["device"]), values.to(f64["device"]))
    start = torch.tensor([[1.0, -0.5, 0.7]], **f64).repeat(batch, 1)
    fine = fine_increments(FINE, batch, m, seed=2, **f64)
    if kind is GeometricSDE:
        term, start = layer.log_term(path, start.sign()), start.abs().log()
    else:
        term = layer.term(path)

    def end(count: int) -> Tensor:
        out: Tensor = solve(
            term,
            start,
            torch.tensor([0.0, 1.0], **f64),
            method=method,
            controller=FixedSteps(1 / count),
            noise=FinePath(fine),
        ).final
        return out

    with torch.no_grad():
        limit = end(FINE)
        errors = [(end(count) - limit).abs().mean().item() for count in COUNTS]
    found = -np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]
    assert found == pytest.approx(order, abs=0.12)
