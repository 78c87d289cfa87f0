"""The Brownian motions: their law, what they promise, and both packages' on both."""

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
import torchsde
from sde_sides import DT, F64, TS, Equation, interval, motions, start
from torch import Tensor

import nde.compat.torchsde as compat

SHAPES = [(), (3,), (2, 3), (2, 3, 4)]
AREAS = ["none", "space-time", "davie", "foster"]


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("size", SHAPES)
def test_shapes_are_theirs(size: tuple[int, ...], area: str) -> None:
    theirs, ours = (
        side.BrownianInterval(
            0.0, 2.0, size, torch.float64, entropy=1, levy_area_approximation=area
        )
        for side in (torchsde, compat)
    )
    for u, a in itertools.product([False, True], repeat=2):
        want = theirs(0.5, 1.25, return_U=u, return_A=a)
        got = ours(0.5, 1.25, return_U=u, return_A=a)
        assert isinstance(got, tuple) == isinstance(want, tuple)
        if isinstance(want, Tensor):
            want, got = (want,), (got,)
        for one, other in zip(want, got, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert ours.shape == ours.size() == theirs.shape
    assert ours.levy_area_approximation == theirs.levy_area_approximation


def test_a_path_depends_on_entropy_alone() -> None:
    one, other = (interval(2) for _ in range(2))
    pairs = [(0.1, 0.4), (0.4, 0.9), (0.0, 1.0), (0.9, 0.95)]
    first = [one(a, b) for a, b in pairs]
    second = [other(a, b) for a, b in reversed(pairs)][::-1]
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)
    assert not torch.allclose(first[0], interval(2, entropy=4)(0.1, 0.4))
    assert torch.equal(interval(2, levy_area_approximation="none")(0.1, 0.4), first[0])


def test_increments_and_integrals_add_up() -> None:
    bm = interval(2)
    (w1, u1), (w2, u2), (w, u) = (
        bm(a, b, return_U=True) for a, b in ((0.1, 0.4), (0.4, 0.9), (0.1, 0.9))
    )
    torch.testing.assert_close(w1 + w2, w)
    torch.testing.assert_close(u1 + u2 + 0.5 * w1, u)


def test_law() -> None:
    count, h = 40_000, 0.6
    bm = interval(2, size=(count, 2))
    w, u, area = bm(0.3, 0.3 + h, return_U=True, return_A=True)
    levy = u / h - w / 2
    for sample, variance in ((w, h), (levy, h / 12), (area[:, 0, 1:], h**2 / 4)):
        n, square = sample.numel(), sample.square()
        error = float(square.std()) / math.sqrt(n)
        assert abs(float(square.mean()) - variance) < 5 * error, variance
        assert abs(float(sample.mean())) < 5 * math.sqrt(variance / n)
    assert abs(float((w * levy).mean())) < 5 * h / math.sqrt(12 * w.numel())
    torch.testing.assert_close(area, -area.mT)


def test_ends_that_are_given() -> None:
    count = 20_000
    end = torch.full((count, 1), 2.0, **F64)
    bend = torch.full((count, 1), -0.5, **F64)
    for given in ({"W": end}, {"H": bend}, {"W": end, "H": bend}):
        bm = interval(1, t0=1.0, t1=5.0, size=None, **given)
        w, u = bm(1.0, 5.0, return_U=True)
        if "W" in given:
            torch.testing.assert_close(w, end)
        if "H" in given:
            torch.testing.assert_close(u / 4.0 - w / 2, bend)
    # The middle given both: mean W / 2 + 3 H / 2, variance T / 16.
    middle = bm(1.0, 3.0)
    assert abs(float(middle.mean()) - 0.25) < 4 * 0.5 / math.sqrt(count)
    assert abs(float(middle.var()) - 0.25) < 4 * 0.25 * math.sqrt(2 / count)
    one, two = bm(1.0, 3.0, return_U=True), bm(3.0, 5.0, return_U=True)
    torch.testing.assert_close(one[0] + two[0], w)
    torch.testing.assert_close(one[1] + two[1] + 2.0 * one[0], u)


def test_a_given_end_gets_its_gradient() -> None:
    end = torch.zeros(2, 1, **F64, requires_grad=True)
    bm = interval(1, size=None, W=end)
    for _ in range(2):
        (grad,) = torch.autograd.grad(bm(0.25, 0.5).sum(), end)
        torch.testing.assert_close(grad, torch.full_like(grad, 0.25))


def test_a_solve_hands_its_gradient_to_the_given_end() -> None:
    sde = Equation("diagonal", "stratonovich")
    end = torch.ones(4, 3, **F64, requires_grad=True)
    grads = []
    for side in (torchsde, compat):
        bm = interval(3, size=None, W=end)
        ys = side.sdeint(sde, start(), TS, bm=bm, dt=DT, method="heun")
        grads.append(torch.autograd.grad(ys[-1].sum(), end)[0])
    torch.testing.assert_close(grads[0], grads[1])


def test_times_at_the_ends_are_silent_and_beyond_are_not() -> None:
    bm = interval(2, t0=0.1, t1=0.7)
    beyond = math.nextafter(0.7, 1.0)
    assert torch.equal(bm(0.1, beyond), bm(math.nextafter(0.1, 0.0), 0.7))
    assert torch.equal(bm(torch.tensor(0.3, **F64)), bm(0.1, 0.3))
    assert torch.equal(bm(0.4, 0.4), torch.zeros_like(bm(0.4, 0.4)))
    with pytest.warns(UserWarning, match=r"outside of the interval"):
        clamped = bm(0.1, 0.8)
    assert torch.equal(clamped, bm(0.1, 0.7))
    with pytest.raises(RuntimeError, match="ta"):
        bm(0.5, 0.4)
    with pytest.raises(ValueError, match="NaN"):
        bm(0.2, math.nan)


