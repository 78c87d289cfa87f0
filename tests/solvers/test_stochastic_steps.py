"""Steps of every method for SDEs: layouts, no length, limits, calls and gradients."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from problems import KIND
from sde_paths import Path, bound, brownian_path, driven, one_step
from sde_problems import PROBLEMS, size, start
from torch import Tensor

from nde.solvers import (
    SDE_METHODS,
    BrownianGrid,
    Direct,
    FixedSteps,
    Recompute,
    SDETerm,
    solve,
)
from nde.solvers.types import Increment

F64 = {"dtype": torch.float64}
# The splitting is for noise that is linear in the state, and tested beside it.
CASES = [
    (name, noise, interpretation)
    for name, method in SDE_METHODS.items()
    for noise in method.noises
    for interpretation in method.interpretations
    if name != "linear_splitting"
]
ALL = pytest.mark.parametrize(("name", "noise", "interpretation"), CASES)
# More than its declared calls of the diffusion that a method makes with general noise
# of two motions.
MORE = {"milstein": 1, "log_ode": 2}


def still(h: float | Tensor, batch: int, m: int, **kind: object) -> Increment:
    zero = torch.zeros(batch, m, **kind)
    return Increment(h, zero, zero, torch.zeros(batch, m, m, **kind))


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_of_no_length_is_the_identity(
    name: str, noise: str, interpretation: str, dtype: torch.dtype
) -> None:
    kind, method, problem = {"dtype": dtype}, SDE_METHODS[name], PROBLEMS[noise]
    y = start(3, **kind).requires_grad_()
    for shared in (False, True):
        term = bound(problem.term(noise, interpretation), y, shared=shared)
        rows = term.layout.to_engine(y, "y0")
        length = torch.zeros(term.layout.rows, 1, **kind)
        for t, h in ((0.4, 0.0), (torch.full((len(rows),), 0.4), length)):
            out = one_step(method, term, rows, t, still(h, 3, problem.motions, **kind))
            assert torch.equal(out.y1, rows)
            (grad,) = torch.autograd.grad(out.y1.sum(), y)
            assert torch.equal(grad, torch.ones_like(y))
            if out.error is not None:
                assert out.error.abs().max() == 0


@ALL
def test_layouts_agree(name: str, noise: str, interpretation: str, f64: KIND) -> None:
    """One row for all or a row each; the length a number or one for each row."""
    method, problem = SDE_METHODS[name], PROBLEMS[noise]
    path = brownian_path(4, 3, problem.motions, seed=2, device=f64["device"])
    y = start(3, **f64) + 0.1 * torch.arange(3, **f64)[:, None]
    found = []
    for shared in (False, True):
        term = bound(problem.term(noise, interpretation), y, shared=shared)
        for own in (False, True):
            rows = term.layout.to_engine(y, "y0")
            carry = method.start(term, torch.zeros(len(rows), **f64), rows)
            for j in range(path.steps):
                t: float | Tensor = j * path.h
                h: float | Tensor = path.h
                if own:
                    t = torch.full((len(rows),), t, **f64)
                    h = torch.full((len(rows), 1), h, **f64)
                inc = path.increment(j, h)
                out = method.step(term, t, rows, inc, carry, None)
                rows, carry = out.y1, out.carry
                assert all(len(part) == len(rows) for part in carry)
            error = torch.zeros_like(rows) if out.error is None else out.error
            found.append(torch.stack((rows.reshape(y.shape), error.reshape(y.shape))))
    assert (found[0][0] - y).abs().min() > 1e-3
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-14)


@ALL
def test_calls_are_as_declared(name: str, noise: str, interpretation: str) -> None:
    calls = {"drift": 0, "diffusion": 0}

    def counted(
        what: str, field: Callable[[Tensor, Tensor], Tensor]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        def call(t: Tensor, y: Tensor) -> Tensor:
            calls[what] += 1
            return field(t, y)

        return call

    method, problem = SDE_METHODS[name], PROBLEMS[noise]
    plain = problem.term(noise, interpretation)
    term = SDETerm(
        counted("drift", plain.drift),
        counted("diffusion", plain.diffusion),
        noise=plain.noise,
        interpretation=plain.interpretation,
        noise_dim=plain.noise_dim,
    )
    y, path = start(3, **F64), brownian_path(5, 3, problem.motions, seed=2)
    driven(method, term, y, path)
    begun = len(method.start(bound(plain, y), y.new_zeros(()), y)) > 0
    assert calls["drift"] == method.drift_evaluations * 5 + begun
    most = method.diffusion_evaluations
    if noise == "general":
        most += MORE.get(name, 0)
    used = calls["diffusion"] - method.start_evaluations
    if (name, noise, interpretation) == ("milstein", "diagonal", "ito"):
        used += 5  # The derivative is that of the graph of a call.
    if noise == "additive":
        assert used <= 5 * most
    else:
        assert used == 5 * most
        assert method.evaluations(torch.tensor(5)) <= max(calls["drift"], used)


def coupled(t: Tensor, y: Tensor) -> Tensor:
    """A diagonal diffusion that each entry's neighbour has a part in."""
    return size(t) * (1.0 + 0.5 * (y + 2.0 * y.flip(-1)).sin())


