"""Motions with their ends given, motions of torchsde, and solves along any motion."""

import math
import warnings
from typing import Any

import pytest
import torch
from problems import KIND
from torch import Tensor

from nde.solvers import BrownianTree, FixedSteps, SDETerm, solve
from nde.solvers.brownian import BrownianBridge, BrownianIncrement, FromTorchsde, Levy

WALK = SDETerm(lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y))


def tree(size: tuple[int, int], kind: KIND, **span: float) -> BrownianTree:
    return BrownianTree(3, span.get("t0", 0.0), span.get("t1", 1.0), size, **kind)


def test_a_bridge_keeps_its_ends_and_its_law(f64: KIND) -> None:
    size, (t0, t1) = (20_000, 2), (1.0, 5.0)
    w, h = torch.full(size, 2.0, **f64), torch.full(size, -0.5, **f64)
    bridge = BrownianBridge(tree(size, f64, t0=t0, t1=t1), w, h)
    whole = bridge.increment(t0, t1, "space-time")
    torch.testing.assert_close(whole.w, w)
    torch.testing.assert_close(whole.levy, h)
    # Given W and H, with x the fraction of the span T: mean x W + 6 x (1 - x) H,
    # variance T (x (1 - x) - 3 x^2 (1 - x)^2).
    for x in (0.25, 0.5):
        start = bridge.increment(t0, t0 + x * (t1 - t0)).w
        side = x * (1 - x)
        mean, variance = 2.0 * x - 3.0 * side, 4.0 * (side - 3 * side**2)
        n = start.numel()
        assert abs(float(start.mean()) - mean) < 4 * math.sqrt(variance / n)
        assert abs(float(start.var()) - variance) < 4 * variance * math.sqrt(2 / n)


def test_the_area_of_a_bridge_is_drawn_given_its_increments(f64: KIND) -> None:
    free = tree((3, 2), f64)
    kept = BrownianBridge(free)
    moved = BrownianBridge(free, torch.ones(3, 2, **f64))
    for levy in ("none", "space-time", "area"):
        want, got = (motion.increment(0.25, 0.5, levy) for motion in (free, kept))
        for name in ("w", "levy", "area"):
            torch.testing.assert_close(getattr(got, name), getattr(want, name))
    area = moved.increment(0.25, 0.5, "area").area
    assert area is not None
    torch.testing.assert_close(area, -area.mT)
    assert not torch.allclose(area, free.increment(0.25, 0.5, "area").area)  # type: ignore[arg-type]


def test_a_bridge_of_another_size(f64: KIND) -> None:
    with pytest.raises(ValueError, match=r"w has shape \(2, 2\)"):
        BrownianBridge(tree((3, 2), f64), torch.zeros(2, 2, **f64))
    with pytest.raises(ValueError, match="motion covers"):
        BrownianBridge(tree((3, 2), f64)).increment(0.0, 2.0)


@pytest.mark.parametrize("method", ["euler", "srk"])
def test_a_solve_asks_a_bridge(f64: KIND, method: str) -> None:
    end = torch.full((4, 2), 3.0, **f64)
    noise = BrownianBridge(tree((4, 2), f64), end)
    y0, ts = torch.zeros(4, 2, **f64), torch.tensor([0.0, 0.3, 1.0], **f64)
    ys = solve(WALK, y0, ts, method=method, controller=FixedSteps(0.07), noise=noise).ys
    torch.testing.assert_close(ys[:, 1], noise.increment(0.0, 0.3).w)
    torch.testing.assert_close(ys[:, 2], end)


def test_a_motion_is_asked_step_by_step_from_end_to_begin(f64: KIND) -> None:
    asked: list[tuple[float, float, Levy]] = []

    class Still:
        t0, t1, size = 0.0, 1.0, (2, 1)

        def increment(self, ta: float, tb: float, levy: Levy) -> BrownianIncrement:
            asked.append((ta, tb, levy))
            return BrownianIncrement(torch.zeros(2, 1, **f64))

    y0, ts = torch.ones(2, 1, **f64), torch.linspace(0, 1, 4, **f64)
    options: dict[str, Any] = {"method": "euler", "controller": FixedSteps(0.1)}
    solve(WALK, y0, ts, noise=Still(), **options)
    begins, ends, levies = zip(*asked, strict=True)
    assert begins[1:] == ends[:-1] and (begins[0], ends[-1]) == (0.0, 1.0)
    assert len(asked) == 12 and set(levies) == {"none"}
    with pytest.raises(ValueError, match="steps of their own"):
        apart = torch.tensor([[0.0, 0.3, 1.0], [0.0, 0.4, 1.0]], **f64)
        solve(WALK, y0, apart, noise=Still(), **options)
    with pytest.raises(ValueError, match="noise has size"):
        solve(WALK, torch.ones(3, 1, **f64), ts, noise=Still(), **options)


class Called:
    """A motion W(t) = t, called as those of torchsde, that is strict about its ends."""

    shape, levy_area_approximation = (2, 1), "space-time"

    def __call__(self, ta: float, tb: float, return_U: bool = False) -> Any:
        assert 0.1 <= ta < tb <= 0.7
        w = torch.full((2, 1), tb - ta, dtype=torch.float64)
        return (w, w * (tb - ta) / 2) if return_U else w


def test_a_motion_of_torchsde() -> None:
    motion = FromTorchsde(Called(), 0.1, 0.7)
    assert motion.size == (2, 1)
    beyond = math.nextafter(0.7, 1.0)
    moved = motion.increment(math.nextafter(0.1, 0.0), beyond, "space-time")
    want: Tensor = torch.full((2, 1), 0.6, dtype=torch.float64)
    torch.testing.assert_close(moved.w, want)
    # A straight line encloses no area with its chord.
    torch.testing.assert_close(moved.levy, torch.zeros_like(want))
    with pytest.raises(ValueError, match="gives no Levy area"):
        motion.increment(0.2, 0.3, "area")
    for ta, tb in ((0.0, 0.5), (0.2, 0.8), (math.nan, 0.3), (0.3, 0.2)):
        with pytest.raises(ValueError, match="bm covers"):
            motion.increment(ta, tb)
    flat = Called()
    flat.shape = (2,)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="shape"):
        FromTorchsde(flat)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        motion.increment(0.1, 0.7)
