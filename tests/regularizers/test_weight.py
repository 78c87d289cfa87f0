"""Weights, schedules, and what the constructors refuse."""

import math
from collections.abc import Callable

import pytest

from nde.regularizers import (
    ErrorEstimate,
    Exponential,
    LocalError,
    LocalSampling,
    LocalStiffness,
    Stiffness,
    weight_at,
)

ALL = pytest.mark.parametrize(
    "make", [ErrorEstimate, Stiffness, LocalError, LocalStiffness]
)


def test_the_exponential_schedule() -> None:
    """lambda(e) = l0 exp(-k e) with k = ln(l0 / l1)."""
    schedule = Exponential(100.0, 10.0)
    for progress in (0.0, 0.25, 0.5, 0.9, 1.0):
        want = 100.0 * math.exp(-math.log(10.0) * progress)
        assert weight_at(schedule, progress) == pytest.approx(want, rel=1e-13)
    assert weight_at(schedule, 0.5) == pytest.approx(math.sqrt(1000.0))
    assert weight_at(Exponential(0.1, 5.0), 1.0) == pytest.approx(5.0)
    assert weight_at(schedule, 7.0) == pytest.approx(10.0)
    assert weight_at(schedule, -1.0) == pytest.approx(100.0)


def test_a_constant_weight() -> None:
    assert weight_at(2.5, 0.0) == weight_at(2.5, 1.0) == 2.5


@ALL
def test_weights_are_kept(make: Callable[..., object]) -> None:
    schedule = Exponential(2.0, 1.0)
    assert make(weight=schedule).weight is schedule
    assert make(weight=0.0).weight == 0.0


@ALL
@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_wrong_weights(make: Callable[..., object], weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        make(weight=weight)


@ALL
@pytest.mark.parametrize("weight", ["0.1", None, True])
def test_weights_of_a_wrong_type(make: Callable[..., object], weight: object) -> None:
    with pytest.raises(TypeError, match="weight"):
        make(weight=weight)


@pytest.mark.parametrize(
    ("start", "end"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (1.0, math.nan)]
)
def test_wrong_schedules(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="start|end"):
        Exponential(start, end)


@pytest.mark.parametrize("make", [ErrorEstimate, Stiffness])
def test_wrong_reductions(make: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="reduce.*median"):
        make(reduce="median")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampling": "uniform"}, "sampling.*uniform"),
        ({"draws": 0}, "draws"),
        ({"step": "guess"}, "step"),
        ({"k1": "held"}, "k1"),
        ({"state": "free"}, "state"),
        ({"sampling": "biased", "state": "attached"}, "state.*unbiased"),
    ],
    ids=str,
)
def test_wrong_sampling(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LocalSampling(**options)
