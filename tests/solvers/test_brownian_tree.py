"""The tree is a function of seed, sample and time: same answers, however asked."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from nde.solvers.brownian import BrownianIncrement, BrownianTree, Levy

F64 = torch.float64


def parts(step: BrownianIncrement) -> list[Tensor]:
    assert step.levy is not None and step.area is not None
    return [step.w, step.levy, step.area]


def assert_same(a: Iterable[Tensor], b: Iterable[Tensor]) -> None:
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one, other)


def tree(seed: int | Tensor = 4, batch: int = 3, **options: Any) -> BrownianTree:
    options = {"t0": 0.0, "t1": 2.0, "size": (batch, 2)} | options
    return BrownianTree(seed, **options)


def test_any_order_of_questions_gives_the_same_bits() -> None:
    times = [0.0, 0.3, 1e-9, 1.0, 1.99, 2.0]
    first = {t: tree().at(torch.tensor(t, dtype=F64)) for t in times}
    asked = tree()
    for t in reversed(times):
        again = asked.at(torch.tensor(t, dtype=F64))
        assert_same((again.w, again.k), (first[t].w, first[t].k))
    assert_same(
        parts(asked.increment(0.3, 0.7, "area")),
        parts(tree().increment(0.3, 0.7, "area")),
    )


def test_time_may_be_shared_or_per_sample() -> None:
    t = torch.tensor([0.1, 0.7, 1.9], dtype=F64)
    each = tree().at(t)
    for i in range(3):
        for shared in (t[i], t[i : i + 1], t[i].expand(3)):
            assert torch.equal(tree().at(shared).w[i], each.w[i])
    mixed = tree().increment(0.05, t, "area")
    alone = tree().increment(0.05, 1.9, "area")
    assert_same([v[2] for v in parts(mixed)], [v[2] for v in parts(alone)])


def test_levy_adds_and_does_not_change() -> None:
    plain = tree().increment(0.1, 0.4)
    timed = tree().increment(0.1, 0.4, "space-time")
    w, levy, _ = parts(tree().increment(0.1, 0.4, "area"))
    assert plain.levy is None and plain.area is None and timed.area is None
    assert timed.levy is not None and torch.equal(timed.levy, levy)
    assert torch.equal(plain.w, w) and torch.equal(timed.w, w)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_sample_with_its_own_seed_knows_no_company(dtype: torch.dtype) -> None:
    seeds = torch.arange(700) * 3
    t = torch.linspace(0.1, 1.3, 9, dtype=F64)
    h = torch.full_like(t, 0.13)
    many = tree(seeds, 700, dtype=dtype)
    few = tree(seeds[[650, 4]], 2, dtype=dtype)
    alone = tree(seeds[[4]], 1, dtype=dtype)
    for axis, ask in (
        (0, lambda b: b.increment(0.3, 0.7, "area")),
        (1, lambda b: b.increments(t, h, "area")),
    ):
        answers = (parts(ask(b)) for b in (many, few, alone))
        for whole, pair, one in zip(*answers, strict=True):
            assert torch.equal(whole.index_select(axis, torch.tensor([650, 4])), pair)
            assert torch.equal(pair.narrow(axis, 1, 1), one)


def test_sample_of_a_batch_seed_knows_its_position_only() -> None:
    large, small = tree(4, 50), tree(4, 3)
    assert torch.equal(large.increment(0, 1).w[:3], small.increment(0, 1).w)
    assert not torch.equal(small.increment(0, 1).w, tree(5).increment(0, 1).w)


def test_precisions_agree_to_rounding() -> None:
    half, single, double = (tree(dtype=d) for d in (torch.bfloat16, torch.float32, F64))
    for a, b in ((0.0, 2.0), (0.3, 0.31), (1.0, 1.0001)):
        exact = parts(double.increment(a, b, "area"))
        rounded = parts(single.increment(a, b, "area"))
        scale = b - a
        for v, e, size in zip(
            rounded, exact, (scale**0.5, scale**0.5, scale), strict=True
        ):
            assert v.dtype == torch.float32
            assert (v - e).abs().max() < 1e-4 * size
        assert half.increment(a, b).w.dtype == torch.bfloat16
        assert torch.equal(half.increment(a, b).w, rounded[0].bfloat16())


@pytest.mark.parametrize("mid", [0.5, 0.75, 0.613])
def test_joined_steps_are_the_whole_step(mid: float) -> None:
    b = tree(dtype=F64)
    left, right, whole = (
        parts(b.increment(s, t, "area")) for s, t in ((0.2, mid), (mid, 1), (0.2, 1))
    )
    torch.testing.assert_close(left[0] + right[0], whole[0], rtol=0, atol=1e-14)
    h, before, after = 0.8, mid - 0.2, 1 - mid
    # The mean over the whole of W - W(s), from those over its parts.
    joined = (
        before * (left[0] / 2 + left[1]) + after * (left[0] + right[0] / 2 + right[1])
    ) / h - whole[0] / 2
    torch.testing.assert_close(joined, whole[1], rtol=0, atol=1e-14)


def test_joined_halves_follow_the_midpoint_identity() -> None:
    b = tree(dtype=F64)
    for s, t in ((0.0, 2.0), (0.5, 0.75), (0.3, 0.4)):
        m = (s + t) / 2
        left, right, whole = (
            parts(b.increment(p, q, "area")) for p, q in ((s, m), (m, t), (s, t))
        )
        join = (left[1] + right[1]) / 2 + (left[0] - right[0]) / 4
        torch.testing.assert_close(join, whole[1], rtol=0, atol=1e-13)


def test_short_steps_keep_their_digits() -> None:
    # H of steps of 1e-5 of the span, by halves whose join is exact in arithmetic.
    b = tree(batch=200, dtype=F64, tol=1e-8)
    h = 2e-5
    left, right, whole = (
        parts(b.increment(p, q, "area"))
        for p, q in ((1.3, 1.3 + h / 2), (1.3 + h / 2, 1.3 + h), (1.3, 1.3 + h))
    )
    join = (left[1] + right[1]) / 2 + (left[0] - right[0]) / 4
    assert (join - whole[1]).abs().max() < 1e-6 * math.sqrt(h)


def test_finer_tree_passes_where_the_coarser_does() -> None:
    coarse, fine = tree(tol=2.0**-3, dtype=F64), tree(tol=2.0**-20, dtype=F64)
    for t in (0.125, 0.75, 2.0):
        time = torch.tensor(t, dtype=F64)
        for name in ("w", "k"):
            a, b = (getattr(v.at(time), name) for v in (coarse, fine))
            torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    off = torch.tensor(0.2, dtype=F64)
    assert not torch.allclose(coarse.at(off).w, fine.at(off).w)


def test_reading_backwards_turns_increment_and_area_round() -> None:
    there, back = (
        parts(tree(dtype=F64).increment(s, t, "area"))
        for s, t in ((0.3, 0.9), (0.9, 0.3))
    )
    for a, b, sign in zip(there, back, (-1, 1, -1), strict=True):
        torch.testing.assert_close(sign * b, a, rtol=0, atol=1e-13)


# Known grids

STEPS = 40


def grid(kind: str) -> tuple[Tensor, Tensor]:
    """Steps over [0, 2]: of dyadic times, of others, apart, of each sample."""
    if kind == "dyadic":
        h = torch.full((32,), 2 / 32, dtype=F64)
    elif kind == "uneven":
        h = torch.linspace(1, 3, STEPS, dtype=F64)
        h *= 2 / h.sum()
    elif kind == "apart":
        t = torch.tensor([1.5, 0.2, 0.2, 0.9], dtype=F64)
        return t, torch.tensor([0.1, 0.3, 1.8, -0.4], dtype=F64)
    elif kind == "samples":
        h = torch.rand(STEPS, 3, generator=torch.Generator().manual_seed(1)).double()
        h[-5:, 1] = 0
        h *= 2 / h.sum(0)
    else:
        t = torch.tensor([[0.1, 0.2, 0.3], [1.0, 0.2, 0.1]], dtype=F64)
        return t, torch.full_like(t, 0.2)
    return h.cumsum(0) - h, h


@pytest.mark.parametrize("chunk", [1, 2**20])
@pytest.mark.parametrize("kind", ["dyadic", "uneven", "apart", "samples", "islands"])
def test_grid_is_its_steps(
    kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nde.solvers.brownian.tree._CHUNK", chunk)
    b = tree(dtype=F64)
    t, h = grid(kind)
    found = parts(b.increments(t, h, "area"))
    for i in range(len(t)):
        step = parts(b.increment(t[i], t[i] + h[i], "area"))
        for all_of, one in zip(found, step, strict=True):
            # Ends that rounding moved move W by the root of that.
            torch.testing.assert_close(all_of[i], one, rtol=0, atol=1e-7)
    less = b.increments(t, h, "none")
    assert less.levy is None and torch.equal(less.w, found[0])


@pytest.mark.parametrize("kind", ["dyadic", "uneven", "samples"])
def test_grid_adds_up(kind: str) -> None:
    t, h = grid(kind)
    b = tree(dtype=F64)
    whole = b.increment(0, 2).w
    torch.testing.assert_close(
        b.increments(t, h, "none").w.sum(0), whole, rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_ends_that_rounding_parted_are_joined(shape: tuple[int, ...]) -> None:
    b = tree(dtype=F64)
    t = torch.tensor([0.0, 0.7 + 2e-15], dtype=F64)
    h = torch.tensor([0.7, 1.3 - 2e-15], dtype=F64)
    still = torch.tensor([0.0, 0.2], dtype=F64)
    t, h, still = (
        v if len(shape) == 1 else v[:, None] + t.new_zeros(3) for v in (t, h, still)
    )
    joined = b.increments(t, h, "none").w.sum(0)
    torch.testing.assert_close(joined, b.increment(0, 2).w, rtol=0, atol=1e-13)
    # A step not taken is zero even so.
    t[0] = 0.7
    assert (b.increments(t, still, "none").w[0] == 0).all()


def test_step_not_taken_is_zero() -> None:
    t = torch.tensor([0.0, 0.7, 2.0, 2.0], dtype=F64)
    h = torch.tensor([0.7, 1.3, 0.0, 0.0], dtype=F64)
    for some in (h, h[:, None].expand(4, 3)):
        times = t if some.ndim == 1 else t[:, None].expand(4, 3)
        step = parts(tree().increments(times, some, "area"))
        assert all((v[2:] == 0).all() and (v[:2] != 0).any() for v in step)
    assert all((v == 0).all() for v in parts(tree().increment(0.3, 0.3, "area")))


@pytest.mark.parametrize("steps, batch", [(0, 3), (4, 0), (0, 0)])
def test_empty_grids_and_batches(steps: int, batch: int) -> None:
    b = tree(batch=batch)
    t = torch.linspace(0, 1, steps, dtype=F64)
    for shape in ((steps,), (steps, batch)):
        times = t if len(shape) == 1 else t[:, None].expand(shape)
        w, levy, area = parts(b.increments(times, torch.full_like(times, 0.1), "area"))
        assert w.shape == levy.shape == (steps, batch, 2)
        assert area.shape == (steps, batch, 2, 2)
    assert b.increment(0, 1).w.shape == (batch, 2)


# Devices


def test_devices_agree(device: torch.device) -> None:
    for dtype, close in ((torch.float32, 1e-5), (F64, 1e-12)):
        here, there = (tree(dtype=dtype, device=d) for d in ("cpu", device))
        for t, h in (grid("uneven"), grid("samples")):
            a = parts(here.increments(t, h, "area"))
            b = parts(there.increments(t.to(device), h.to(device), "area"))
            for one, other in zip(a, b, strict=True):
                assert other.device.type == device.type
                torch.testing.assert_close(one, other.cpu(), rtol=0, atol=close)


def test_questions_do_not_wait_for_the_device(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("nothing to wait for")
    b = tree(device=device)
    t = torch.tensor([0.1, 0.2, 0.4], dtype=F64, device=device)
    b.between(b.at(t), b.at(t + 0.1), "area")
    torch.cuda.set_sync_debug_mode("error")
    try:
        b.between(b.at(t), b.at(t + 0.1), "area")
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Refusals


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"seed": 1.0}, TypeError, "seed must be an int"),
        ({"seed": True}, TypeError, "seed must be an int"),
        ({"seed": -1}, ValueError, "seed must lie in"),
        ({"seed": 2**63}, ValueError, "seed must lie in"),
        ({"seed": torch.ones(3)}, TypeError, "int64"),
        ({"seed": torch.tensor(3)}, TypeError, "int64"),
        ({"seed": torch.tensor([1, -1, 2])}, ValueError, "negative"),
        ({"seed": torch.arange(2)}, ValueError, "2 seeds .* batch of 3"),
        ({"t1": 0.0}, ValueError, "t0 < t1"),
        ({"t1": math.inf}, ValueError, "t0 < t1"),
        ({"t0": -math.inf}, ValueError, "t0 < t1"),
        ({"t0": math.nan}, ValueError, "t0 < t1"),
        ({"tol": 0.0}, ValueError, "tol must lie in"),
        ({"tol": 2.0}, ValueError, "tol must lie in"),
        ({"tol": math.nan}, ValueError, "tol must lie in"),
        ({"tol": 1e-16}, ValueError, "tol must be at least"),
        ({"size": (3, 0)}, ValueError, "size"),
        ({"dtype": torch.int64}, TypeError, "floating"),
    ],
)
def test_refused_trees(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tree(**options)


@pytest.mark.parametrize(
    "times",
    [
        (-0.1, 1.0),
        (0.1, 2.1),
        (0.1, math.nan),
        (math.inf, 1.0),
        (0.0, torch.tensor([0.1, 0.2, 2.2])),
    ],
)
def test_times_outside_are_refused(times: tuple[float, float | Tensor]) -> None:
    with pytest.raises(ValueError, match=r"motion covers \[0.0, 2.0\], was asked for"):
        tree().increment(*times)
    t = torch.as_tensor(times[0], dtype=F64)
    h = (times[1] - t).expand(1, 3)
    with pytest.raises(ValueError, match=r"motion covers \[0.0, 2.0\], was asked for"):
        tree().increments(t.expand(1, 3), h, "none")


def test_rounded_ends_are_the_ends() -> None:
    b = tree(t0=0.1, t1=0.3)
    over, under = math.nextafter(0.3, 1), math.nextafter(0.1, 0)
    assert torch.equal(b.increment(under, over).w, b.increment(0.1, 0.3).w)


def test_refused_questions() -> None:
    b = tree()
    t = torch.zeros(2, dtype=F64)
    levy: Levy = "time-space"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="levy must be one of"):
        b.increment(0, 1, levy)
    with pytest.raises(ValueError, match="levy must be one of"):
        b.increments(t, t, levy)
    with pytest.raises(ValueError, match="tb must be a float or"):
        b.increment(0, t)
    with pytest.raises(ValueError, match="t and h must both"):
        b.increments(t, t[:1], "none")
    with pytest.raises(ValueError, match="t and h must both"):
        b.increments(t[:, None].expand(2, 2), t[:, None].expand(2, 2), "none")
