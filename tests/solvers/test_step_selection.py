"""Steps that are chosen along a path do not bias it, nor cost a method its order."""

from functools import cache

import numpy as np
import pytest
import torch
from fine_path import tree
from problems import column
from sde_paths import Path, bound, one_step
from sde_problems import PROBLEMS, start
from torch import Tensor

from nde.solvers import PID, SDE_METHODS, BrownianGrid, FixedSteps, SDETerm, solve

F64 = {"dtype": torch.float64}
TS = torch.tensor([0.0, 1.0], **F64)


def wave(kind: str) -> SDETerm:
    """Diagonal noise that is nonlinear in the state, with a drift that is so too."""

    def drift(t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(3 * y) + torch.cos(4 * column(t))

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        return 0.6 + 0.4 * torch.cos(2 * y)

    return SDETerm(drift, diffusion, interpretation=kind)


def wells(kind: str) -> SDETerm:
    """Additive noise in a double well, where the drift's slope changes its sign."""

    def drift(t: Tensor, y: Tensor) -> Tensor:
        return 3 * (y - y**3)

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(y, 0.8)[:, :, None]

    return SDETerm(drift, diffusion, noise="additive", noise_dim=1, interpretation=kind)


def scalar(kind: str) -> SDETerm:
    return PROBLEMS["scalar"].term("scalar", kind)


EQUATIONS = {"wave": wave, "wells": wells, "scalar": scalar}
# Of order 1.5, on a grid of 2,000 steps and more.
FINE = {"ito": "srk", "stratonovich": "slow_rk"}


def ended(
    term: SDETerm,
    y0: Tensor,
    motions: int,
    method: str,
    controller: object,
    seed: int = 5,
) -> tuple[Tensor, int]:
    """States at the end, and how many steps a path took."""
    noise = tree(y0.shape[0], motions, F64, seed=seed)
    sol = solve(term, y0, TS, method=method, controller=controller, noise=noise)
    return sol.final, round(float(sol.stats.accepted.double().mean()))


PATHS = 1000
ONE = torch.full((PATHS, 1), 0.5, **F64)
STARTS = {"wave": ONE, "wells": ONE, "scalar": start(PATHS, **F64)}


@cache
def limit(equation: str, kind: str) -> Tensor:
    term, y0 = EQUATIONS[equation](kind), STARTS[equation]
    return ended(term, y0, 1, FINE[kind], FixedSteps(1 / 2048))[0]


CASES = [
    ("srk", "ito", "wave"),
    ("srk", "ito", "wells"),
    ("srk", "ito", "scalar"),
    ("sosri2", "ito", "wave"),
    ("sosra2", "ito", "wells"),
    ("shark", "ito", "wells"),
    ("slow_rk", "stratonovich", "wave"),
    ("slow_rk", "stratonovich", "wells"),
    ("slow_rk", "stratonovich", "scalar"),
    ("general_shark", "stratonovich", "wells"),
    ("spark", "stratonovich", "wells"),
]


@pytest.mark.parametrize(("name", "kind", "equation"), CASES)
def test_steps_of_high_order_methods_are_not_biased(
    name: str, kind: str, equation: str
) -> None:
    """Judged by their own noise, means were up to 24 standard errors off, and errors up
    to 13 times those of a grid."""
    term, y0, want = EQUATIONS[equation](kind), STARTS[equation], limit(equation, kind)
    found, steps = ended(term, y0, 1, name, PID(1e-3, 1e-3))
    grid, _ = ended(term, y0, 1, name, FixedSteps(1 / steps))
    error, fixed = found - want, grid - want
    # SOSRI2 is biased on any grid of so few steps.
    own = fixed.mean(0).abs()
    assert torch.all(error.mean(0).abs() < own + 5 * error.std(0) / PATHS**0.5)
    assert float(error.square().mean().sqrt() / fixed.square().mean().sqrt()) < 3.2


ADAPTED = [
    (name, noise, kind)
    for name, method in SDE_METHODS.items()
    for noise in ("diagonal", "scalar", "additive")
    for kind in method.interpretations
    if noise in method.noises and method.adapted(noise) is not method
]


@pytest.mark.parametrize(("name", "noise", "kind"), ADAPTED)
def test_order_of_the_estimate_where_steps_are_adapted(
    name: str, noise: str, kind: str
) -> None:
    """That of what the method adds to one of lower order."""
    problem, y = PROBLEMS[noise], start(1000, **F64)
    method = SDE_METHODS[name].adapted(noise)
    term, counts = bound(problem.term(noise, kind), y), (64, 128, 256, 512)
    sizes = []
    for n in counts:
        h = torch.full((1,), 1 / n, **F64)
        drawn = BrownianGrid(3).increments(
            h, (1000, problem.motions), torch.float64, "area"
        )
        step = Path(1 / n, drawn).increment(0)
        outs = [one_step(method, term, y, 0.3 + 0.01 * k, step) for k in range(6)]
        errors = [out.error for out in outs if out.error is not None]
        assert len(errors) == len(outs)
        sizes.append(float(torch.stack(errors).detach().abs().mean()))
    order = -np.polyfit(np.log(counts), np.log(sizes), 1)[0]
    wanted = 1.5 if noise == "additive" else method.error_order
    assert order == pytest.approx(wanted, abs=0.15)


ALL = [
    (name, kind, noise)
    for name, method in SDE_METHODS.items()
    for noise in ("diagonal", "scalar", "additive", "general")
    for kind in method.interpretations
    if method.error_order is not None and noise in method.noises
]


def settled(
    noise: str, kind: str, method: str, controller: object
) -> tuple[Tensor, int]:
    problem, y0 = PROBLEMS[noise], start(200, **F64)
    term = problem.term(noise, kind)
    return ended(term, y0, problem.motions, method, controller, seed=7)


@cache
def ends(noise: str, kind: str) -> Tensor:
    """Stratonovich and Ito forms have one solution."""
    if noise == "general":
        return settled(noise, "stratonovich", "heun", FixedSteps(1 / 2048))[0]
    return settled(noise, kind, FINE[kind], FixedSteps(1 / 1024))[0]


@pytest.mark.parametrize(("name", "kind", "noise"), ALL)
def test_adaptive_steps_are_worth_a_grid_of_as_many(
    name: str, kind: str, noise: str
) -> None:
    """On equations without a place where steps should be short.

    Of sosri2_sum the estimate is of a lower order than the method, and does not know
    which steps were good.
    """
    want = ends(noise, kind)
    found, steps = settled(noise, kind, name, PID(2e-2, 2e-2))
    grid, _ = settled(noise, kind, name, FixedSteps(1 / steps))
    error, fixed = found - want, grid - want
    ratio = float(error.square().mean().sqrt() / fixed.square().mean().sqrt())
    assert ratio < (4.0 if name == "sosri2_sum" else 2.2)
