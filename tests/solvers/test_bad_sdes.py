"""Bad input to stochastic solves: the right exception, and a message that helps."""

from collections.abc import Callable

import pytest
import torch
from fields import after_half, decay, ones
from problems import KIND
from torch import Tensor

from nde.solvers import (
    PID,
    BrownianGrid,
    FixedSteps,
    SDETerm,
    SolveError,
    solve,
)

NAN = float("nan")


def sde(
    y0: Tensor, term: SDETerm, *, method: str = "euler", **options: object
) -> object:
    ts = torch.tensor([0.0, 1.0], dtype=y0.dtype, device=y0.device)
    options = {"controller": FixedSteps(0.1), **options}
    return solve(term, y0, ts, method=method, **options)


def test_interpretation_must_fit_the_method(f64: KIND) -> None:
    ito = SDETerm(decay, decay)
    stratonovich = SDETerm(decay, decay, interpretation="stratonovich")
    with pytest.raises(ValueError, match="(?i)ito.*euler|euler.*ito"):
        sde(ones(**f64), ito, method="heun")
    with pytest.raises(ValueError, match="(?i)stratonovich.*heun|heun.*stratonovich"):
        sde(ones(**f64), stratonovich, method="euler")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": "diagnal"}, "noise.*diagonal"),
        ({"noise": "general"}, "noise.*additive"),
        ({"interpretation": "itô"}, "interpretation.*ito"),
        ({"noise": "additive"}, "noise_dim"),
        ({"noise": "additive", "noise_dim": 0}, "noise_dim"),
        ({"noise": "diagonal", "noise_dim": 3}, "noise_dim"),
    ],
)
def test_wrong_sde_terms(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SDETerm(decay, decay, **options)


def test_adaptive_steps_are_refused_for_noise(f64: KIND) -> None:
    with pytest.raises(ValueError, match="FixedSteps"):
        sde(ones(**f64), SDETerm(decay, decay), controller=PID())


def test_ode_methods_are_refused_for_noise(f64: KIND) -> None:
    with pytest.raises(ValueError, match="method.*tsit5.*euler"):
        sde(ones(**f64), SDETerm(decay, decay), method="tsit5")


@pytest.mark.parametrize(
    ("diffusion", "kind", "error", "words"),
    [
        (lambda t, y: None, "diagonal", TypeError, "diffusion.*None"),
        (lambda t, y: y[:1], "diagonal", ValueError, r"diffusion.*\(1, 2\).*\(4, 2\)"),
        (
            lambda t, y: y[..., None],
            "diagonal",
            ValueError,
            r"diffusion.*\(4, 2, 1\).*\(4, 2\)",
        ),
        (lambda t, y: y[:, :1], "scalar", ValueError, r"diffusion.*\(4, 1\)"),
        (lambda t, y: y, "additive", ValueError, r"diffusion.*\(4, 2\).*\(4, 2, 3\)"),
        (lambda t, y: y.float(), "diagonal", TypeError, "diffusion.*float32"),
    ],
    ids=["none", "row", "matrix", "column", "vector", "dtype"],
)
def test_wrong_diffusions(
    diffusion: Callable[[Tensor, Tensor], object],
    kind: str,
    error: type[Exception],
    words: str,
    f64: KIND,
) -> None:
    noise_dim = 3 if kind == "additive" else None
    with pytest.raises(error, match=words):
        sde(ones(**f64), SDETerm(decay, diffusion, noise=kind, noise_dim=noise_dim))


def test_wrong_drift_is_called_drift(f64: KIND) -> None:
    with pytest.raises(ValueError, match=r"drift.*\(4, 1\).*\(4, 2\)"):
        sde(ones(**f64), SDETerm(lambda t, y: y[:, :1], decay))
    with pytest.raises(TypeError, match="drift.*None"):
        sde(ones(**f64), SDETerm(lambda t, y: None, decay))


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_sde_that_turns_non_finite(method: str, f64: KIND) -> None:
    """S32, S33: the error names the time."""
    interpretation = "ito" if method == "euler" else "stratonovich"
    late = SDETerm(
        after_half(NAN),
        lambda t, y: torch.ones_like(y),
        interpretation=interpretation,
    )
    with pytest.raises(SolveError, match="finite") as caught:
        sde(ones(**f64), late, method=method)
    assert caught.value.times[0] == pytest.approx(0.5, abs=0.11)
    explosive = SDETerm(
        lambda t, y: torch.zeros_like(y),
        lambda t, y: y**3,
        interpretation=interpretation,
    )
    with pytest.raises(SolveError, match="finite"):
        sde(10 * ones(**f64), explosive, method=method)


def test_wrong_seeds() -> None:
    with pytest.raises((TypeError, ValueError), match="seed"):
        BrownianGrid(seed=1.5)
    with pytest.raises((TypeError, ValueError), match="seed"):
        BrownianGrid(seed=-1)


def test_sde_too_many_steps(f64: KIND) -> None:
    with pytest.raises((ValueError, SolveError), match="max_steps"):
        sde(ones(**f64), SDETerm(decay, decay), controller=FixedSteps(1e-12))
