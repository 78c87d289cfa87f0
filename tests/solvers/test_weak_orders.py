"""Weak order of every method, for each kind of noise and interpretation.

By the slope of |E phi(X_h) - E phi(X)|, of which both are computed without sampling:
`weak_errors` says how. The equations move in time, are not linear and do not commute.
"""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from problems import column
from sde_paths import bound, one_step
from torch import Tensor
from weak_errors import (
    F64,
    Transition,
    at,
    exact_mean,
    gaussian,
    grid,
    increments,
    leaping,
    logarithmic,
    method_mean,
    own,
)

from nde.solvers import SDE_METHODS, SDETerm
from nde.solvers.brownian import Levy

T1, COUNTS = 0.25, (4, 8, 16)
# Points in each direction, for a method and for what it is compared with.
SIDE, FINE = 25, 37
# 1 but for these. Kloeden and Platen, *Numerical Solution of SDEs*: 14.1 for Euler's
# method, 15.1 for Heun's, which is of order 2 where noise is additive; the midpoint
# rule is not, its slope is that after half of W, of half the variance that it should
# have. Foster's methods: the table of SDE solvers in the documentation of diffrax. Of
# the splitting the Euler step of the drift decides. Rossler's methods for noise in the
# state are often said to be of order 2; why they are of order 1.5 stands beside them.
ORDERS = {
    "heun": {"additive": 2.0},
    "reversible_heun": {"additive": 2.0},
    "srk": {"diagonal": 1.5, "scalar": 1.5, "additive": 2.0},
    "sosri2": {"diagonal": 1.5, "scalar": 1.5},
    "sosri2_sum": {"diagonal": 1.5, "scalar": 1.5},
    "sosra2": {"additive": 2.0},
    "shark": {"additive": 2.0},
    "general_shark": {"additive": 2.0},
    "spark": {"additive": 2.0},
    "slow_rk": {"diagonal": 2.0, "scalar": 2.0, "additive": 2.0},
}
# The one carries a second state, the other is for noise in proportion to the state.
TWINNED, SPLITTING = "reversible_heun", "linear_splitting"
CASES = [
    (name, noise, interpretation)
    for name, method in SDE_METHODS.items()
    for noise in method.noises
    for interpretation in method.interpretations
    if name not in (TWINNED, SPLITTING)
]


def size(t: Tensor) -> Tensor:
    return 0.8 + 0.3 * (3 * column(t)).sin()


def drift(t: Tensor, y: Tensor) -> Tensor:
    return 0.3 * (2 * column(t)).cos() + 0.4 * y.flip(-1).sin() + 0.2 * y.cos()


def bent(y: Tensor) -> Tensor:
    """Third derivatives, which linear noise lacks, are large."""
    return 0.7 + 0.25 * (2 * y).sin()


def diagonal(t: Tensor, y: Tensor) -> Tensor:
    return size(t) * bent(y)


def scalar(t: Tensor, y: Tensor) -> Tensor:
    return size(t) * bent(y.flip(-1))


def additive(t: Tensor, y: Tensor) -> Tensor:
    mixing = torch.tensor(((0.7, 0.5), (-0.3, 0.6)), **F64)[: y.shape[1]]
    sizes = torch.stack((size(t), size(t + 0.7)), -1)
    return (sizes * mixing).expand(y.shape[0], -1, -1)


def general(t: Tensor, y: Tensor) -> Tensor:
    """Two motions whose fields do not commute, also of one entry."""
    return torch.stack((scalar(t, y), 0.6 * size(t) * y.cos()), -1)


DIFFUSIONS = {
    "diagonal": diagonal,
    "scalar": scalar,
    "additive": additive,
    "general": general,
}


def term_of(noise: str, interpretation: str) -> SDETerm:
    motions = 2 if noise in ("additive", "general") else None
    return SDETerm(
        drift,
        DIFFUSIONS[noise],
        noise=noise,
        interpretation=interpretation,
        noise_dim=motions,
    )


def phi(points: Tensor) -> Tensor:
    return (points.sum(-1) + 0.4).sin() + points[:, 0].cos()


def on_torus(side: int, dim: int = 2) -> Tensor:
    return phi(grid(side, dim)).reshape((side,) * dim)


def exact_on_grid(term: SDETerm, dim: int) -> Tensor:
    fine = exact_mean(term, on_torus(FINE, dim), T1)
    return at(fine, grid(SIDE, dim)).reshape((SIDE,) * dim)


