"""The tree's Brownian motion has the law of one, with its Levy areas."""

import math

import pytest
import torch
from scipy.stats import kstest, norm, uniform
from torch import Tensor

from nde.solvers.brownian import BrownianIncrement, BrownianTree
from nde.solvers.brownian.area import levy_area
from nde.solvers.brownian.counter import mix, normals, sample_keys, subkeys
from nde.solvers.brownian.dyadic import Dyadic

F64 = torch.float64
# A chance of one in ten thousand, about four standard errors.
RARE = 1e-4


def covariance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Covariance of samples of mean zero, and its standard error."""
    product = (a * b).double().flatten()
    return product.mean().item(), (product.std() / math.sqrt(len(product))).item()


def assert_covariance(a: Tensor, b: Tensor, expected: float) -> None:
    found, error = covariance(a, b)
    assert abs(found - expected) < 4.5 * error, (found, expected, error)


def assert_uncorrelated(a: Tensor, b: Tensor) -> None:
    scale = (a.std() * b.std()).item() / math.sqrt(a.numel())
    assert abs(covariance(a, b)[0]) < 4.5 * scale


def exact(x: Tensor) -> Tensor:
    """Covariance `(2, n, 2, n)` of a Brownian motion and its integral from 0."""
    s, t = torch.minimum(x[:, None], x), torch.maximum(x[:, None], x)
    here, there = x[:, None].expand_as(s), x.expand_as(s)
    wk = torch.where(here <= there, here * there - here**2 / 2, there**2 / 2)
    kk = s**2 * (3 * t - s) / 6
    return torch.stack((torch.stack((s, wk), 1), torch.stack((wk.T, kk), 1)))


@pytest.mark.parametrize("depth", [1, 2, 5, 16])
def test_weights_give_the_exact_joint_law(depth: int) -> None:
    span = 3.0
    leaf = torch.arange(2 ** min(depth, 5), dtype=F64)
    generator = torch.Generator().manual_seed(depth)
    inside = torch.rand(len(leaf), generator=generator, dtype=F64)
    x = (leaf + inside) / 2 ** min(depth, 5)
    nodes, weights = Dyadic.of(span, depth, torch.device("cpu")).read(x)
    same = (nodes[:, None] == nodes).double()
    found = torch.einsum("aicl,bjcl,abl->iajb", weights, weights, same)
    expected = exact(span * x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * span**3)


@pytest.mark.parametrize("x", [0.0, 0.25, 0.5, 0.75])
def test_dyadic_times_need_no_deeper_level(x: float) -> None:
    _, weights = Dyadic.of(1.0, 16, torch.device("cpu")).read(
        torch.tensor([x]).double()
    )
    assert (weights[..., 4:] == 0).all()


def test_end_is_read_from_the_last_leaf() -> None:
    nodes, weights = Dyadic.of(1.0, 3, torch.device("cpu")).read(torch.ones(1).double())
    assert nodes.tolist() == [[0, 1, 3, 7, 15]]
    assert (weights[0, 0].flatten() == torch.tensor([1.0] + [0.0] * 9)).all()


@pytest.mark.parametrize("h", [1.0, 0.1, 1e-3, 2.0**-15])
def test_increments_are_normal_at_every_scale(h: float) -> None:
    tree = BrownianTree(seed=5, t0=-1.0, t1=1.0, size=(4000, 5))
    step = tree.increment(-0.3, -0.3 + h, "space-time")
    assert step.levy is not None
    w, levy = step.w.flatten() / math.sqrt(h), step.levy.flatten() / math.sqrt(h / 12)
    assert kstest(w.numpy(), norm.cdf).pvalue > RARE
    assert kstest(levy.numpy(), norm.cdf).pvalue > RARE
    assert_uncorrelated(w, levy)
    assert_uncorrelated(w.square() - 1, levy.square() - 1)


def test_overlapping_increments_covary_as_they_overlap() -> None:
    tree = BrownianTree(seed=6, t0=0.0, t1=1.0, size=(20000, 4))
    times = [0.01, 0.2, 0.21, 0.5, 0.77, 1.0]
    at = {t: tree.at(torch.tensor(t, dtype=F64)) for t in times}
    for s in times:
        for t in times:
            assert_covariance(at[s].w, at[t].w, min(s, t))
    for t in times:
        assert_covariance(at[t].w, at[t].k, t**2 / 2)
        assert_covariance(at[t].k, at[t].k, t**3 / 3)


def test_integral_is_of_the_path() -> None:
    tree = BrownianTree(seed=7, t0=0.0, t1=2.0, size=(3, 2), tol=2.0**-13)
    t = torch.linspace(0, 2, 2**13 + 1, dtype=F64)
    w = torch.stack([tree.at(s).w for s in t])
    last = tree.at(t[-1])
    sum_ = torch.trapezoid(w, t, dim=0)
    # Of variance n h^3/12 about the integral.
    assert (sum_ - last.k).abs().max() < 5 * math.sqrt(2**13 * (2.0**-12) ** 3 / 12)


@pytest.mark.parametrize("seed", [0, torch.arange(500)])
def test_samples_dimensions_and_seeds_are_independent(seed: int | Tensor) -> None:
    def drawn(seed: int | Tensor) -> Tensor:
        tree = BrownianTree(seed=seed, t0=0.0, t1=1.0, size=(500, 60))
        return tree.increment(0.3, 0.4).w

    w = drawn(seed)
    for across in (w.T, w):
        n = across.shape[1]
        correlation = torch.corrcoef(across)
        correlation.fill_diagonal_(0)
        pairs = correlation.numel() / 2
        assert correlation.abs().max() < math.sqrt(2 * math.log(1e4 * pairs) / n)
    for other in (1, 2, 2**62):
        assert_uncorrelated(w, drawn(other))
        assert_uncorrelated(w[1:], drawn(other)[:-1])


def test_steps_are_independent() -> None:
    tree = BrownianTree(seed=8, t0=0.0, t1=1.0, size=(2000, 2))
    h = torch.full((20,), 0.05, dtype=F64)
    w = tree.increments(torch.arange(20) * h, h, "none").w.flatten(1)
    correlation = torch.corrcoef(w)
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() < 4.5 / math.sqrt(w.shape[1])


# Counted


def test_hash_is_splitmix64() -> None:
    # First outputs of the published generator from the seed 1234567.
    stride = 0x9E3779B97F4A7C15 - 2**64
    seeds = 1234567 + torch.arange(1, 4) * stride
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [z % 2**64 for z in mix(seeds).tolist()] == expected


def test_a_flipped_bit_flips_half_of_a_key() -> None:
    keys = sample_keys(3, 4000, torch.device("cpu"))
    bit = torch.arange(64)
    index = torch.arange(4000)
    plain = subkeys(keys, index)
    seeded = sample_keys(index, 4000, keys.device)
    for before, after in (
        (plain, subkeys(keys, index ^ (1 << bit[:20, None]))),
        (plain, subkeys(keys ^ (1 << bit[:, None]), index)),
        (seeded, sample_keys(index ^ (1 << bit[:, None]), 4000, keys.device)),
    ):
        flips = ((before ^ after).unsqueeze(-1) >> bit) & 1
        share = flips.double().mean(1)
        assert (share - 0.5).abs().max() < 5 * 0.5 / math.sqrt(4000)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_normals_are_independent_and_normal(dtype: torch.dtype) -> None:
    a, b = normals(sample_keys(1, 20000, torch.device("cpu")), 8, dtype)
    for z in (a, b):
        assert z.dtype == dtype
        assert kstest(z.flatten().numpy(), norm.cdf).pvalue > RARE
        assert_covariance(z.square(), z.square(), 3)
    radius = torch.exp(-(a.square() + b.square()) / 2).flatten()
    angle = torch.atan2(b, a).flatten() / (2 * math.pi) + 0.5
    assert kstest(radius.numpy(), uniform.cdf).pvalue > RARE
    assert kstest(angle.numpy(), uniform.cdf).pvalue > RARE
    assert_uncorrelated(a, b)
    assert_uncorrelated(a[:, 1:], a[:, :-1])
    assert_uncorrelated(a[:, 1:], b[:, :-1])


# Areas


def brute(n: int, steps: int) -> BrownianIncrement:
    """Two Brownian motions on [0, 1] and their areas, summed over a fine grid."""
    generator = torch.Generator().manual_seed(11)
    dw = torch.randn(steps, n, 2, generator=generator, dtype=F64) / math.sqrt(steps)
    w = torch.cat((torch.zeros(1, n, 2, dtype=F64), dw.cumsum(0)))
    mid = (w[1:] + w[:-1]) / 2
    area = (mid[..., 0] * dw[..., 1] - mid[..., 1] * dw[..., 0]).sum(0) / 2
    return BrownianIncrement(w[-1], mid.mean(0) - w[-1] / 2, area)


def test_area_has_the_law_of_a_simulated_one() -> None:
    h = 0.4
    tree = BrownianTree(seed=12, t0=0.0, t1=1.0, size=(40000, 2), dtype=F64)
    drawn = tree.increment(0.1, 0.1 + h, "area")
    assert drawn.levy is not None and drawn.area is not None
    simulated = brute(40000, 200)
    assert simulated.levy is not None and simulated.area is not None
    root = math.sqrt(h)
    # The simulated one lacks the areas inside its steps, 1/4 of a squared step each.
    cases = (
        (drawn.w / root, drawn.levy / root, drawn.area[:, 0, 1] / h, 0.0),
        (simulated.w, simulated.levy, simulated.area, 1 / 800),
    )
    for w, levy, area, lacking in cases:
        lead = levy[:, 0] * w[:, 1] - w[:, 0] * levy[:, 1]
        rest = area - lead
        assert_covariance(area, area, 1 / 4 - lacking)
        assert_covariance(area, lead, 1 / 6)
        for other in (w[:, 0], levy[:, 1], lead):
            assert_uncorrelated(rest, other)
        # var(b | H) = 1/20 + (H_1^2 + H_2^2)/5, where var H^2 = 2/144.
        square = levy.square().sum(1) - 1 / 6
        assert_covariance(rest.square(), torch.ones_like(rest), 1 / 12 - lacking)
        assert_covariance(rest.square(), square, (2 * 2 / 144) / 5)


def test_area_is_antisymmetric_and_vanishes_of_one() -> None:
    tree = BrownianTree(seed=1, t0=0.0, t1=1.0, size=(3, 4))
    area = tree.increment(0.1, 0.2, "area").area
    assert area is not None and area.shape == (3, 4, 4)
    assert (area == -area.mT).all() and (area != 0).sum() == 3 * 12
    one = BrownianTree(seed=1, t0=0.0, t1=1.0, size=(3, 1)).increment(0, 1, "area")
    assert one.area is not None and (one.area == torch.zeros(3, 1, 1)).all()


def test_area_without_the_rest_is_its_mean() -> None:
    w, levy = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    area = levy_area(torch.tensor(1.0), w, levy, torch.zeros(1))
    assert area.tolist() == [[0.0, 1.0], [-1.0, 0.0]]


def test_areas_of_pairs_and_intervals_are_independent() -> None:
    tree = BrownianTree(seed=2, t0=0.0, t1=1.0, size=(20000, 3), dtype=F64)
    area = tree.increment(0.1, 0.2, "area").area
    after = tree.increment(0.2, 0.3, "area").area
    assert area is not None and after is not None
    for i, j in ((0, 2), (1, 2)):
        assert_uncorrelated(area[:, 0, 1], area[:, i, j])
    assert_uncorrelated(area[:, 0, 1], after[:, 0, 1])
