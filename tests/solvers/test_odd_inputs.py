"""Odd but valid inputs: the right result, or a refusal, and never harm."""

import subprocess
import sys

import pytest
import torch
from fields import decay, ones, times
from problems import KIND
from torch import Tensor

from nde.solvers import (
    PID,
    FixedSteps,
    ODETerm,
    SolveError,
    solve,
)


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize("controller", [PID(), FixedSteps(0.1)], ids=["pid", "fixed"])
def test_empty_batches(controller: object, batch: str, f64: KIND) -> None:
    y0 = torch.ones(0, 3, **f64).requires_grad_()
    sol = solve(
        ODETerm(decay), y0, times(0, 1, **f64), controller=controller, batch=batch
    )
    assert sol.ys.shape == (0, 2, 3) and sol.final.shape == (0, 3)
    assert sol.status.shape == (0,)


def test_states_of_size_zero(f64: KIND) -> None:
    """O56: an empty result, or a refusal that names y0."""
    try:
        sol = solve(ODETerm(decay), torch.ones(5, 0, **f64), times(0, 1, **f64))
    except ValueError as refused:
        assert "y0" in str(refused)
    else:
        assert sol.ys.shape == (5, 2, 0)


@pytest.mark.parametrize(
    "options",
    [{"method": "euler", "controller": FixedSteps(0.01)}, {"method": "dopri5"}],
    ids=["euler", "dopri5"],
)
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_a_field_that_changes_its_state(
    options: dict[str, object], batch: str, f64: KIND
) -> None:
    """O63, O64, O66: right, or refused; and y0 is left alone."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        y.mul_(-1.0)
        return y

    y0 = ones(**f64)
    try:
        sol = solve(ODETerm(field), y0, times(0, 1, **f64), batch=batch, **options)
    except (ValueError, RuntimeError) as refused:
        assert "in place" in str(refused) or "in-place" in str(refused)
    else:
        assert (sol.final - torch.exp(-torch.ones_like(y0))).abs().max() < 5e-3
    assert (y0 == 1).all(), "y0 was changed"


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3"])
def test_a_field_that_reuses_its_buffer(method: str, f64: KIND) -> None:
    """O65: the answer of a field that returns the same tensor at each call."""
    buffer = torch.empty(4, 2, **f64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.neg(y, out=buffer)

    y0, ts = ones(**f64), times(0, 1, **f64)
    with torch.no_grad():
        got = solve(ODETerm(field), y0, ts, method=method).final
        want = solve(ODETerm(decay), y0, ts, method=method).final
    torch.testing.assert_close(got, want)


def test_a_field_that_returns_its_state_itself(f64: KIND) -> None:
    y0, ts = ones(**f64), times(0, 1, **f64)
    got = solve(ODETerm(lambda t, y: y), y0, ts).final
    torch.testing.assert_close(got, torch.e * y0, rtol=5e-3, atol=0)
    assert (y0 == 1).all()


def test_huge_and_tiny_values(f64: KIND, device: torch.device) -> None:
    """O68, O69: near the ends of the range of either precision."""
    for scale, dtype in ((1e37, torch.float32), (1e300, torch.float64)):
        y0 = torch.full((2, 1), scale, dtype=dtype, device=device)
        ts = torch.tensor([0.0, 1.0], dtype=dtype, device=device)
        final = solve(ODETerm(decay), y0, ts).final
        torch.testing.assert_close(final, y0 / torch.e, rtol=1e-2, atol=0)
    y0 = torch.full((2, 1), 1e-300, **f64)
    final = solve(ODETerm(decay), y0, times(0, 1, **f64)).final
    torch.testing.assert_close(final, y0 / torch.e, rtol=0.5, atol=0)


def test_float32_time_that_cannot_move(device: torch.device) -> None:
    """O70: t from 1e8 in float32: the right answer, or an error that speaks of t."""
    ts = torch.tensor([1e8, 1e8 + 16], device=device)
    y0 = torch.ones(2, 1, device=device)
    try:
        sol = solve(ODETerm(decay), y0, ts)
    except (ValueError, SolveError) as refused:
        assert "t" in str(refused)
    else:
        assert sol.final.abs().max() < 1e-3


def test_checks_survive_python_optimisation() -> None:
    """Rule 8: no check is an assert."""
    code = (
        "import torch\n"
        "from nde.solvers import *\n"
        "try:\n"
        "    solve(ODETerm(lambda t, y: y[:1]), torch.ones(4, 2),"
        " torch.tensor([0., 1.]))\n"
        "except ValueError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "refused", done.stderr


def test_the_default_dtype_does_not_matter(f64: KIND) -> None:
    y0, ts = ones(**f64), times(0, 1, **f64)
    first = solve(ODETerm(decay), y0, ts)
    torch.set_default_dtype(torch.float64)
    try:
        second = solve(ODETerm(decay), y0, ts)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(first.ys, second.ys)
    assert first.ys.dtype == second.ys.dtype
