"""The splitting of linear noise: its order, what it takes exactly, what it refuses."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from fine_path import FinePath, fine_increments
from problems import KIND, column
from torch import Tensor

from nde.solvers import (
    SDE_METHODS,
    BrownianGrid,
    Direct,
    FixedSteps,
    Recompute,
    SDETerm,
    solve,
)
from nde.solvers.term import Interpretation, Noise

Field = Callable[[Tensor, Tensor], Tensor]
PATHS = 1500
FINE = 2048
COUNTS = (8, 16, 32, 64)
METHOD = "linear_splitting"


def on_path(fine: Tensor, term: SDETerm, y0: Tensor, method: str, count: int) -> Tensor:
    end: Tensor = solve(
        term,
        y0,
        y0.new_tensor([0.0, 1.0]),
        method=method,
        controller=FixedSteps(1 / count),
        noise=FinePath(fine),
    ).final
    return end


def bent_drift(t: Tensor, y: Tensor) -> Tensor:
    """Not linear, coupled, moving; it does not commute with the noise."""
    return torch.sin(3 * column(t)) + torch.cos(2 * y.flip(-1)) - 0.5 * y


def moving_noise(t: Tensor, y: Tensor) -> Tensor:
    return (0.6 + 0.5 * torch.sin(4 * column(t))) * y


def stratonovich(term: SDETerm) -> SDETerm:
    """The same process: the drift of `bent_drift` less g (dg/dy) / 2."""
    if term.interpretation == "stratonovich":
        return term

    def less(t: Tensor, y: Tensor) -> Tensor:
        size = moving_noise(t, torch.ones_like(y))
        return bent_drift(t, y) - 0.5 * size**2 * y

    return SDETerm(less, moving_noise, noise=term.noise, interpretation="stratonovich")


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
@pytest.mark.parametrize("interpretation", ["ito", "stratonovich"])
def test_strong_order_one_without_commuting(
    noise: Noise, interpretation: Interpretation, f64: KIND
) -> None:
    m = 2 if noise == "diagonal" else 1
    fine = fine_increments(FINE, PATHS, m, seed=1, **f64)
    term = SDETerm(bent_drift, moving_noise, noise=noise, interpretation=interpretation)
    y0 = torch.tensor([[1.0, -0.5]], **f64).repeat(PATHS, 1)
    # The limit, from a method with another principle, on the same path.
    own = "euler" if interpretation == "ito" else "heun"
    limit = on_path(fine, stratonovich(term), y0, "heun", FINE)
    errors = [
        (on_path(fine, term, y0, METHOD, count) - limit).abs().mean().item()
        for count in COUNTS
    ]
    found = -np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]
    assert found == pytest.approx(1.0, abs=0.1)
    other = (on_path(fine, term, y0, own, COUNTS[-1]) - limit).abs().mean().item()
    assert errors[-1] < 1.1 * other


def geometric(rate: float, size: float, interpretation: Interpretation) -> SDETerm:
    return SDETerm(
        lambda t, y: rate * y, lambda t, y: size * y, interpretation=interpretation
    )


def end_of(term: SDETerm, y0: Tensor, step: float, end: float, seed: int = 0) -> Tensor:
    final: Tensor = solve(
        term,
        y0,
        y0.new_tensor([0.0, end]),
        method=METHOD,
        controller=FixedSteps(step),
        noise=BrownianGrid(seed),
    ).final
    return final


def motion(y0: Tensor, step: float, end: float, seed: int = 0) -> Tensor:
    """W(end) of the path that `end_of` sees."""
    still = SDETerm(lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y))
    w: Tensor = solve(
        still,
        torch.zeros_like(y0),
        y0.new_tensor([0.0, end]),
        method="euler",
        controller=FixedSteps(step),
        noise=BrownianGrid(seed),
    ).final
    return w


@pytest.mark.parametrize(
    ("interpretation", "pull"), [("ito", 0.5), ("stratonovich", 0.0)]
)
def test_exact_without_drift(
    interpretation: Interpretation, pull: float, f64: KIND
) -> None:
    y0 = torch.tensor([[0.5, -2.0, 0.0]], **f64).repeat(50, 1)
    got = end_of(geometric(0.0, 1.3, interpretation), y0, 0.7, 2.1)
    w = motion(y0, 0.7, 2.1)
    want = y0 * torch.exp(1.3 * w - pull * 1.3**2 * 2.1)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_a_linear_drift_costs_no_noise(f64: KIND) -> None:
    """z_T / z_0 is (1 + a h)^n times the exact noise: the drift's error alone."""
    y0 = torch.ones(50, 2, **f64)
    got = end_of(geometric(0.5, 1.5, "ito"), y0, 0.25, 2.0)
    w = motion(y0, 0.25, 2.0)
    want = (1 + 0.5 * 0.25) ** 8 * torch.exp(1.5 * w - 1.125 * 2.0)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("step", [0.1, 1.0, 8.0])
def test_signs_survive_any_step(step: float, device: torch.device) -> None:
    y0 = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)).to(device)
    got = end_of(geometric(0.0, 1.0, "ito"), y0, step, 8.0)
    assert torch.equal(got.sign(), y0.sign())
    euler = solve(
        geometric(0.0, 1.0, "ito"),
        y0,
        torch.tensor([0.0, 8.0], device=device),
        method="euler",
        controller=FixedSteps(max(step, 1.0)),
        noise=BrownianGrid(0),
    ).final
    assert not torch.equal(euler.sign(), y0.sign())


