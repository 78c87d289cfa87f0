"""Bad input: the right exception, before any step, naming the argument."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from fields import decay, ones, times
from problems import KIND
from torch import Tensor

from nde.solvers import (
    PID,
    BrownianGrid,
    FixedSteps,
    ODETerm,
    SDETerm,
    SolveError,
    solve,
)

NAN, INF = float("nan"), float("inf")
TIGHT = PID(rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("controller", [PID(), FixedSteps(0.1)], ids=["pid", "fixed"])
def test_non_finite_start(bad: float, controller: object, f64: KIND) -> None:
    y0 = ones(**f64)
    y0[2, 1] = bad
    with pytest.raises(ValueError, match=r"y0.*(1|one)\b"):
        solve(ODETerm(decay), y0, times(0, 1, **f64), controller=controller)


@pytest.mark.parametrize(
    ("y0", "error", "words"),
    [
        (torch.ones(4, 2, dtype=torch.int64), TypeError, "y0.*int64"),
        (torch.ones(4, 2, dtype=torch.bool), TypeError, "y0.*bool"),
        (1.0, TypeError, "y0.*float"),
        (np.ones((4, 2)), TypeError, "y0.*ndarray"),
        ([[1.0, 2.0]], TypeError, "y0.*float"),
        (None, TypeError, "y0.*None"),
        ((), ValueError, "y0.*(empty|no tensor)"),
        (torch.tensor(1.0), ValueError, r"y0.*(\(\)|0-dim|batch)"),
        ((torch.ones(4, 2), torch.ones(3, 2)), ValueError, "y0.*batch"),
        (
            (torch.ones(4, 2), torch.ones(4, 2, dtype=torch.float64)),
            TypeError,
            "y0.*float",
        ),
    ],
    ids=[
        "int64",
        "bool",
        "float",
        "numpy",
        "list",
        "none",
        "empty tuple",
        "0-dim",
        "batch sizes",
        "mixed dtypes",
    ],
)
def test_wrong_start(y0: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        solve(ODETerm(decay), y0, torch.tensor([0.0, 1.0]))


def test_complex_states_are_right_or_refused(device: torch.device) -> None:
    """O67: y' = i y."""
    y0 = torch.ones(4, 2, dtype=torch.complex128, device=device)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    try:
        final = solve(ODETerm(lambda t, y: 1j * y), y0, ts, controller=TIGHT).final
    except TypeError as refused:
        assert "y0" in str(refused) and "complex" in str(refused)
    else:
        want = torch.exp(torch.tensor(1j, dtype=torch.complex128)).item()
        assert (final - want).abs().max() < 1e-6


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
@pytest.mark.parametrize("kind", ["ode", "sde"])
def test_wrong_times(
    values: tuple[float, ...], words: str, kind: str, f64: KIND
) -> None:
    with pytest.raises(ValueError, match=words):
        if kind == "ode":
            solve(ODETerm(decay), ones(**f64), times(*values, **f64))
        else:
            solve(
                SDETerm(decay, decay),
                ones(**f64),
                times(*values, **f64),
                method="euler",
                controller=FixedSteps(0.1),
            )


def test_times_of_a_wrong_shape_or_kind(f64: KIND) -> None:
    y0 = ones(**f64)
    with pytest.raises(ValueError, match=r"ts.*\(4, 2, 1\)"):
        solve(ODETerm(decay), y0, torch.zeros(4, 2, 1, **f64))
    with pytest.raises(ValueError, match="ts.*3.*4"):
        solve(ODETerm(decay), y0, times(0, 1, **f64).expand(3, 2))
    with pytest.raises((ValueError, TypeError), match="ts"):
        solve(ODETerm(decay), y0, torch.tensor(1.0, **f64))
    row = times(0, 1, 2, **f64).repeat(4, 1)
    row[2, 1] = 5.0
    with pytest.raises(ValueError, match="ts.*2"):
        solve(ODETerm(decay), y0, row)
    for bad in ([0.0, 1.0], np.array([0.0, 1.0]), torch.tensor([0, 1])):
        with pytest.raises(TypeError, match="ts"):
            solve(ODETerm(decay), y0, bad)


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
        (lambda: PID(rtol=0.0, atol=0.0), "rtol.*atol|atol.*rtol"),
        (lambda: PID(rtol=-1e-3), "rtol"),
        (lambda: PID(atol=-1e-6), "atol"),
        (lambda: PID(rtol=NAN), "rtol"),
        (lambda: PID(atol=NAN), "atol"),
        (lambda: PID(rtol=INF), "rtol"),
        (lambda: PID(safety=0.0), "safety"),
        (lambda: PID(safety=NAN), "safety"),
        (lambda: PID(factor_min=0.0), "factor_min"),
        (lambda: PID(factor_min=1.5), "factor_min"),
        (lambda: PID(factor_max=0.5), "factor_max"),
        (lambda: PID(first_step=0.0), "first_step"),
        (lambda: PID(first_step=-0.1), "first_step"),
        (lambda: PID(first_step=NAN), "first_step"),
        (lambda: PID(pcoeff=NAN), "pcoeff"),
        (lambda: FixedSteps(0.0), "step"),
        (lambda: FixedSteps(-0.1), "step"),
        (lambda: FixedSteps(NAN), "step"),
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
        ({"method": "dopri55"}, ValueError, "method.*dopri55.*dopri5"),
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
        ({"rtol": 1e-3}, TypeError, "rtol"),
    ],
    ids=str,
)
def test_wrong_options(
    options: dict[str, object], error: type[Exception], words: str, f64: KIND
) -> None:
    with pytest.raises(error, match=words):
        solve(ODETerm(decay), ones(**f64), times(0, 1, **f64), **options)


def test_unknown_method_lists_the_names(f64: KIND) -> None:
    with pytest.raises(ValueError) as caught:
        solve(ODETerm(decay), ones(**f64), times(0, 1, **f64), method="nonesuch")
    for name in ("tsit5", "dopri5", "bosh3", "rk4"):
        assert name in str(caught.value)


def test_term_of_a_wrong_type(f64: KIND) -> None:
    for bad in (decay, 5, None):
        with pytest.raises(TypeError, match="ODETerm"):
            solve(bad, ones(**f64), times(0, 1, **f64))
    with pytest.raises(TypeError, match="callable"):
        ODETerm(5)
    with pytest.raises(TypeError, match="drift.*callable|callable.*drift"):
        SDETerm(5, decay)
    with pytest.raises(TypeError, match="diffusion.*callable|callable.*diffusion"):
        SDETerm(decay, None)


def test_too_many_fixed_steps_are_refused_before_any_is_taken(f64: KIND) -> None:
    """O36: neither memory nor time is spent on 10^12 steps."""
    calls = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(None)
        return -y

    with pytest.raises((ValueError, SolveError), match="max_steps"):
        solve(
            ODETerm(field),
            ones(**f64),
            times(0, 1, **f64),
            controller=FixedSteps(1e-12),
        )
    assert len(calls) <= 1


def test_tolerances_below_the_precision_are_pointed_out(device: torch.device) -> None:
    """O28: refused, or a warning that names the tolerance; and the solve ends."""
    y0 = torch.ones(4, 2, device=device)
    ts = torch.tensor([0.0, 1.0], device=device)
    with pytest.warns(UserWarning, match="rtol|tol"):
        sol = solve(
            ODETerm(decay), y0, ts, controller=PID(rtol=1e-9, atol=0.0), throw=False
        )
    assert sol.status.shape == (4,)
