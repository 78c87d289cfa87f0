"""Weights of the Adams methods, on the host and in tensors."""

import numpy as np
import pytest
import torch
from problems import KIND

from nde.solvers.multistep import weights
from nde.solvers.types import Increment

# Lengths of three past steps, oldest first, and of the step itself.
SPACINGS = [
    (0.1, 0.1, 0.1, 0.1),
    (0.3, 0.1, 0.2, 0.15),
    (1e-3, 1.0, 1e-2, 1e-1),
    (0.1, 0.1, 0.1, 1e-7),
]


def on_device(spacings: list[tuple[float, ...]], **kind: object) -> Increment:
    sizes = torch.tensor(spacings, **kind)
    return Increment(sizes[:, 3:], index=3, past=sizes[:, :3].t())


def on_host(spacing: tuple[float, ...]) -> Increment:
    return Increment(spacing[3], index=3, past=spacing[:3])


def test_weights_of_a_uniform_grid(f64: KIND) -> None:
    """Hairer, Norsett, Wanner I, III.1, eq. 1.5 and 1.9."""
    predictor, corrector = weights(on_host((0.2,) * 4), torch.zeros(1, 1, **f64))
    np.testing.assert_allclose(
        predictor, np.array([55, -59, 37, -9]) / 24, rtol=1e-13, atol=0
    )
    np.testing.assert_allclose(
        corrector, np.array([9, 19, -5, 1]) / 24, rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("spacing", SPACINGS)
def test_weights_integrate_cubics(spacing: tuple[float, ...], f64: KIND) -> None:
    """sum_i w_i x_i^k is the mean of x^k over the step, k = 0 .. 3."""
    a, b, c, h = spacing
    behind = np.array([0.0, -c, -(c + b), -(c + b + a)]) / h
    points = (behind, np.array([1.0, *behind[:3]]))
    for x, w in zip(points, weights(on_host(spacing), torch.ones(1)), strict=True):
        for k in range(4):
            size = np.abs(w * x**k).sum()
            assert abs((w * x**k).sum() - 1 / (k + 1)) <= 1e-13 * max(size, 1)


def test_weights_are_the_same_in_tensors_and_on_the_host(f64: KIND) -> None:
    found = weights(on_device(SPACINGS, **f64), torch.zeros(4, 1, **f64))
    for row, spacing in enumerate(SPACINGS):
        wanted = weights(on_host(spacing), torch.zeros(1, 1, **f64))
        for tensors, numbers in zip(found, wanted, strict=True):
            mine = [w[row].item() for w in tensors]
            np.testing.assert_allclose(mine, numbers, rtol=1e-12, atol=1e-300)


def test_weights_are_finite_where_a_row_rests(f64: KIND) -> None:
    resting = [(0.1, 0.1, 0.1, 0.0), (0.1, 0.1, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)]
    for tensors in weights(on_device(resting, **f64), torch.zeros(3, 1, **f64)):
        assert torch.stack(list(tensors)).isfinite().all()
    for numbers in weights(on_host(resting[0]), torch.zeros(1, 1, **f64)):
        assert np.isfinite(numbers).all()
