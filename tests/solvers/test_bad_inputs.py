"""Bad input: the right exception, before any step, naming the argument."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from fields import decay, ones, times
from problems import KIND

from nde.solvers import (
    PID,
    BrownianGrid,
    FixedSteps,
    ODETerm,
    SDETerm,
    solve,
)

NAN, INF = float("nan"), float("inf")
TIGHT = PID(rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.0, 1.0, 0.5), "ts.*2"),
        ((0.0, 0.5, 0.5, 1.0), "ts.*2"),
        ((1.0, 0.0, 0.5), "ts"),
        ((1.0, 1.0), "ts"),
        ((), "ts.*empty"),
        ((0.0, NAN, 1.0), "ts.*(NaN|nan|finite)"),
        ((0.0, INF), "ts.*(inf|finite)"),
        ((-INF, 0.0), "ts.*(inf|finite)"),
    ],
    ids=["order", "repeat", "turn", "zero", "empty", "nan", "inf", "-inf"],
)
def test_wrong_times_of_an_sde(
    values: tuple[float, ...], words: str, f64: KIND
) -> None:
    with pytest.raises(ValueError, match=words):
        solve(
            SDETerm(decay, decay),
            ones(**f64),
            times(*values, **f64),
            method="euler",
            controller=FixedSteps(0.1),
        )


def test_batch_sizes_that_differ() -> None:
    y0 = (torch.ones(4, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"y0.*batch sizes \[3, 4\]"):
        solve(ODETerm(decay), y0, torch.tensor([0.0, 1.0]))


def test_times_of_a_wrong_shape_or_kind(f64: KIND) -> None:
    y0 = ones(**f64)
    with pytest.raises((ValueError, TypeError), match="ts"):
        solve(ODETerm(decay), y0, torch.tensor(1.0, **f64))
    row = times(0, 1, 2, **f64).repeat(4, 1)
    row[2, 1] = 5.0
    with pytest.raises(ValueError, match="ts.*2"):
        solve(ODETerm(decay), y0, row)
    with pytest.raises(TypeError, match="ts.*ndarray"):
        solve(ODETerm(decay), y0, np.array(["0.0", "1.0"]))


@pytest.mark.parametrize(
    ("probes", "words"),
    [((-0.1,), "probe_times"), ((0.3, 1.1), "probe_times"), ((NAN,), "probe_times")],
)
def test_probe_times_outside(probes: tuple[float, ...], words: str, f64: KIND) -> None:
    with pytest.raises(ValueError, match=words):
        solve(
            ODETerm(decay),
            ones(**f64),
            times(0, 1, **f64),
            probe_times=times(*probes, **f64),
        )


def test_samples_must_agree_on_the_direction(f64: KIND) -> None:
    """Either refused by name, or both directions right."""
    ts = torch.tensor([[0.0, 1.0], [1.0, 0.0]], **f64)
    try:
        sol = solve(ODETerm(decay), ones(**f64)[:2], ts)
    except ValueError as refused:
        assert "ts" in str(refused)
    else:
        want = torch.exp(torch.tensor([-1.0, 1.0], **f64))
        torch.testing.assert_close(sol.final[:, 0], want, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PID(safety=0.0), "safety"),
        (lambda: PID(safety=NAN), "safety"),
        (lambda: PID(factor_min=0.0), "factor_min"),
        (lambda: PID(factor_min=1.5), "factor_min"),
        (lambda: PID(factor_max=0.5), "factor_max"),
        (lambda: PID(first_step=0.0), "first_step"),
        (lambda: PID(first_step=NAN), "first_step"),
        (lambda: PID(pcoeff=NAN), "pcoeff"),
        (lambda: FixedSteps(INF), "step"),
        (lambda: FixedSteps(0.1, rtol=0.0, atol=0.0), "rtol.*atol|atol.*rtol"),
        (lambda: FixedSteps(0.1, rtol=-1.0), "rtol"),
    ],
)
def test_wrong_controllers(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("step", ["0.1", None])
def test_step_of_a_wrong_type(step: object) -> None:
    with pytest.raises(TypeError, match="step"):
        FixedSteps(step)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "tsti5"}, ValueError, "method.*tsit5"),
        ({"method": 5}, (TypeError, ValueError), "method"),
        ({"method": "rk4"}, ValueError, "rk4.*FixedSteps"),
        ({"method": "euler"}, ValueError, "euler.*FixedSteps"),
        ({"batch": "sharde"}, ValueError, "batch.*shared"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"max_steps": -3}, ValueError, "max_steps"),
        ({"controller": 0.1}, TypeError, "controller"),
        ({"controller": "pid"}, TypeError, "controller"),
        ({"adjoint": "direct"}, TypeError, "adjoint"),
        ({"noise": BrownianGrid(seed=1)}, ValueError, "noise"),
    ],
    ids=str,
)
def test_wrong_options(
    options: dict[str, object], error: type[Exception], words: str, f64: KIND
) -> None:
    with pytest.raises(error, match=words):
        solve(ODETerm(decay), ones(**f64), times(0, 1, **f64), **options)


def test_term_of_a_wrong_type(f64: KIND) -> None:
    for bad in (decay, 5, None):
        with pytest.raises(TypeError, match="ODETerm"):
            solve(bad, ones(**f64), times(0, 1, **f64))
    with pytest.raises(TypeError, match="drift.*callable|callable.*drift"):
        SDETerm(5, decay)
    with pytest.raises(TypeError, match="diffusion.*callable|callable.*diffusion"):
        SDETerm(decay, None)
