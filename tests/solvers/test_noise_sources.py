"""The Brownian motions that a solve takes: one path on every grid, and refusals."""

import pytest
import torch
from problems import KIND
from torch import Tensor

from nde.solvers import BrownianGrid, BrownianTree, FixedSteps, SDETerm, solve

WALK = SDETerm(lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y))
GROWTH = SDETerm(lambda t, y: 0.5 * y, lambda t, y: 0.8 * y)


def tree(size: tuple[int, int], kind: KIND, t1: float = 1.0) -> BrownianTree:
    return BrownianTree(3, 0.0, t1, size, **kind)


def end(
    term: SDETerm, y0: Tensor, step: float, noise: object, **options: str
) -> Tensor:
    ts = torch.tensor([0.0, 1.0], dtype=y0.dtype, device=y0.device)
    return solve(
        term, y0, ts, controller=FixedSteps(step), noise=noise, **options
    ).final


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_a_tree_gives_one_path_on_every_grid(f64: KIND, batch: str) -> None:
    y0 = torch.zeros(5, 2, **f64)
    noise = tree((5, 2), f64)
    ends = [end(WALK, y0, h, noise, method="euler", batch=batch) for h in (0.5, 0.07)]
    want = noise.increment(0.0, 1.0).w
    for found in ends:
        torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


def test_errors_shrink_along_one_path(f64: KIND) -> None:
    y0 = torch.ones(200, 1, **f64)
    noise = tree((200, 1), f64)
    exact = torch.exp(0.5 - 0.32 + 0.8 * noise.increment(0.0, 1.0).w)
    errors = [
        float((end(GROWTH, y0, h, noise, method="srk") - exact).abs().mean())
        for h in (1 / 8, 1 / 16, 1 / 32, 1 / 64)
    ]
    for coarse, fine in zip(errors[:-1], errors[1:], strict=True):
        assert coarse > 2.0 * fine


def test_times_of_each_sample(f64: KIND) -> None:
    y0 = torch.zeros(2, 1, **f64)
    ts = torch.tensor([[0.0, 0.3, 1.0], [0.2, 0.6, 0.9]], **f64)
    noise = tree((2, 1), f64)
    got = solve(
        WALK, y0, ts, method="euler", controller=FixedSteps(0.25), noise=noise
    ).ys
    for column in (1, 2):
        want = noise.increment(ts[:, 0], ts[:, column]).w
        torch.testing.assert_close(got[:, column], want, rtol=0, atol=1e-12)


def test_refusals(f64: KIND) -> None:
    y0 = torch.zeros(4, 2, **f64)
    for size in ((5, 2), (4, 3)):
        with pytest.raises(ValueError, match=r"noise.*\(4, 2\)"):
            end(WALK, y0, 0.1, tree(size, f64), method="euler")
    with pytest.raises(ValueError, match=r"motion covers \[0.0, 0.5\].*1.0"):
        end(WALK, y0, 0.1, tree((4, 2), f64, t1=0.5), method="euler")
    with pytest.raises(TypeError, match="noise must be a seed, BrownianGrid"):
        end(WALK, y0, 0.1, "7", method="euler")


def test_a_grid_draws_the_same_path_with_areas(f64: KIND) -> None:
    grid, h = BrownianGrid(1), torch.full((4,), 0.25, dtype=torch.float64)
    plain = grid.increments(h.to(f64["device"]), (3, 2), torch.float64)
    whole = grid.increments(h.to(f64["device"]), (3, 2), torch.float64, "area")
    assert torch.equal(plain.w, whole.w)
    assert whole.area is not None and whole.area.shape == (4, 3, 2, 2)
    torch.testing.assert_close(whole.area, -whole.area.mT)


def test_rows_of_a_mixing_fit_the_state(f64: KIND) -> None:
    term = SDETerm(lambda t, y: -y, lambda t, y: y, mixing=torch.eye(3, **f64))
    with pytest.raises(ValueError, match="mixing has 3 rows for a state of 2"):
        end(term, torch.ones(4, 2, **f64), 0.1, None, method="euler")


@pytest.mark.parametrize("ts", ["shared", "own"])
@pytest.mark.parametrize(
    ("method", "interpretation"),
    [
        ("srk", "ito"),
        ("milstein", "ito"),
        ("reversible_heun", "stratonovich"),
        ("slow_rk", "stratonovich"),
    ],
)
def test_one_more_step_has_what_its_method_asks_for(
    method: str, interpretation: str, ts: str
) -> None:
    """Also in single precision, whose field must not meet times of double."""

    def drift(t: Tensor, y: Tensor) -> Tensor:
        assert t.dtype == y.dtype
        assert t.shape == (() if ts == "shared" else (3,))
        return -y * (t if ts == "shared" else t[:, None])

    term = SDETerm(drift, lambda t, y: 0.5 * y, interpretation=interpretation)
    times = torch.tensor([0.0, 1.0])
    y0 = torch.ones(3, 2)
    found = solve(
        term,
        y0,
        times if ts == "shared" else times.expand(3, 2),
        method=method,
        controller=FixedSteps(0.1),
    )
    at, length = torch.full((3,), 0.2), torch.full((3,), 0.1)
    error, _ = found.embedded_step(at, y0, length)
    assert error.shape == (3,)
    assert bool((error > 0).all())
