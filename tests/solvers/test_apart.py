"""Warnings that the two states of reversible Heun have parted where it matters."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from fine_path import tree
from problems import KIND
from torch import Tensor, vmap

from nde.solvers import PID, Direct, FixedSteps, SDETerm, Solution, solve

MESSAGE = (
    r"two states of method 'reversible_heun' differ by .* of their size, and (the "
    r"drift|the diffusion|a step) by .* of its .*contracts.*method 'heun' with "
    r"adjoint=Recompute\(\), or solve shorter intervals"
)


def bent(t: Tensor, y: Tensor) -> Tensor:
    return 0.8 * (1 + y**2).sqrt()


def pulled(t: Tensor, y: Tensor) -> Tensor:
    return 5 * (2 - y) - 0.32 * y


def relaxing(t: Tensor, y: Tensor) -> Tensor:
    return -2 * y


def even(t: Tensor, y: Tensor) -> Tensor:
    return torch.full_like(y, 0.8)


BENT = SDETerm(pulled, bent, interpretation="stratonovich")
LINEAR = SDETerm(relaxing, even, interpretation="stratonovich")


def solved(
    term: SDETerm, rows: int, t1: float, f64: KIND, **options: object
) -> Solution:
    return solve(
        term,
        torch.full((rows, 1), 0.3, **f64),
        torch.tensor([0.0, t1], **f64),
        **{"method": "reversible_heun", "noise": 5, **options},
    )


@contextmanager
def silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    "controller", [PID(0.1, 0.1), PID(0.03, 0.03), FixedSteps(1 / 64)]
)
def test_states_that_part_are_told(controller: PID | FixedSteps, f64: KIND) -> None:
    """Where `heun` errs by a tenth, with few steps and no warning."""
    noise = tree(50, 1, f64, t1=2.0)
    with silence():
        fine = solved(
            BENT, 50, 2.0, f64, method="heun", controller=PID(1e-2, 1e-2), noise=noise
        )
    with pytest.warns(UserWarning, match=MESSAGE) as found:
        sol = solved(
            BENT, 50, 2.0, f64, controller=controller, noise=noise, throw=False
        )
    assert len(found) == 1 and found[0].filename == __file__
    assert float((sol.final - fine.final).square().mean()) > 100.0


def test_a_distance_that_does_no_harm_is_not_told(f64: KIND) -> None:
    """Along a linear equation it cancels: looked at, with five calls, and let pass.
    Ten units of time later the same steps are wrong."""
    noise = tree(50, 1, f64, t1=16.0)
    step = FixedSteps(1 / 256)
    with silence():
        near = solved(LINEAR, 50, 4.0, f64, controller=step, noise=noise)
        fine = solved(LINEAR, 50, 4.0, f64, controller=step, noise=noise, method="heun")
    assert (near.stats.evaluations == 4 * 256 + 1 + 5).all()
    assert float((near.final - fine.final).abs().amax()) < 0.02
    with pytest.warns(UserWarning, match="a step by .* of its length with them"):
        solved(LINEAR, 50, 16.0, f64, controller=step, noise=noise)


BOUNDED = {
    "tanh": (lambda t, y: -2 * torch.tanh(2 * y), lambda t, y: torch.full_like(y, 0.5)),
    "sin": (lambda t, y: -2 * torch.sin(y), lambda t, y: 0.6 + 0.3 * torch.cos(y)),
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("step", [0.005, 0.02])
def test_bounded_drifts_are_told_at_any_step(name: str, step: float, f64: KIND) -> None:
    """Where a step changes by little of its noise, but the drift by all that it is."""
    drift, diffusion = BOUNDED[name]
    term = SDETerm(drift, diffusion, interpretation="stratonovich")
    options = {"controller": FixedSteps(step), "noise": tree(100, 1, f64, t1=5.0)}
    with pytest.warns(UserWarning, match="the drift by .* of its size with them"):
        sol = solved(term, 100, 5.0, f64, **options)
    fine = solved(term, 100, 5.0, f64, method="heun", **options)
    error = (sol.final - fine.final).square().mean().sqrt()
    assert float(error) > 2 * float(fine.final.square().mean().sqrt())


def test_a_diffusion_that_is_lost_is_told(f64: KIND) -> None:
    """Of a linear drift, which the distance leaves as it is."""
    term = SDETerm(
        relaxing,
        lambda t, y: torch.where(y.abs() < 2, 1.0, 0.1 + 0 * y),
        interpretation="stratonovich",
    )
    with pytest.warns(UserWarning, match="the diffusion by .* of its size with them"):
        solved(term, 100, 4.0, f64, controller=FixedSteps(1 / 256))


def test_little_that_is_lost_is_not_told(f64: KIND) -> None:
    """A drift that bends, but would hardly move the state; the noise sets it apart."""
    term = SDETerm(
        lambda t, y: 0.02 * (20 * y).sin(),
        lambda t, y: 1.5 * y,
        interpretation="stratonovich",
    )
    options = {"controller": FixedSteps(1 / 256), "noise": tree(100, 1, f64, t1=1.0)}
    with silence():
        sol = solved(term, 100, 1.0, f64, **options)
        fine = solved(term, 100, 1.0, f64, method="heun", **options)
    assert (sol.stats.evaluations == 256 + 1 + 5).all()
    error = (sol.final - fine.final).square().mean().sqrt()
    assert float(error) < 0.05 * float(fine.final.square().mean().sqrt())


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("controller", [PID(1e-2, 1e-2), FixedSteps(1 / 64)])
def test_solves_that_are_right_are_not_told(
    rows: int, controller: PID | FixedSteps, f64: KIND
) -> None:
    """Some paths end near 0, or far from their second state, by chance."""
    calm = SDETerm(lambda t, y: -0.5 * y, bent, interpretation="stratonovich")
    growth = SDETerm(
        lambda t, y: 0.5 * y, lambda t, y: 0.8 * y, interpretation="stratonovich"
    )
    with silence():
        for term in (calm, growth):
            for seed in range(1 if rows > 1 else 20):
                solved(term, rows, 1.0, f64, controller=controller, noise=seed)


def test_samples_that_failed_are_not_told(f64: KIND) -> None:
    with silence():
        sol = solved(
            BENT, 4, 2.0, f64, controller=PID(0.1, 0.1), max_steps=60, throw=False
        )
    assert (sol.status != 0).all()


SHAPES = {
    "shared": {"batch": "shared"},
    "common": {"controller": FixedSteps(1 / 16)},
    "own times": {
        "controller": FixedSteps(1 / 16),
        "ts": torch.tensor([[0.0, 2.0], [0.0, 1.9], [0.0, 1.8]], dtype=torch.float64),
    },
    "prior": {"prior": lambda t, y: pulled(t, y) + 0.1},
    "general": {"noise_kind": "general", "noise_dim": 2},
    "mixed": {"mixing": torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)},
    "single": {"dtype": torch.float32},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_states_of_any_layout(shape: str, f64: KIND) -> None:
    options = {"controller": PID(0.1, 0.1), **SHAPES[shape]}
    matrix = options.pop("noise_kind", None)

    def g(t: Tensor, y: Tensor) -> Tensor:
        value = bent(t, y)
        return value.unsqueeze(2) * value.new_tensor([0.6, 0.8]) if matrix else value

    term = SDETerm(
        pulled,
        g,
        noise=matrix or "diagonal",
        interpretation="stratonovich",
        **{k: options.pop(k) for k in ("prior", "noise_dim", "mixing") if k in options},
    )
    kind = {**f64, "dtype": options.pop("dtype", torch.float64)}
    ts = options.pop("ts", torch.tensor([0.0, 2.0])).to(**kind)
    with pytest.warns(UserWarning, match=MESSAGE):
        solve(
            term,
            torch.full((3, 2), 0.3, **kind),
            ts,
            method="reversible_heun",
            noise=5,
            throw=False,
            **options,
        )


def test_the_worst_member_of_an_ensemble_is_told(f64: KIND) -> None:
    def ended(rate: Tensor) -> Tensor:
        term = SDETerm(lambda t, y: rate * (2 - y), bent, interpretation="stratonovich")
        return solved(
            term, 3, 2.0, f64, controller=FixedSteps(1 / 64), adjoint=Direct()
        ).final

    with silence():
        vmap(ended, randomness="same")(torch.tensor([-0.1, 0.1], **f64))
    with pytest.warns(UserWarning, match=MESSAGE) as found:
        vmap(ended, randomness="same")(torch.tensor([0.1, 5.0], **f64))
    assert len(found) == 1