def test_an_interval_of_no_length() -> None:
    bm = interval(2, t0=1.0, t1=1.0)
    assert torch.equal(bm(1.0, 1.0), torch.zeros(4, 2, **F64))


@pytest.mark.parametrize("make", [compat.BrownianTree, compat.BrownianPath])
def test_motions_that_begin_somewhere(make: Any) -> None:
    w0 = torch.ones(2, 3, **F64)
    bm = make(0.5, w0)
    torch.testing.assert_close(bm(1.0), w0 + bm(0.5, 1.0))
    torch.testing.assert_close(bm(0.5), w0)
    assert bm.shape == (2, 3) and bm.dtype == torch.float64


def test_a_tree_ends_where_it_is_told() -> None:
    w0, w1 = torch.zeros(2, 3, **F64), torch.full((2, 3), 4.0, **F64)
    bm = compat.BrownianTree(0.0, w0, 3.0, w1, entropy=1)
    torch.testing.assert_close(bm(3.0), w1)


def test_a_seed_for_each_sample() -> None:
    """As samplers of diffusion models use it: images, in half precision, per seed."""
    both = torch.zeros(2, 4, 8, 8, dtype=torch.float16)
    batch = compat.BrownianTree(0.03, both, 14.6, entropy=[7, 9])
    alone = compat.BrownianTree(0.03, both[:1], 14.6, entropy=[9])
    got = batch(0.5, 2.0)
    assert got.shape == both.shape and got.dtype == torch.float16
    assert torch.equal(got[1:], alone(0.5, 2.0))
    assert not torch.allclose(got[0], got[1])
    with pytest.raises(ValueError, match="seeds"):
        compat.BrownianTree(0.0, both, entropy=[1, 2, 3])
    with pytest.raises(ValueError, match="Levy"):
        interval(2, size=(2, 3, 2), entropy=[1, 2])


def test_like_a_tensor() -> None:
    bm = compat.brownian_interval_like(torch.zeros(3, 2, **F64), t1=2.0, entropy=1)
    assert isinstance(bm, compat.BrownianInterval)
    assert (bm.shape, bm.dtype, bm.entropy) == ((3, 2), torch.float64, 1)


WRONG: list[dict[str, Any]] = [
    {"t0": 1.0, "t1": 0.0},
    {"t0": "0"},
    {"dt": "1"},
    {"tol": -1.0},
    {"halfway_tree": True},
    {"halfway_tree": True, "tol": 1e-3, "dt": 0.1},
    {"levy_area_approximation": "exact"},
    {"size": None},
    {"W": torch.zeros(3, 3, **F64)},
    {"W": torch.zeros(4, 2)},
    {"W": torch.zeros(4, 2, dtype=torch.int64), "dtype": torch.int64},
    {"entropy": -1},
]


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_what_is_refused_is_so_there(changes: dict[str, Any]) -> None:
    for side in (torchsde, compat):
        with pytest.raises(ValueError):
            interval(2, side, **changes)


def test_an_entropy_that_is_no_seed() -> None:
    with pytest.raises(TypeError, match="entropy"):
        interval(2, entropy="seven")
    with pytest.raises(TypeError, match="entropy"):
        interval(2, entropy=[1.5, 2.0, 3.0, 4.0])
    interval(2, entropy=2**70)


def test_it_drives_their_adjoint() -> None:
    """Their continuous adjoint asks for the intervals backward, at its own times."""
    sde = Equation("diagonal", "stratonovich")
    bm = interval(motions("diagonal"))
    grads = []
    for function in (torchsde.sdeint_adjoint, compat.sdeint_adjoint):
        ys = function(sde, start(), TS, bm=bm, dt=1 / 256, method="midpoint")
        grads.append(torch.autograd.grad(ys.sum(), sde.drift)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=2e-3, atol=2e-3)


def test_theirs_is_asked_within_its_interval() -> None:
    sde = Equation("diagonal", "ito")
    ts = torch.tensor([0.1, 0.4, 0.7])
    bm = torchsde.BrownianInterval(0.1, 0.7, (4, 3), torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compat.sdeint(sde, start(), ts, bm=bm, dt=DT, method="euler")


@pytest.mark.parametrize("side", [torchsde, compat])
def test_ends_that_lost_digits_in_float32(side: Any) -> None:
    bm = side.BrownianInterval(0.1, 0.3, (4, 3), torch.float64)
    ts = torch.tensor([0.1, 0.3])
    assert float(ts[1]) > 0.3
    ys = compat.sdeint(
        Equation("diagonal", "ito"), start(), ts, bm=bm, dt=DT, method="euler"
    )
    assert ys.isfinite().all()


def test_a_reversed_motion() -> None:
    bm = interval(2)
    back = compat.ReverseBrownian(bm)
    assert torch.equal(back(-0.5, -0.25), bm(0.25, 0.5))
    assert (back.shape, back.dtype) == (bm.shape, bm.dtype)
    assert isinstance(back, compat.BaseBrownian)
