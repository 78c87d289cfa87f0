"""The divergence of an SDE's paths from a prior, integrated beside the state."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import KIND, column
from sde_problems import PROBLEMS, start
from torch import Tensor

from nde.solvers import (
    SDE_METHODS,
    BrownianGrid,
    BrownianTree,
    FixedSteps,
    SDETerm,
    Solution,
    solve,
)

Field = Callable[[Tensor, Tensor], Tensor]
# One for each way in which a method may use the term.
METHODS = [
    ("euler", "ito"),
    ("srk", "ito"),
    ("milstein", "stratonovich"),
    ("reversible_heun", "stratonovich"),
]
MIXING = ((1.0, 0.0, 0.0), (0.6, 0.0, 0.8))


def times(kind: KIND) -> Tensor:
    return torch.linspace(0.0, 1.0, 4, **kind)


def run(term: SDETerm, y0: object, ts: Tensor, **options: object) -> Solution:
    chosen = {
        "method": "euler",
        "controller": FixedSteps(0.1),
        "noise": BrownianGrid(3),
        **options,
    }
    return solve(term, y0, ts, **chosen)


def half_square(u: object) -> float:
    return 0.5 * float(np.square(np.asarray(u)).sum())


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize(("method", "interpretation"), METHODS)
def test_drifts_that_differ_by_a_constant(
    f64: KIND, method: str, interpretation: str, batch: str
) -> None:
    term = SDETerm(
        lambda t, y: 0.3 - y,
        lambda t, y: torch.full_like(y, 0.5),
        interpretation=interpretation,
        prior=lambda t, y: -y,
    )
    found = run(term, start(3, **f64), times(f64), method=method, batch=batch)
    # Two entries of half the square of 0.3 / 0.5.
    want = (0.36 * times(f64)).expand(3, 4)
    torch.testing.assert_close(found.path_kl, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["euler", "srk", "linear_splitting"])
def test_geometric_motions(f64: KIND, name: str) -> None:
    """An entry that stays 0, where drifts and diffusion are, adds nothing."""
    term = SDETerm(
        lambda t, y: 0.5 * y, lambda t, y: 0.4 * y, prior=lambda t, y: -0.1 * y
    )
    y0 = torch.tensor([[1.0, 0.0], [-2.0, 3.0]], **f64)
    found = run(term, y0, times(f64), method=name)
    entries = torch.tensor([[1.0], [2.0]], **f64)
    want = half_square(0.6 / 0.4) * entries * times(f64)
    torch.testing.assert_close(found.path_kl, want, rtol=1e-12, atol=0)


def test_its_mean_is_the_divergence_of_the_laws(f64: KIND) -> None:
    """Of dy = -k y dt + s dB from s dB, started at 0: u = -k y / s."""
    k, s, t = 1.5, 0.7, times(f64)
    term = SDETerm(
        lambda t, y: -k * y,
        lambda t, y: s * torch.ones_like(y),
        prior=lambda t, y: 0 * y,
    )
    found = run(
        term,
        torch.zeros(1, 1, **f64),
        t,
        method="srk",
        controller=FixedSteps(0.02),
        paths=2000,
    )
    # Half k^2 / s^2 times the integral of E y^2 = s^2 (1 - exp(-2 k t)) / (2 k).
    want = k / 4 * (t - (1 - torch.exp(-2 * k * t)) / (2 * k))
    error = found.path_kl.std(dim=0) / math.sqrt(2000)
    assert bool(((found.path_kl.mean(dim=0) - want).abs() <= 4 * error).all())
    assert float(error[-1]) < 0.05 * float(want[-1])


def matrix_term(g: Tensor, a: Tensor, noise: str) -> SDETerm:
    """Drifts that differ by `a (2,)`, and a diffusion `g (2, m)`."""

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        one = g[:, 0] if noise == "scalar" else g
        return one.expand(y.shape[0], *one.shape)

    return SDETerm(
        lambda t, y: a - y,
        diffusion,
        noise=noise,
        noise_dim=None if noise == "scalar" else g.shape[1],
        prior=lambda t, y: -y,
    )


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize(
    ("noise", "g"),
    [
        ("general", ((0.9, 0.7), (-0.2, 1.1))),
        ("additive", ((0.9, 0.7, 0.1), (-0.2, 1.1, 0.4))),
        ("general", ((0.5, 1.0), (1.0, 2.0))),
        ("general", ((0.5,), (1.0,))),
        ("scalar", ((0.5,), (1.0,))),
    ],
)
def test_matrices_by_hand(
    f64: KIND, noise: str, g: tuple[tuple[float, ...], ...], batch: str
) -> None:
    """The shortest u that comes nearest, also outside the range of g."""
    a = (0.4, -0.3)
    term = matrix_term(torch.tensor(g, **f64), torch.tensor(a, **f64), noise)
    found = run(term, start(3, **f64), times(f64), batch=batch)
    u = np.linalg.lstsq(np.array(g), np.array(a), rcond=None)[0]
    want = (half_square(u) * times(f64)).expand(3, 4)
    torch.testing.assert_close(found.path_kl, want, rtol=1e-10, atol=0)


def test_correlated_motions(f64: KIND) -> None:
    term = SDETerm(
        lambda t, y: 0.3 - y,
        lambda t, y: torch.tensor([0.5, 0.8], **f64).expand_as(y),
        mixing=torch.tensor(MIXING, **f64),
        prior=lambda t, y: -y,
    )
    g = np.diag([0.5, 0.8]) @ np.array(MIXING)
    u = np.linalg.solve(g @ g.T, [0.3, 0.3])
    # u = g^T (g g^T)^-1 a, and |u|^2 = a^T (g g^T)^-1 a.
    want = 0.5 * float(u @ [0.3, 0.3]) * times(f64)
    found = run(term, start(3, **f64), times(f64))
    torch.testing.assert_close(found.path_kl, want.expand(3, 4), rtol=1e-10, atol=0)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("noise", list(PROBLEMS))
def test_euler_adds_up_the_rate_along_its_path(
    f64: KIND, noise: str, mixed: bool
) -> None:
    """With a motion for each entry, or more, of which numpy finds the shortest u."""
    if mixed and noise == "scalar":
        return
    mixing = torch.tensor(MIXING, **f64) if mixed else None
    term = replace(
        PROBLEMS[noise].term(noise, "ito"),
        prior=lambda t, y: column(t).cos() - 0.4 * y,
        mixing=mixing,
    )
    ts = torch.linspace(0.0, 1.0, 11, **f64)
    found = run(term, start(3, **f64), ts)
    want = np.zeros((3, 11))
    for n in range(10):
        t, y = ts[n], found.ys[:, n]
        a = (term.drift(t, y) - term.prior(t, y)).cpu().numpy()
        g = term.diffusion(t, y).cpu().numpy()
        for sample in range(3):
            matrix = np.diag(g[sample]) if noise == "diagonal" else g[sample]
            matrix = matrix.reshape(2, -1)
            matrix = matrix @ np.array(MIXING) if mixed else matrix
            u = np.linalg.lstsq(matrix, a[sample], rcond=None)[0]
            want[sample, n + 1] = want[sample, n] + 0.1 * half_square(u)
    np.testing.assert_allclose(found.path_kl.cpu().numpy(), want, rtol=1e-10)


def test_times_of_each_sample(f64: KIND) -> None:
    nan = math.nan
    ts = torch.tensor([[0.0, 0.2, nan, nan], [0.5, 0.6, 1.0, 1.5]], **f64)
    term = SDETerm(
        lambda t, y: column(t) - y,
        lambda t, y: torch.full_like(y, 0.5),
        prior=lambda t, y: column(t) - y - 1.0,
    )
    want = torch.tensor([[0.0, 0.8, 0.8, 0.8], [0.0, 0.4, 2.0, 4.0]], **f64)
    found = run(term, start(2, **f64), ts)
    torch.testing.assert_close(found.path_kl, want)


@pytest.mark.parametrize("noise", list(PROBLEMS))
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_a_prior_changes_nothing_else(f64: KIND, noise: str, batch: str) -> None:
    plain, count = PROBLEMS[noise], 0
    for method in SDE_METHODS.values():
        for interpretation in method.interpretations:
            if noise not in method.noises or method.name == "linear_splitting":
                continue
            count += 1
            term = plain.term(noise, interpretation)
            one, other = (
                run(each, start(3, **f64), times(f64), method=method.name, batch=batch)
                for each in (term, replace(term, prior=lambda t, y: -0.1 * y))
            )
            assert torch.equal(one.ys, other.ys), method.name
            assert torch.equal(one.final, other.final)
            for kind in ("error_estimate", "stiffness"):
                torch.testing.assert_close(
                    getattr(one.stats, kind),
                    getattr(other.stats, kind),
                    rtol=1e-12,
                    atol=0,
                    equal_nan=True,
                )
            assert one.path_kl is None and other.path_kl is not None
            assert bool((other.path_kl.diff(dim=1) > 0).all())
    assert count > 5


def nested(f64: KIND) -> tuple[SDETerm, dict[str, object]]:
    """A state of a matrix, a complex vector and a number, drifts 1 apart."""
    y0 = {
        "a": torch.ones(2, 2, 3, **f64),
        "b": [torch.ones(2, 4, dtype=torch.complex128, device=f64["device"])],
        "c": torch.ones(2, **f64),
    }

    def drift(t: Tensor, y: dict[str, object]) -> dict[str, object]:
        return {"a": 1.0 - y["a"], "b": [(1.0 + 1.0j) - y["b"][0]], "c": 1.0 - y["c"]}

    def diffusion(t: Tensor, y: dict[str, object]) -> dict[str, object]:
        return {
            "a": torch.full_like(y["a"], 0.5),
            "b": [torch.full_like(y["b"][0], 0.5 + 0.5j)],
            "c": torch.full_like(y["c"], 0.5),
        }

    def prior(t: Tensor, y: dict[str, object]) -> dict[str, object]:
        return {"a": -y["a"], "b": [-y["b"][0]], "c": -y["c"]}

    return SDETerm(drift, diffusion, prior=prior), y0


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_nested_states_are_as_the_user_gave_them(f64: KIND, batch: str) -> None:
    term, y0 = nested(f64)
    shown = []

    def norm(error: dict[str, object]) -> Tensor:
        shown.append(error)
        return error["c"].abs().amax().reshape(1) if batch == "shared" else error["c"]

    controller = FixedSteps(
        0.1, atol={"a": 1e-3, "b": [1e-4], "c": torch.tensor([1e-3, 1e-2])}, norm=norm
    )
    options = {"controller": controller, "batch": batch, "method": "srk"}
    probe = torch.tensor([0.55], **f64)
    found = run(term, y0, times(f64), probe_times=probe, **options)
    plain = run(replace(term, prior=None), y0, times(f64), probe_times=probe, **options)
    for one, other in ((found.ys, plain.ys), (found.probes, plain.probes)):
        assert one.keys() == y0.keys()
        assert one["b"][0].dtype == torch.complex128
        for key in ("a", "c"):
            assert torch.equal(one[key], other[key])
        assert torch.equal(one["b"][0], other["b"][0])
    assert found.final["a"].shape == (2, 2, 3)
    assert shown and all(error.keys() == y0.keys() for error in shown)
    # 6 + 2 * 4 + 1 entries.
    want = (15 * 0.5 * 4 * times(f64)).expand(2, 4)
    torch.testing.assert_close(found.path_kl, want, rtol=1e-12, atol=0)


def test_a_state_of_one_tensor_stays_contiguous(f64: KIND) -> None:
    def drift(t: Tensor, y: Tensor) -> Tensor:
        assert y.is_contiguous()
        return -y

    term = SDETerm(drift, lambda t, y: 1.0 + 0.0 * y, prior=lambda t, y: 0.0 * y)
    found = run(term, torch.ones(3, 2, 2, **f64), times(f64))
    assert found.path_kl is not None and found.path_kl.shape == (3, 4)


def test_accepted_and_further_steps_keep_the_users_state(f64: KIND) -> None:
    term = replace(PROBLEMS["diagonal"].term("diagonal", "ito"), prior=lambda t, y: -y)
    y0 = start(3, **f64).requires_grad_()
    found = run(term, y0, times(f64), method="srk")
    number = torch.full((3,), 2, device=f64["device"])
    t, h, y = found.accepted_step(number)
    assert y.shape == (3, 2)
    error, _ = found.embedded_step(t, y, h)
    assert error.shape == (3,) and bool((error > 0).all())


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_a_motion_has_the_size_that_it_has_without(f64: KIND, noise: str) -> None:
    term = replace(PROBLEMS[noise].term(noise, "ito"), prior=lambda t, y: -y)
    size = (3, 2 if noise == "diagonal" else 1)
    tree = BrownianTree(3, 0.0, 1.0, size, **f64)
    one, other = (
        run(each, start(3, **f64), times(f64), noise=tree)
        for each in (term, replace(term, prior=None))
    )
    assert torch.equal(one.ys, other.ys)


@pytest.mark.parametrize("noise", list(PROBLEMS))
@pytest.mark.parametrize("mixed", [False, True])
def test_conversion_keeps_it(f64: KIND, noise: str, mixed: bool) -> None:
    """The rate at one state is the same in both interpretations, and so the limits."""
    if mixed and noise == "scalar":
        return
    term = PROBLEMS[noise].term(noise, "ito")
    mixing = torch.tensor(MIXING, **f64) if mixed else None
    term = replace(term, prior=lambda t, y: -0.1 * y, mixing=mixing)
    other = term.to("stratonovich")
    assert other.prior is term.prior
    size = (8, 3 if mixed else 1 if noise == "scalar" else 2)
    motion = BrownianTree(5, 0.0, 1.0, size, **f64)
    fine = {"controller": FixedSteps(1 / 256), "noise": motion}
    one = run(term, start(8, **f64), times(f64), **fine)
    two = run(other, start(8, **f64), times(f64), method="heun", **fine)
    gap = (one.path_kl - two.path_kl).abs().mean()
    assert float(gap) < 0.05 * float(one.path_kl[:, -1].mean())