def test_scalar_noise_is_one_motion(f64: KIND) -> None:
    term = SDETerm(
        lambda t, y: torch.zeros_like(y),
        lambda t, y: y * torch.tensor([1.0, 0.5], **f64),
        noise="scalar",
        interpretation="stratonovich",
    )
    y0 = torch.ones(20, 2, **f64)
    got = end_of(term, y0, 0.25, 1.0).log()
    torch.testing.assert_close(got[:, 0], 2 * got[:, 1], rtol=1e-12, atol=1e-14)
    assert got[:, 0].std() > 0.3


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_layouts_agree(noise: Noise, f64: KIND) -> None:
    """A batch as one row, times per sample, and nested states see the same steps."""
    term = SDETerm(bent_drift, moving_noise, noise=noise)
    y0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(2)).to(**f64)
    ts = torch.tensor([0.0, 0.3, 1.0], **f64)
    options = {"method": METHOD, "controller": FixedSteps(0.1)}

    def states(**more: object) -> Tensor:
        ys: Tensor = solve(
            term,
            y0,
            more.pop("ts", ts),  # type: ignore[arg-type]
            noise=BrownianGrid(5),
            **options,  # type: ignore[arg-type]
            **more,  # type: ignore[arg-type]
        ).ys
        return ys

    common = states()
    torch.testing.assert_close(states(batch="shared"), common)
    torch.testing.assert_close(states(ts=ts.repeat(6, 1)), common)


def test_samples_with_times_of_their_own(f64: KIND) -> None:
    """Zero noise: Euler with the field in the middle of the step, exact for 2 t."""
    term = SDETerm(
        lambda t, y: 2 * column(t) * torch.ones_like(y), lambda t, y: 0.0 * y
    )
    ts = torch.tensor([[0.0, 0.4, 1.0], [0.5, 0.75, 3.0]], **f64)
    sol = solve(
        term, torch.zeros(2, 1, **f64), ts, method=METHOD, controller=FixedSteps(0.1)
    )
    torch.testing.assert_close(sol.ys[..., 0], ts**2 - ts[:, :1] ** 2)


def test_gradients_do_not_depend_on_the_adjoint(f64: KIND) -> None:
    found = []
    for adjoint in (Recompute(), Direct()):
        a = torch.tensor(0.7, **f64, requires_grad=True)
        s = torch.tensor(0.9, **f64, requires_grad=True)
        y0 = torch.ones(4, 2, **f64, requires_grad=True)
        term = SDETerm(lambda t, y, a=a: a * y.cos(), lambda t, y, s=s: s * y)
        sol = solve(
            term,
            y0,
            torch.tensor([0.0, 1.0], **f64),
            method=METHOD,
            controller=FixedSteps(0.2),
            adjoint=adjoint,
            noise=BrownianGrid(3),
        )
        sol.final.square().sum().backward()
        found.append((a.grad, s.grad, y0.grad))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1] is not None and found[0][1].abs() > 0.1


def mixing_entries(t: Tensor, y: Tensor) -> Tensor:
    return y + 0.1 * y.flip(-1)


@pytest.mark.parametrize(
    "diffusion",
    [
        lambda t, y: torch.ones_like(y),
        lambda t, y: 0.3 * y + 0.1,
        lambda t, y: torch.tanh(0.01 * y),
        lambda t, y: y.abs(),
        lambda t, y: y.relu(),
        lambda t, y: y**2,
        mixing_entries,
    ],
)
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_other_noise_is_refused(
    diffusion: Field, start: float, device: torch.device
) -> None:
    term = SDETerm(lambda t, y: -y, diffusion)
    y0 = torch.full((3, 2), start, device=device)
    with pytest.raises(ValueError, match=r"diffusion is not in proportion to y.*euler"):
        end_of(term, y0, 0.5, 1.0)


def test_linear_noise_passes_in_float32_at_any_size(device: torch.device) -> None:
    for size in (1e-20, 1.0, 1e6):
        weight = torch.tensor([0.3, -size], device=device)
        term = SDETerm(
            lambda t, y: torch.zeros_like(y),
            lambda t, y, weight=weight: (y * weight) * 1.7,
        )
        y0 = torch.tensor([[0.0, 1e-3], [-1e5, 3.0]], device=device)
        assert end_of(term, y0, 1e-16, 1e-16).isfinite().all()


def test_declared_cost_is_the_cost(device: torch.device) -> None:
    calls = {"drift": 0, "diffusion": 0}

    def drift(t: Tensor, y: Tensor) -> Tensor:
        calls["drift"] += 1
        return -y

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        calls["diffusion"] += 1
        return 0.2 * y

    with torch.no_grad():
        sol = solve(
            SDETerm(drift, diffusion),
            torch.ones(2, 1, device=device),
            torch.tensor([0.0, 1.0], device=device),
            method=METHOD,
            controller=FixedSteps(0.1),
        )
    method = SDE_METHODS[METHOD]
    assert calls["drift"] == 10 * method.drift_evaluations
    steps = 10 * method.diffusion_evaluations
    assert calls["diffusion"] == steps + method.start_evaluations
    assert sol.stats.evaluations.tolist() == [calls["diffusion"]] * 2


@pytest.mark.parametrize("step", [0.01, 0.05, 0.25, 1.0])
def test_the_exponent_is_biased_by_the_drift_alone(
    step: float, device: torch.device
) -> None:
    """a = 1/2, sigma = 3/2: log(1 + a h) / h - sigma^2 / 2, negative at any step."""
    y0 = torch.ones(20000, 1, device=device)
    got = end_of(geometric(0.5, 1.5, "ito"), y0, step, 4.0, seed=11).log() / 4.0
    # W(4) / 4 has deviation 1/2: four standard errors are 4 * 0.75 / sqrt(20000).
    want = math.log1p(0.5 * step) / step - 1.125
    assert got.mean().item() == pytest.approx(want, abs=0.0213)
    assert got.mean().item() < -0.5
