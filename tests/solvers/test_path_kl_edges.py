"""The divergence from a prior: gradients, where the diffusion is zero, and refusals."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from problems import KIND, column
from torch import Tensor

from nde.solvers import (
    SDE_METHODS,
    BrownianGrid,
    Direct,
    FixedSteps,
    Recompute,
    SDETerm,
    Solution,
    SolveError,
    Status,
    solve,
)
from nde.solvers.divergence import given_again

ADJOINTS = pytest.mark.parametrize("adjoint", [Recompute(), Direct()])
MIXING = ((1.0, 0.0, 0.0), (0.6, 0.0, 0.8))


def run(term: SDETerm, y0: Tensor, **options: object) -> Solution:
    chosen = {
        "method": "euler",
        "controller": FixedSteps(0.1),
        "noise": BrownianGrid(3),
        **options,
    }
    ts = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=y0.dtype, device=y0.device)
    return solve(term, y0, ts, **chosen)


def states(f64: KIND) -> Tensor:
    return torch.tensor([[0.8, -0.4], [0.3, 1.2]], **f64)


def with_weights(w: Tensor, noise: str) -> SDETerm:
    """Drift, diffusion and prior with a weight each, `w (3,)`."""

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        one = w[1] * (1.0 + 0.3 * y.square()) * (1.0 + column(t))
        if noise not in ("general", "deficient"):
            return one
        other = 0.4 * w[1] * y.flip(1) if noise == "general" else 2.0 * one
        return torch.stack((one, other), dim=2)

    mixed = noise == "mixed"
    matrix = noise in ("general", "deficient")
    return SDETerm(
        lambda t, y: -w[0] * y.sin(),
        diffusion,
        noise="diagonal" if mixed else "general" if matrix else noise,
        noise_dim=2 if matrix else None,
        mixing=torch.tensor(MIXING, dtype=w.dtype, device=w.device) if mixed else None,
        prior=lambda t, y: w[2] * (1.0 - y),
    )


@ADJOINTS
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize(
    "noise", ["diagonal", "scalar", "general", "deficient", "mixed"]
)
def test_gradients_against_differences(
    f64: KIND, noise: str, batch: str, adjoint: object
) -> None:
    def divergence(w: Tensor, y0: Tensor) -> Tensor:
        term = with_weights(w, noise)
        found = run(term, y0, adjoint=adjoint, batch=batch, method="euler")
        assert found.path_kl is not None
        return found.path_kl

    w = torch.tensor([0.7, 0.5, 0.3], **f64, requires_grad=True)
    y0 = states(f64).requires_grad_()
    assert torch.autograd.gradcheck(divergence, (w, y0), atol=1e-6, rtol=1e-5)


@ADJOINTS
@pytest.mark.parametrize("method", ["srk", "milstein", "heun"])
def test_gradients_of_other_methods(f64: KIND, method: str, adjoint: object) -> None:
    """Whose carry holds drifts, and which ask for the diffusion elsewhere."""

    def divergence(w: Tensor) -> Tensor:
        term = with_weights(w, "diagonal")
        if method == "heun":
            term = term.to("stratonovich")
        found = run(term, states(f64), adjoint=adjoint, method=method)
        assert found.path_kl is not None
        return found.path_kl[:, 1:]

    w = torch.tensor([0.7, 0.5, 0.3], **f64, requires_grad=True)
    assert torch.autograd.gradcheck(divergence, (w,), atol=1e-6, rtol=1e-5)


@ADJOINTS
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general", "mixed"])
def test_no_noise_where_the_drifts_agree(
    f64: KIND, noise: str, adjoint: object
) -> None:
    """The first entry rests without noise; for a matrix, all of sample 1 does."""
    w = torch.tensor([0.7, 0.5, 0.3], **f64, requires_grad=True)
    matrix = noise in ("scalar", "general")
    moving = torch.tensor([[1.0, 1.0], [0.0, 0.0]] if matrix else [0.0, 1.0], **f64)

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        one = (w[1] * moving).expand_as(y)
        return one.unsqueeze(2) if noise == "general" else one

    term = SDETerm(
        lambda t, y: w[0] * moving - y,
        diffusion,
        noise="diagonal" if noise == "mixed" else noise,
        noise_dim=1 if noise == "general" else None,
        mixing=torch.tensor(MIXING, **f64) if noise == "mixed" else None,
        prior=lambda t, y: w[2] * moving - y,
    )
    found = run(term, states(f64), adjoint=adjoint)
    # One motion that serves both entries has to move but once.
    want = torch.full((2,), 0.5 * (0.4 / 0.5) ** 2, **f64)
    if matrix:
        want[1] = 0.0
    torch.testing.assert_close(found.path_kl[:, -1], want, rtol=1e-10, atol=0)
    found.path_kl[:, -1].sum().backward()
    kl = float(want.sum())
    slopes = torch.tensor([2 * kl / 0.4, -2 * kl / 0.5, -2 * kl / 0.4], **f64)
    torch.testing.assert_close(w.grad, slopes)


@ADJOINTS
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general", "mixed"])
def test_no_noise_where_the_drifts_differ(
    f64: KIND, noise: str, adjoint: object
) -> None:
    """Infinite there, while states, other samples and gradients are as ever."""
    w = torch.tensor(0.5, **f64, requires_grad=True)
    still = torch.tensor([[False, False], [True, False]], device=f64["device"])

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        late = still & bool(t > 0.35)
        one = torch.where(late, 0.0, w)
        return one.unsqueeze(2) if noise == "general" else one

    term = SDETerm(
        lambda t, y: 0.3 - y,
        diffusion,
        noise="diagonal" if noise == "mixed" else noise,
        noise_dim=1 if noise == "general" else None,
        mixing=torch.tensor(MIXING, **f64) if noise == "mixed" else None,
        prior=lambda t, y: -y,
    )
    found = run(term, states(f64), adjoint=adjoint)
    assert bool((found.status == Status.SUCCESS).all())
    assert bool(torch.isfinite(found.ys).all())
    finite = torch.isfinite(found.path_kl)
    assert finite.tolist() == [[True] * 4, [True, True, False, False]]
    assert bool((found.path_kl[1, 2:] == math.inf).all())
    (found.path_kl.sum() + found.ys.sum()).backward()
    assert bool(torch.isfinite(w.grad)) and float(w.grad) != 0.0


def test_a_rate_beyond_the_dtype_is_infinite() -> None:
    w = torch.tensor(1e-30, requires_grad=True)
    term = SDETerm(
        lambda t, y: 1.0 - y, lambda t, y: w.expand_as(y), prior=lambda t, y: -y
    )
    found = run(term, torch.ones(2, 1))
    assert bool((found.path_kl[:, 1:] == math.inf).all())
    found.path_kl.sum().backward()
    assert float(w.grad) == 0.0


def late_nan(t: Tensor, y: Tensor) -> Tensor:
    """Not defined for the second sample after 0.5."""
    second = torch.arange(len(y), device=y.device).unsqueeze(1) == 1
    return torch.where(second & (column(t) > 0.5), torch.nan, -y)


@ADJOINTS
@pytest.mark.parametrize("which", ["drift", "prior"])
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_what_was_not_reached_is_nan(
    f64: KIND, noise: str, which: str, adjoint: object
) -> None:
    w = torch.tensor(0.5, **f64, requires_grad=True)

    def good(t: Tensor, y: Tensor) -> Tensor:
        return w - y

    term = SDETerm(
        late_nan if which == "drift" else good,
        lambda t, y: 0.5 + 0.0 * y,
        noise=noise,
        prior=late_nan if which == "prior" else good,
    )
    found = run(term, states(f64), throw=False, adjoint=adjoint)
    assert found.status.tolist() == [Status.SUCCESS, Status.NON_FINITE_FIELD]
    nan = found.path_kl.isnan()
    assert nan.tolist() == [[False] * 4, [False, False, True, True]]
    found.path_kl[~nan].sum().backward()
    assert bool(torch.isfinite(w.grad)) and float(w.grad) != 0.0
    with pytest.raises(SolveError, match="sample 1 stopped"):
        run(term, states(f64))


@pytest.mark.parametrize("noise", ["scalar", "general"])
def test_a_matrix_that_is_not_finite_fails_its_sample_alone(
    f64: KIND, noise: str
) -> None:
    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        one = 1.0 + late_nan(t, 0.1 * y)
        return one.unsqueeze(2) if noise == "general" else one

    term = SDETerm(
        lambda t, y: 1.0 - y,
        diffusion,
        noise=noise,
        noise_dim=1 if noise == "general" else None,
        prior=lambda t, y: -y,
    )
    found = run(term, states(f64), throw=False)
    assert found.status.tolist() == [Status.SUCCESS, Status.NON_FINITE_FIELD]
    assert bool(torch.isfinite(found.path_kl[0]).all())


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_a_diffusion_that_only_the_rate_meets_is_not_passed_over(
    f64: KIND, noise: str
) -> None:
    """The drift's second stage lies at 0.75 of a step, where srk takes no diffusion."""

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((column(t) - 0.075).abs() < 0.01, torch.nan, 0.5 + 0.0 * y)

    term = SDETerm(lambda t, y: 1.0 - y, diffusion, noise=noise, prior=lambda t, y: -y)
    found = run(term, states(f64), method="srk", throw=False)
    assert found.status.tolist() == [Status.NON_FINITE_FIELD] * 2