@cache
def exact(noise: str, interpretation: str, dim: int) -> Tensor:
    return exact_on_grid(term_of(noise, interpretation), dim)


def slope(errors: list[Tensor]) -> float:
    """By the root mean square over all starts."""
    sizes = [error.square().mean().sqrt().item() for error in errors]
    return float(-np.polyfit(np.log(COUNTS), np.log(sizes), 1)[0])


def means(take: Transition, end: Tensor, motions: int, levy: Levy) -> list[Tensor]:
    return [method_mean(take, end, T1, n, motions, levy) for n in COUNTS]


def own_errors(name: str, noise: str, interpretation: str) -> list[Tensor]:
    """Of a method for a state of two entries."""
    method, term = SDE_METHODS[name], term_of(noise, interpretation)
    motions = 1 if noise == "scalar" else 2
    found = means(own(method, term), on_torus(SIDE), motions, method.asks(noise))
    return [mean - exact(noise, interpretation, 2) for mean in found]


def leaping_errors(noise: str) -> list[Tensor]:
    """Of the reversible Heun method for one entry and its twin, where these begin."""
    take = leaping(SDE_METHODS[TWINNED], term_of(noise, "stratonovich"))
    motions = 2 if noise in ("additive", "general") else 1
    end = phi(grid(SIDE, 2)[:, :1]).reshape(SIDE, SIDE)
    found = means(take, end, motions, "none")
    return [mean.diagonal() - exact(noise, "stratonovich", 1) for mean in found]


@pytest.mark.parametrize(("name", "noise", "interpretation"), CASES)
def test_weak_order(name: str, noise: str, interpretation: str) -> None:
    order = ORDERS.get(name, {}).get(noise, 1.0)
    found = slope(own_errors(name, noise, interpretation))
    assert found == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("noise", SDE_METHODS[TWINNED].noises)
def test_weak_order_with_a_second_state(noise: str) -> None:
    order = ORDERS[TWINNED].get(noise, 1.0)
    assert slope(leaping_errors(noise)) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("noise", SDE_METHODS[SPLITTING].noises)
@pytest.mark.parametrize("interpretation", SDE_METHODS[SPLITTING].interpretations)
def test_weak_order_of_the_splitting(noise: str, interpretation: str) -> None:
    """dy = y drift(t, log y) dt + size(t) y dW, whose logarithm is on the torus."""
    term = SDETerm(
        lambda t, y: y * drift(t, y.log()),
        lambda t, y: size(t) * y,
        noise=noise,
        interpretation=interpretation,
    )
    pull = 0.5 if interpretation == "ito" else 0.0
    logarithm = SDETerm(
        lambda t, x: drift(t, x) - pull * size(t) ** 2,
        lambda t, x: size(t).expand_as(x),
        noise=noise,
        interpretation="stratonovich",
    )
    take = logarithmic(SDE_METHODS[SPLITTING], term)
    found = means(take, on_torus(SIDE), 1 if noise == "scalar" else 2, "none")
    wanted = exact_on_grid(logarithm, 2)
    assert slope([mean - wanted for mean in found]) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("name", "order"), [("srk", 2.0), ("euler", 1.0)])
def test_weak_order_for_linear_noise(name: str, order: float) -> None:
    """E y^2 of a geometric Brownian motion, whose steps multiply."""
    rate, volatility = 0.8, 0.5
    term = SDETerm(lambda t, y: rate * y, lambda t, y: volatility * y)
    method = SDE_METHODS[name]
    errors = []
    for n in COUNTS:
        inc, weights = increments(T1 / n, 1, 1, method.asks("diagonal"))
        y = torch.ones(len(weights), 1, **F64)
        growth = one_step(method, bound(term, y), y, 0.0, inc).y1[:, 0]
        second = (weights @ growth.square()) ** n
        errors.append(second - math.exp((2 * rate + volatility**2) * T1))
    assert slope(errors) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_nodes_have_the_moments_of_the_normal_law(count: int) -> None:
    nodes, weights = gaussian(count)
    assert (weights > 0).all()
    for powers in itertools.product(range(8), repeat=count):
        if sum(powers) > 7:
            continue
        odd = any(p % 2 for p in powers)
        want = 0.0 if odd else math.prod(math.prod(range(1, p, 2)) for p in powers)
        got = weights @ (nodes ** torch.tensor(powers)).prod(-1)
        assert got.item() == pytest.approx(want, abs=1e-12)
