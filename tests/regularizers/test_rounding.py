"""A warning where error estimates are rounding, and none where they are not."""

import warnings

import pytest
import torch
from problems import TimedMLP, normal
from torch import Tensor

from nde.regularizers import (
    ErrorEstimate,
    LocalError,
    LocalPredictedSteps,
    LocalSampling,
    PredictedSteps,
    Regularizer,
)
from nde.solvers import Backsolve, Direct, FixedSteps, ODETerm, Solution, solve

REGULARIZERS = pytest.mark.parametrize(
    "regularizer",
    [
        ErrorEstimate(),
        PredictedSteps(),
        LocalError(options=LocalSampling(sampling="biased")),
        LocalPredictedSteps(options=LocalSampling(sampling="biased")),
    ],
    ids=lambda r: r.name,
)


def a_solve(
    dtype: torch.dtype, rtol: float, step: float = 0.1, **options: object
) -> tuple[TimedMLP, Solution]:
    """Steps that are given, as adaptive ones do not get that near to rounding."""
    net = TimedMLP(64, seed=0, width=100).to(dtype)
    y0 = normal((32, 64), 1, dtype=dtype)
    ts = torch.tensor([0.0, 1.0])
    controller = FixedSteps(step, rtol=rtol, atol=rtol)
    return net, solve(ODETerm(net), y0, ts, controller=controller, **options)


def gradient(regularizer: Regularizer, net: TimedMLP, sol: Solution) -> Tensor:
    torch.manual_seed(3)
    value = regularizer(sol, None, None)
    return torch.autograd.grad(value, net.inner.weight)[0].double()


@REGULARIZERS
def test_the_warning_comes_where_the_gradient_is_noise(
    regularizer: Regularizer,
) -> None:
    """As the same network tells in double precision."""
    rtol = 1e-6
    cosine = {}
    for step in (0.1, 1.0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = gradient(regularizer, *a_solve(torch.float32, rtol, step))
        exact = gradient(regularizer, *a_solve(torch.float64, rtol, step))
        cosine[step] = torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
        said = [str(w.message) for w in caught]
        if step == 0.1:
            assert len(said) == 1 and "is rounding in float32" in said[0]
            assert "float64" in said[0]
        else:
            assert not said
    assert cosine[0.1] < 0.5 and cosine[1.0] > 0.95


@REGULARIZERS
@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [(torch.float64, 1e-8), (torch.float32, 1e-4), (torch.float32, 1e-3)],
)
def test_usual_tolerances_are_silent(
    dtype: torch.dtype, rtol: float, regularizer: Regularizer
) -> None:
    """Warnings are errors here."""
    gradient(regularizer, *a_solve(dtype, rtol, 0.5))


def test_a_look_costs_nothing_at_usual_tolerances() -> None:
    calls = []
    net = TimedMLP(4).double()

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(None)
        return net(t, y)

    sol = solve(
        ODETerm(field), normal((3, 4), 1, dtype=torch.float64), torch.tensor([0.0, 1.0])
    )
    made = len(calls)
    ErrorEstimate()(sol, None, None)
    assert len(calls) == made


def test_solves_that_keep_no_states_are_looked_at_too() -> None:
    _, sol = a_solve(torch.float32, 1e-7, adjoint=Backsolve())
    with pytest.warns(UserWarning, match="is rounding in float32"):
        assert PredictedSteps()(sol, None, None) > 0


def test_low_precision_of_the_field_counts() -> None:
    """Under autocast the state is in float32, and the field in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, sol = a_solve(torch.float32, 1e-3)
        with pytest.warns(UserWarning, match="in bfloat16.*outside of torch.autocast"):
            ErrorEstimate()(sol, None, None)


def test_transforms_are_not_looked_into() -> None:
    """Where they would be asked for numbers: a penalty of an ensemble of fields."""
    y0 = normal((3, 4), 1, dtype=torch.float32)

    def penalty(rate: Tensor) -> Tensor:
        sol = solve(
            ODETerm(lambda t, y: (rate * y).sin()),
            y0,
            torch.tensor([0.0, 1.0]),
            controller=FixedSteps(0.1, rtol=1e-6, atol=1e-6),
            adjoint=Direct(),
        )
        return ErrorEstimate()(sol, None, None) + PredictedSteps()(sol, None, None)

    rates = torch.tensor([0.5, 2.0])
    slopes = torch.func.vmap(torch.func.grad(penalty))(rates)
    assert slopes.shape == (2,) and slopes.isfinite().all() and slopes.all()
