"""What theory says about the stable SDEs, checked on solved layers.

The constants are from closed forms, or from simulations made with another program.
"""

import math

import pytest
import torch
from models.series import Constant, Flat, Pull, constant_path, random_path
from torch import Tensor

from nde.models import GeometricSDE, LangevinSDE, LinearNoiseSDE, SolverSettings
from nde.solvers import BrownianGrid, FixedSteps, solve

Stable = type[LangevinSDE] | type[LinearNoiseSDE] | type[GeometricSDE]


def starting_at(
    layer: LangevinSDE | LinearNoiseSDE | GeometricSDE,
    z0: Tensor,
    end: float,
    **to: int,
) -> Tensor:
    """Final state of a layer whose initial map is the identity."""
    with torch.no_grad():
        layer.initial.weight.copy_(torch.eye(layer.hidden))
        layer.initial.bias.zero_()
        ts = torch.tensor([0.0, end], dtype=z0.dtype, device=z0.device)
        final: Tensor = layer(constant_path(z0, end), ts, **to).final
    return final


def test_langevin_distances_follow_an_ode(device: torch.device) -> None:
    """Two solutions under one W: |D_T| = |D_0| (1 - a dt)^n under Euler, no noise."""
    a, end, steps = 1.3, 2.0, 40
    layer = LangevinSDE(3, 3, solver=SolverSettings(step=end / steps))
    layer.gamma = Pull(-a)
    layer = layer.double().to(device)
    first = torch.randn(5, 3, dtype=torch.float64, device=device)
    second = torch.randn_like(first)
    distance = starting_at(layer, first, end, seed=4) - starting_at(
        layer, second, end, seed=4
    )
    shrunk = (first - second) * (1 - a * end / steps) ** steps
    torch.testing.assert_close(distance, shrunk, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("step", "variance"), [(0.5, 0.6667), (0.1, 0.5263), (0.02, 0.5051)]
)
def test_langevin_ornstein_uhlenbeck_variance(
    step: float, variance: float, device: torch.device
) -> None:
    """a = sigma = 1: Euler's stationary variance is (1/2) / (1 - dt/2)."""
    layer = LangevinSDE(1, 1, solver=SolverSettings(step=step))
    layer.gamma, layer.sigma = Pull(-1.0), Constant(1.0, 1)
    final = starting_at(layer.to(device), torch.zeros(40000, 1, device=device), 8.0)
    assert final.var().item() == pytest.approx(variance, rel=0.03)


def rate(
    layer: LinearNoiseSDE | GeometricSDE, batch: int, device: torch.device
) -> float:
    """Mean of log|z_T / z_0| / T at T = 4."""
    z0 = torch.ones(batch, 1, device=device)
    final = starting_at(layer.to(device), z0, 4.0, seed=11)
    return final.abs().log().mean().item() / 4.0


@pytest.mark.parametrize(
    ("method", "step", "exponent"),
    [
        ("euler", 0.01, -0.637),
        ("euler", 0.05, -0.867),
        ("euler", 0.25, -0.474),
        ("euler", 1.0, 0.197),
        ("heun", 0.01, -0.625),
        ("linear_splitting", 0.01, -0.625),
        ("linear_splitting", 1.0, -0.720),
    ],
)
def test_linear_noise_stabilises_at_small_steps(
    method: str, step: float, exponent: float, device: torch.device
) -> None:
    """a = 1/2, sigma = 3/2: exponent a - sigma^2/2 = -0.625, biased by Euler's step.

    By that of the splitting only as far as log(1 + a h) / h falls short of a.
    """
    layer = LinearNoiseSDE(1, 1, solver=SolverSettings(method=method, step=step))
    layer.gamma, layer.sigma = Pull(0.5), Constant(1.5, 1)
    assert rate(layer, 20000, device) == pytest.approx(exponent, abs=0.03)


def test_linear_noise_distances_are_a_geometric_motion(device: torch.device) -> None:
    """D_T / D_0 under one W is z_T / z_0, sample by sample."""
    layer = LinearNoiseSDE(2, 2, solver=SolverSettings(step=0.05))
    layer.gamma = Pull(0.5)
    layer = layer.double().to(device)
    x = torch.randn(6, 2, dtype=torch.float64, device=device)
    y = torch.randn_like(x)
    at = [starting_at(layer, z, 1.0, seed=2) for z in (x, y, x - y)]
    torch.testing.assert_close(at[0] - at[1], at[2])
    torch.testing.assert_close(at[0] / x, at[1] / y)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_geometric_exponent_is_exact_at_a_step_of_one(
    method: str, device: torch.device
) -> None:
    """No bias in log space, where the plain scheme gets even the sign wrong."""
    layer = GeometricSDE(1, 1, solver=SolverSettings(method=method, step=1.0))
    layer.gamma, layer.sigma = Flat(0.5), Constant(1.5, 1)
    assert rate(layer, 60000, device) == pytest.approx(-0.625, abs=0.01)


def test_geometric_sign_is_kept_exactly(device: torch.device) -> None:
    layer = GeometricSDE(4, 4, solver=SolverSettings(step=1.0)).to(device)
    layer.sigma = Constant(1.0, 4)
    z0 = torch.randn(3000, 4, device=device)
    final = starting_at(layer, z0, 5.0)
    assert torch.equal(final < 0, z0 < 0)
    assert bool((final != 0).all())