def test_a_value_is_given_again_to_the_same_stage_alone() -> None:
    calls = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(t)
        return t * y

    again = given_again(field)
    t, y = torch.ones(()), torch.ones(2, 1, requires_grad=True)
    with torch.no_grad():
        again(t, y)
    # A value without a graph is none for a call that asks for one.
    assert again(t, y).requires_grad and len(calls) == 2
    assert again(t, y).requires_grad and len(calls) == 2
    again(t, y)
    assert len(calls) == 3
    again(t.clone(), y)
    assert len(calls) == 4
    other = torch.ones(2, 1)
    again(t, other)
    other.mul_(3.0)
    assert float(again(t, other).max()) == 3.0


def test_the_prior_takes_args_and_its_weights_are_found(f64: KIND) -> None:
    layer = torch.nn.Linear(2, 2, **f64)
    shift = torch.tensor(0.2, **f64, requires_grad=True)
    term = SDETerm(
        lambda t, y, args: -y,
        lambda t, y, args: 0.5 + 0.0 * y,
        prior=lambda t, y, args: layer(y) + args[0],
    )
    run(term, states(f64), args=(shift,)).path_kl.sum().backward()
    for found in (shift.grad, layer.weight.grad, layer.bias.grad):
        assert found is not None and float(found.abs().max()) > 0.0


