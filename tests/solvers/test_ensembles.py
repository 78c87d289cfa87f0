"""Many paths of each sample: their layout, moments against theory, and refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import KIND, column
from torch import Tensor

from nde.solvers import (
    BrownianGrid,
    BrownianTree,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    SDETerm,
    Solution,
    Status,
    StepTo,
    solve,
)

PATHS = 2000
MU, SIGMA, RATE = 0.3, 0.4, 1.5
GROWTH = SDETerm(lambda t, y: MU * y, lambda t, y: SIGMA * y)
BACK = SDETerm(lambda t, y: -RATE * y, lambda t, y: SIGMA * torch.ones_like(y))
TIMED = SDETerm(lambda t, y: column(t) - y, lambda t, y: SIGMA * y)


def run(term: SDETerm, y0: object, ts: Tensor, **options: object) -> Solution:
    chosen = {
        "method": "srk",
        "controller": FixedSteps(0.05),
        "noise": BrownianGrid(3),
        **options,
    }
    return solve(term, y0, ts, **chosen)


def times(kind: KIND) -> Tensor:
    return torch.linspace(0.0, 1.0, 3, **kind)


def starts(kind: KIND) -> Tensor:
    return torch.tensor([[1.0, 0.5], [2.0, -1.0]], **kind)


def within(found: Tensor, want: Tensor, error: Tensor) -> None:
    """Within 4 standard errors, where they are small enough to say something."""
    assert bool(((found - want).abs() <= 4.0 * error + 1e-12).all())
    assert bool((error[:, -1] < 0.1 * want[:, -1].abs()).all())


@pytest.mark.parametrize("name", ["geometric", "ornstein_uhlenbeck"])
def test_moments_are_those_of_the_law(f64: KIND, name: str) -> None:
    t, y0 = times(f64).view(1, -1, 1), starts(f64).unsqueeze(1)
    if name == "geometric":
        term = GROWTH
        mean = y0 * torch.exp(MU * t)
        variance = mean.square() * torch.expm1(SIGMA**2 * t)
    else:
        term = BACK
        mean = y0 * torch.exp(-RATE * t)
        variance = SIGMA**2 * (1 - torch.exp(-2 * RATE * t)) / (2 * RATE)
        variance = variance.expand_as(mean)
    ensemble = run(term, starts(f64), times(f64), paths=PATHS).ensemble
    assert ensemble is not None and ensemble.count == PATHS
    assert ensemble.succeeded.tolist() == [PATHS, PATHS]
    within(ensemble.mean(), mean, (ensemble.variance() / PATHS).sqrt())
    away = (ensemble.paths - mean.unsqueeze(1)).square()
    within(ensemble.variance(), variance, away.std(dim=1) / math.sqrt(PATHS))


def test_paths_of_a_sample_stand_beside_each_other(f64: KIND) -> None:
    found = run(GROWTH, starts(f64), times(f64), paths=5)
    by_hand = run(GROWTH, starts(f64).repeat_interleave(5, dim=0), times(f64))
    assert found.ys.shape == (10, 3, 2) and found.status.shape == (10,)
    assert torch.equal(found.ys, by_hand.ys)
    assert by_hand.ensemble is None
    paths = found.ensemble.paths
    assert paths.shape == (2, 5, 3, 2)
    assert torch.equal(paths[1, 3], found.ys[8])
    torch.testing.assert_close(found.ensemble.mean(), paths.mean(dim=1))
    torch.testing.assert_close(found.ensemble.variance(), paths.var(dim=1))
    torch.testing.assert_close(
        found.ensemble.variance(correction=0), paths.var(dim=1, correction=0)
    )


def test_one_path(f64: KIND) -> None:
    found = run(GROWTH, starts(f64), times(f64), paths=1)
    alone = run(GROWTH, starts(f64), times(f64))
    assert torch.equal(found.ys, alone.ys)
    assert torch.equal(found.ensemble.mean(), alone.ys)
    assert torch.equal(found.ensemble.quantile(0.3), alone.ys)
    assert bool(found.ensemble.variance().isnan().all())
    assert bool((found.ensemble.variance(correction=0) == 0.0).all())


def test_a_shared_batch(f64: KIND) -> None:
    shared, own = (
        run(GROWTH, starts(f64), times(f64), paths=4, batch=batch)
        for batch in ("shared", "per_sample")
    )
    torch.testing.assert_close(shared.ensemble.mean(), own.ensemble.mean())


def test_an_empty_batch(f64: KIND) -> None:
    ensemble = run(GROWTH, torch.zeros(0, 2, **f64), times(f64), paths=4).ensemble
    assert ensemble.paths.shape == (0, 4, 3, 2)
    assert ensemble.mean().shape == ensemble.quantile(0.5).shape == (0, 3, 2)


TABLE = ((0.0, 0.4, 1.0), (0.2, 0.5, 0.7))
STOPS = ((0.33, 0.66), (0.41, 0.47))


@pytest.mark.parametrize("case", ["ts", "padded", "mask", "probes", "stops", "grid"])
def test_what_is_given_per_sample_is_repeated(f64: KIND, case: str) -> None:
    ts, own = torch.tensor(TABLE, **f64), torch.tensor(STOPS, **f64)
    per_sample: dict[str, Tensor] = {}
    padded = ts.clone()
    padded[1, 2] = math.nan
    if case == "padded":
        ts = padded
    elif case == "mask":
        ts, per_sample = (
            torch.tensor([0.0, 0.4, 1.0], **f64),
            {"ts_mask": ~padded.isnan()},
        )
    elif case == "probes":
        per_sample = {"probe_times": own}

    def solved(y0: Tensor, ts: Tensor, own: Tensor, **more: object) -> Solution:
        control: object = FixedSteps(0.05)
        if case == "stops":
            control = FixedSteps(0.05, step_t=own, jump_t=own + 0.01)
        elif case == "grid":
            control = StepTo(own)
        return run(TIMED, y0, ts, controller=control, **more)

    found = solved(starts(f64), ts, own, paths=3, **per_sample)
    wide = {key: table.repeat_interleave(3, dim=0) for key, table in per_sample.items()}
    many = ts if ts.ndim == 1 else ts.repeat_interleave(3, dim=0)
    own = own.repeat_interleave(3, dim=0)
    want = solved(starts(f64).repeat_interleave(3, dim=0), many, own, **wide)
    assert torch.equal(found.ys, want.ys)
    torch.testing.assert_close(found.ts, many, rtol=0, atol=0, equal_nan=True)
    if case == "probes":
        assert torch.equal(found.probes, want.probes)


def test_functions_see_every_path_and_args_as_they_are(f64: KIND) -> None:
    seen = []

    def drift(t: Tensor, y: Tensor, args: Tensor) -> Tensor:
        seen.append((len(y), args.shape))
        return args - y

    term = SDETerm(drift, lambda t, y, args: 0.1 * y)
    run(term, starts(f64), times(f64), paths=3, args=torch.ones(6, 1, **f64))
    assert set(seen) == {(6, (6, 1))}


@pytest.mark.parametrize("adjoint", [Recompute(), Direct()])
def test_gradients(f64: KIND, adjoint: object) -> None:
    """A path of geometric motion is in proportion to where it begins."""
    y0 = starts(f64).requires_grad_()
    ensemble = run(GROWTH, y0, times(f64), paths=50, adjoint=adjoint).ensemble
    mean, variance, middle = (
        ensemble.mean()[:, -1],
        ensemble.variance()[:, -1],
        ensemble.quantile(0.37)[:, -1],
    )
    for value, power in ((mean, 1.0), (variance, 2.0), (middle, 1.0)):
        (slope,) = torch.autograd.grad(value.sum(), y0, retain_graph=True)
        torch.testing.assert_close(slope, power * value.detach() / y0.detach())


def failing(t: Tensor, y: Tensor) -> Tensor:
    """Not defined beyond 1.3, which some paths reach."""
    return torch.where(y > 1.3, torch.nan, 0.0 * y)


def test_paths_that_failed_are_left_out(f64: KIND) -> None:
    term = SDETerm(failing, lambda t, y: 0.3 * torch.ones_like(y))
    y0 = torch.tensor([[1.0], [-5.0], [1.29]], **f64).requires_grad_()
    found = run(term, y0, times(f64), paths=40, method="euler", throw=False)
    ensemble = found.ensemble
    good = (found.status == Status.SUCCESS).reshape(3, 40)
    assert torch.equal(ensemble.succeeded, good.sum(dim=1))
    assert 0 < int(ensemble.succeeded[0]) < 40 == int(ensemble.succeeded[1])
    paths = found.ys.detach().reshape(3, 40, 3, 1).cpu().numpy()
    levels = torch.tensor([0.0, 0.25, 0.8, 1.0], **f64)
    for got, want in (
        (ensemble.mean(), np.nanmean(paths, axis=1)),
        (ensemble.variance(), np.nanvar(paths, axis=1, ddof=1)),
        (ensemble.quantile(0.4), np.nanquantile(paths, 0.4, axis=1)),
        (
            ensemble.quantile(levels),
            np.nanquantile(paths, levels.cpu().numpy(), axis=1),
        ),
    ):
        value = got.detach().cpu().numpy()
        np.testing.assert_allclose(value, want, rtol=1e-10, atol=1e-14)
        (slope,) = torch.autograd.grad(got.sum(), y0, retain_graph=True)
        assert bool(torch.isfinite(slope).all())


def test_no_path_reached_a_time(f64: KIND) -> None:
    term = SDETerm(
        lambda t, y: torch.where(column(t) > 0.6, torch.nan, -y), lambda t, y: 0.1 * y
    )
    found = run(term, starts(f64), times(f64), paths=3, throw=False)
    ensemble = found.ensemble
    assert ensemble.succeeded.tolist() == [0, 0]
    for moment in (ensemble.mean(), ensemble.variance(), ensemble.quantile(0.5)):
        assert bool(torch.isfinite(moment[:, :2]).all())
        assert bool(moment[:, 2].isnan().all())


def test_quantiles_are_numpys(f64: KIND) -> None:
    ensemble = run(GROWTH, starts(f64), times(f64), paths=101).ensemble
    paths = ensemble.paths.cpu().numpy()
    for q in (0.0, 0.05, 0.5, 1.0, [0.1, 0.123456, 0.9]):
        found = ensemble.quantile(q)
        want = np.quantile(paths, q, axis=1)
        np.testing.assert_allclose(found.cpu().numpy(), want, rtol=1e-12)


def test_quantiles_of_single_precision() -> None:
    ensemble = run(
        GROWTH, torch.ones(1, 1), torch.tensor([0.0, 1.0]), paths=1000
    ).ensemble
    found = ensemble.quantile(0.9)
    assert found.dtype == torch.float32
    want = np.quantile(ensemble.paths.double().cpu().numpy(), 0.9, axis=1)
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-6)


def test_nested_and_complex_states(f64: KIND) -> None:
    y0 = {"a": torch.ones(2, 3, **f64), "b": (torch.ones(2, **f64) * (1 + 2j),)}
    term = SDETerm(
        lambda t, y: {"a": -y["a"], "b": (1j * y["b"][0],)},
        lambda t, y: {"a": 0.3 * y["a"], "b": (0.3 * y["b"][0],)},
    )
    ensemble = run(term, y0, times(f64), paths=7).ensemble
    mean, variance, paths = ensemble.mean(), ensemble.variance(), ensemble.paths
    assert mean["a"].shape == (2, 3, 3) and paths["b"][0].shape == (2, 7, 3)
    torch.testing.assert_close(mean["b"][0], paths["b"][0].mean(dim=1))
    assert variance["b"][0].dtype == torch.float64
    torch.testing.assert_close(variance["b"][0], paths["b"][0].var(dim=1))
    with pytest.raises(TypeError, match="quantiles of complex"):
        ensemble.quantile(0.5)


def test_a_divergence_for_each_path(f64: KIND) -> None:
    term = replace(GROWTH, prior=lambda t, y: 0.0 * y)
    found = run(term, starts(f64), times(f64), paths=4)
    assert found.path_kl.shape == (8, 3)
    assert torch.equal(found.ys, run(GROWTH, starts(f64), times(f64), paths=4).ys)


def test_noise_is_of_every_path(f64: KIND) -> None:
    tree = BrownianTree(1, 0.0, 1.0, (6, 2), **f64)
    found = run(GROWTH, starts(f64), times(f64), paths=3, noise=tree)
    assert len(found.ys.unique(dim=0)) == 6
    seeds = BrownianGrid(torch.arange(6))
    found = run(GROWTH, starts(f64), times(f64), paths=3, noise=seeds)
    assert len(found.ys.unique(dim=0)) == 6
    small = BrownianTree(1, 0.0, 1.0, (2, 2), **f64)
    with pytest.raises(ValueError, match=r"noise has size \(2, 2\).*\(6, 2\)"):
        run(GROWTH, starts(f64), times(f64), paths=3, noise=small)
    with pytest.raises(ValueError, match="2 seeds were given for a batch of 6"):
        few = BrownianGrid(torch.arange(2))
        run(GROWTH, starts(f64), times(f64), paths=3, noise=few)


@pytest.mark.parametrize("paths", [0, -1, True, 2.0, "3"])
def test_refused_numbers_of_paths(f64: KIND, paths: object) -> None:
    with pytest.raises(ValueError, match="paths must be an integer >= 1"):
        run(GROWTH, starts(f64), times(f64), paths=paths)


def test_refusals(f64: KIND) -> None:
    with pytest.raises(ValueError, match="paths=3.*ODETerm"):
        solve(ODETerm(lambda t, y: -y), starts(f64), times(f64), paths=3)
    wide = times(f64).expand(6, 3)
    with pytest.raises(ValueError, match="ts has 6 rows for a batch of 2"):
        run(GROWTH, starts(f64), wide, paths=3)
    for name, options in (
        ("probe_times", {"probe_times": wide}),
        ("step_t", {"controller": FixedSteps(0.1, step_t=wide)}),
        ("times", {"controller": StepTo(wide)}),
    ):
        with pytest.raises(ValueError, match=rf"{name} has shape \(6, 3\).*paths=3"):
            run(GROWTH, starts(f64), times(f64), paths=3, **options)
    ensemble = run(GROWTH, starts(f64), times(f64), paths=3).ensemble
    for q in (1.5, -0.1, math.nan, [[0.5]]):
        with pytest.raises(ValueError, match="q must be a number"):
            ensemble.quantile(q)