@pytest.mark.parametrize(("sigma", "flipped"), [(1.0, 0.1587), (0.5, 0.0228)])
def test_geometric_plain_euler_flips_signs(
    sigma: float, flipped: float, device: torch.device
) -> None:
    """One step of length 1 flips the sign with probability Phi(-1 / sigma)."""
    layer = GeometricSDE(1, 1).to(device)
    layer.gamma, layer.sigma = Flat(0.0), Constant(sigma, 1)
    z0 = torch.ones(40000, 1, device=device)
    sol = solve(
        layer.term(constant_path(z0, 1.0)),
        z0,
        torch.tensor([0.0, 1.0], device=device),
        method="euler",
        controller=FixedSteps(1.0),
        noise=BrownianGrid(seed=3),
    )
    assert (sol.final < 0).float().mean().item() == pytest.approx(flipped, abs=0.006)


def test_geometric_start_is_kept_away_from_zero(device: torch.device) -> None:
    layer = GeometricSDE(2, 2).to(device)
    z0 = torch.tensor([[0.0, -1e-7]], device=device)
    with torch.no_grad():
        layer.initial.weight.copy_(torch.eye(2))
        layer.initial.bias.zero_()
        ts = torch.tensor([0.0, 1.0], device=device)
        ys = layer(constant_path(z0, 1.0), ts).ys
    torch.testing.assert_close(ys[:, 0], torch.tensor([[1e-4, -1e-4]], device=device))


def test_log_and_plain_geometric_equations_agree(device: torch.device) -> None:
    """The transformed equation is the same process: same path in the limit."""
    torch.manual_seed(0)
    layer = GeometricSDE(2, 3, solver=SolverSettings(step=0.001)).double().to(device)
    layer.sigma = Constant(0.8, 3)
    path = random_path(64, 2, device=device)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    with torch.no_grad():
        out = layer(path, ts, seed=1)
        plain = solve(
            layer.term(path),
            out.ys[:, 0],
            ts,
            method="euler",
            controller=FixedSteps(0.001),
            noise=BrownianGrid(seed=1),
        )
    size = out.final.abs().mean()
    assert (out.final - plain.final).abs().mean() < 0.03 * size


T0, T1 = torch.tensor(0.1), torch.tensor(0.9)


def some_state(layer: LangevinSDE | LinearNoiseSDE | GeometricSDE) -> Tensor:
    return torch.randn(7, layer.hidden)


@pytest.mark.parametrize("form", ["paper", "runtime"])
def test_langevin_drift_has_no_time_and_noise_no_state(form: str) -> None:
    layer = LangevinSDE(3, 4, form=form)  # type: ignore[arg-type]
    z, x = some_state(layer), torch.randn(7, 3)
    assert torch.equal(layer.drift(T0, z, x), layer.drift(T1, z, x))
    assert torch.equal(layer.diffusion(T0, z), layer.diffusion(T0, 5 * z + 1))
    assert not torch.equal(layer.diffusion(T0, z), layer.diffusion(T1, z))


@pytest.mark.parametrize("kind", [LinearNoiseSDE, GeometricSDE])
def test_timed_drifts_do_see_time(kind: Stable) -> None:
    layer = kind(3, 4)
    z, x = some_state(layer), torch.randn(7, 3)
    assert not torch.equal(layer.drift(T0, z, x), layer.drift(T1, z, x))


@pytest.mark.parametrize("kind", [LinearNoiseSDE, GeometricSDE])
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_proportional_noise_in_the_paper_form_only(kind: Stable, noise: str) -> None:
    z = torch.randn(7, 4)
    paper = kind(3, 4, noise=noise)  # type: ignore[arg-type]
    torch.testing.assert_close(paper.diffusion(T0, -3 * z), -3 * paper.diffusion(T0, z))
    torch.manual_seed(0)
    runtime = kind(3, 4, form="runtime", noise=noise)  # type: ignore[arg-type]
    bent = runtime.diffusion(T0, -30 * z) + 30 * runtime.diffusion(T0, z)
    assert bent.abs().max() > 0.1
    assert runtime.diffusion(T0, 100 * z).abs().max() <= 1


def test_zero_absorbs_where_it_should() -> None:
    zero, x = torch.zeros(7, 4), torch.randn(7, 3)
    for layer in (
        GeometricSDE(3, 4),
        GeometricSDE(3, 4, form="runtime"),
    ):
        assert layer.drift(T0, zero, x).abs().max() == 0
        assert layer.diffusion(T0, zero).abs().max() == 0
    linear = LinearNoiseSDE(3, 4)
    assert linear.diffusion(T0, zero).abs().max() == 0
    assert linear.drift(T0, zero, x).abs().min() > 0


def test_first_release_of_the_geometric_drift_leaves_zero() -> None:
    """f(t, 0) = tanh(r / 2), r being the network's output: artanh doubles back."""
    layer = GeometricSDE(3, 4, form="runtime", gsde_drift="one_minus_sigmoid")
    twin = LinearNoiseSDE(3, 4, form="runtime")
    twin.gamma.load_state_dict(layer.gamma.state_dict())
    zero, x = torch.zeros(7, 4), torch.randn(7, 3)
    r = torch.atanh(twin.drift(T0, zero, x))
    torch.testing.assert_close(layer.drift(T0, zero, x), torch.tanh(r / 2))
    assert layer.diffusion(T0, zero).abs().max() == 0


@pytest.mark.parametrize("end", [1.0, 4.0])
def test_runtime_states_stay_within_reach(end: float, device: torch.device) -> None:
    """|f|, |g| < 1 give E (z_i(T) - z_i(0))^2 <= 2 (T^2 + T)."""
    layer = LinearNoiseSDE(2, 2, form="runtime").to(device)
    with torch.no_grad():
        for parameter in layer.gamma.parameters():
            parameter.mul_(20)
    z0 = torch.randn(2000, 2, device=device)
    moved = starting_at(layer, z0, end) - z0
    assert moved.square().mean(0).max() <= 2 * (end**2 + end)
    assert math.isfinite(moved.abs().max().item())