def as_matrix(t: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(coupled(t, y))


# Of two motions with correlation 0.6, for the coupled diffusion.
MIXING = torch.tensor([[1.0, 0.0], [0.6, 0.8]], **F64)


def limits(noise: str) -> tuple[SDETerm, SDETerm]:
    """A Stratonovich term, and one to trust: with its noise as a matrix."""
    term = PROBLEMS[noise.removesuffix(" mixed")].term(
        noise.removesuffix(" mixed"), "stratonovich"
    )
    if term.noise != "diagonal":
        return term, term
    mixing = MIXING if noise == "diagonal mixed" else None
    coupled_term = replace(term, diffusion=coupled, mixing=mixing)
    matrix = replace(coupled_term, diffusion=as_matrix, noise="general", noise_dim=2)
    return coupled_term, matrix


@cache
def trusted_end(noise: str) -> tuple[Tensor, Path, Tensor]:
    """Start, path, and end of the reference."""
    y0, m = start(4000, **F64), 1 if noise == "scalar" else 2
    path = brownian_path(64, len(y0), m, seed=9)
    return y0, path, driven(SDE_METHODS["log_ode"], limits(noise)[1], y0, path)


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        (name, noise)
        for name, method in SDE_METHODS.items()
        for noise in ("diagonal", "diagonal mixed", "scalar", "general")
        if noise.removesuffix(" mixed") in method.noises and name != "linear_splitting"
    ],
)
def test_converted_terms_have_one_limit(name: str, noise: str) -> None:
    """Also where the entries of a diagonal diffusion depend on each other.

    What many steps leave to a reference that takes the noise as a matrix with areas has
    a mean of nearly nothing, against that of the term read in the other interpretation.
    """
    method, (term, _) = SDE_METHODS[name], limits(noise)
    y0, path, exact = trusted_end(noise)
    for interpretation in method.interpretations:
        converted = term.to(interpretation)
        # The conversion undone, or done once too often.
        wrong = replace(converted, correction=converted.correction + 1)
        if interpretation == "ito":
            wrong = replace(converted, correction=0)
        gap = driven(method, converted, y0, path) - exact
        far = driven(method, wrong, y0, path) - exact
        spread, bias = gap.std(dim=0) / len(y0) ** 0.5, far.mean(dim=0).abs().max()
        assert bool((gap.mean(dim=0).abs() < 4 * spread + 0.1 * bias).all())
        assert bias > 20 * spread.max()


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        ("euler_heun", "diagonal"),
        ("lamba_em", "diagonal"),
        ("midpoint", "general"),
        ("reversible_heun", "general"),
        ("milstein", "diagonal"),
        ("milstein", "general"),
        ("milstein_grad_free", "scalar"),
        ("log_ode", "general"),
        ("sosri2", "diagonal"),
        ("sosra2", "additive"),
        ("shark", "additive"),
        ("spark", "general"),
        ("slow_rk", "scalar"),
    ],
)
def test_gradients_by_finite_differences(name: str, noise: str) -> None:
    """Of two steps and the error estimate of the last, in the state and a parameter."""
    method, problem = SDE_METHODS[name], PROBLEMS[noise]
    path = brownian_path(2, 2, problem.motions, seed=4)
    for interpretation in method.interpretations:
        plain = problem.term(noise, interpretation)

        def run(y: Tensor, scale: Tensor, plain: SDETerm = plain) -> tuple[Tensor, ...]:
            term = SDETerm(
                lambda t, y: scale * plain.drift(t, y),
                lambda t, y: scale.square() * plain.diffusion(t, y),
                noise=plain.noise,
                interpretation=plain.interpretation,
                noise_dim=plain.noise_dim,
            )
            found = bound(term, y)
            carry = method.start(found, y.new_zeros(()), y)
            for j in range(2):
                inc = path.increment(j)
                out = method.step(found, j * path.h, y, inc, carry, None)
                y, carry = out.y1, out.carry
            assert out.error is not None
            return y, out.error

        y = (start(2, **F64) + 0.1 * torch.arange(2, **F64)[:, None]).requires_grad_()
        scale = torch.tensor(0.9, **F64, requires_grad=True)
        assert torch.autograd.gradcheck(run, (y, scale))


@pytest.mark.parametrize(
    ("name", "noise"), [("sosri2", "diagonal"), ("sosra2", "additive")]
)
def test_stiffness_is_the_rate_of_a_linear_drift(name: str, noise: str) -> None:
    y = start(3, **F64)
    plain = PROBLEMS[noise].term(noise, "ito")
    term = SDETerm(
        lambda t, y: -7.0 * y,
        plain.diffusion,
        noise=plain.noise,
        noise_dim=plain.noise_dim,
    )
    step = brownian_path(10, 3, 2, seed=1).increment(0)
    out = one_step(SDE_METHODS[name], bound(term, y), y, 0.2, step)
    assert out.stiffness is not None
    torch.testing.assert_close(out.stiffness, torch.full((3,), 7.0, **F64))


@ALL
def test_solves_repeat_their_steps_for_gradients(
    name: str, noise: str, interpretation: str
) -> None:
    """Also what a step hands on to the next, to rows that end after 2 and 5 steps."""
    ts = torch.tensor([[0.0, 0.2], [0.0, 0.5]], **F64)
    found = []
    for adjoint in (Recompute(), Direct()):
        y0 = start(2, **F64).requires_grad_()
        done = solve(
            PROBLEMS[noise].term(noise, interpretation),
            y0,
            ts,
            method=name,
            controller=FixedSteps(0.1),
            noise=BrownianGrid(seed=3),
            adjoint=adjoint,
        )
        done.final.square().sum().backward()
        assert y0.grad is not None
        found.append((done.final.detach(), y0.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)
    assert found[0][1].abs().min() > 1e-3