# How often each function is called in 10 steps, beyond the first look at the field.
CALLS = {"euler": (1, 1, 1), "heun": (2, 2, 2), "srk": (2, 5, 2)}


@pytest.mark.parametrize("name", list(CALLS))
def test_functions_are_called_once_a_stage(f64: KIND, name: str) -> None:
    calls: Counter[str] = Counter()

    def counted(which: str, f: Callable[[Tensor], Tensor]) -> object:
        def called(t: Tensor, y: Tensor) -> Tensor:
            calls[which] += 1
            return f(y)

        return called

    term = SDETerm(
        counted("drift", lambda y: -y),
        counted("diffusion", lambda y: 0.5 + 0.0 * y),
        interpretation=SDE_METHODS[name].interpretations[0],
        prior=counted("prior", lambda y: 0.0 * y),
    )
    with torch.no_grad():
        run(term, states(f64), method=name)
    # The grid lands on outputs: 3 + 4 + 3 steps.
    each = CALLS[name]
    assert tuple(calls[key] for key in ("drift", "diffusion", "prior")) == tuple(
        10 * count for count in each
    )


def test_none_without_a_prior(f64: KIND) -> None:
    term = SDETerm(lambda t, y: -y, lambda t, y: 0.5 + 0.0 * y)
    assert run(term, states(f64)).path_kl is None


def test_refusals(f64: KIND) -> None:
    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        return 0.5 + 0.0 * y

    with pytest.raises(TypeError, match="prior must be callable"):
        SDETerm(lambda t, y: -y, diffusion, prior=0.5)  # type: ignore[arg-type]
    for prior, error, words in (
        (lambda t, y: y[:, :1], ValueError, r"prior returned shape \(2, 1\)"),
        (lambda t, y: None, TypeError, "prior returned None"),
        (lambda t, y: y.float(), TypeError, "prior returned torch.float32"),
    ):
        term = SDETerm(lambda t, y: -y, diffusion, prior=prior)
        with pytest.raises(error, match=words):
            run(term, states(f64))
