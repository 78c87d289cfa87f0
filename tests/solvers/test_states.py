"""States of any shape, layout and dtype, and what the field is handed."""

import pytest
import torch
from problems import DECAY, KIND, SPIRAL, TimedMLP, normal
from torch import Tensor

from nde.solvers import (
    PID,
    Direct,
    ODETerm,
    Recompute,
    solve,
)

TIGHT = PID(rtol=1e-8, atol=1e-9)
BATCHES = pytest.mark.parametrize("batch", ["per_sample", "shared"])


@pytest.mark.parametrize(
    "adjoint", [Recompute(), Direct()], ids=["recompute", "direct"]
)
@BATCHES
def test_recording_a_graph_changes_no_number(
    adjoint: object, batch: str, f64: KIND
) -> None:
    net = TimedMLP(3, seed=22).to(**f64)
    y0, ts = normal((5, 3), 22, **f64), torch.tensor([0.0, 0.3, 2.0], **f64)
    with torch.no_grad():
        plain = solve(ODETerm(net), y0, ts, adjoint=adjoint, batch=batch)
    taped = solve(ODETerm(net), y0, ts, adjoint=adjoint, batch=batch)
    assert torch.equal(plain.stats.accepted, taped.stats.accepted)
    torch.testing.assert_close(plain.ys, taped.ys.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        plain.stats.error_estimate, taped.stats.error_estimate.detach()
    )
    torch.testing.assert_close(plain.stats.stiffness, taped.stats.stiffness.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype, device: torch.device) -> None:
    """State and time reach the field in the state's dtype, whatever ts has."""
    seen = set()

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.add((t.dtype, y.dtype))
        return -y

    y0 = torch.ones(3, 2, dtype=dtype, device=device)
    for time in (torch.float32, torch.float64):
        ts = torch.tensor([0.0, 1.0], dtype=time, device=device)
        sol = solve(ODETerm(field), y0, ts)
        assert sol.ys.dtype == sol.final.dtype == dtype
        assert sol.ts.dtype == time or sol.ts.dtype == torch.float64
        torch.testing.assert_close(
            sol.final, y0 * torch.exp(-torch.ones_like(y0)), rtol=2e-3, atol=1e-4
        )
    assert seen == {(dtype, dtype)}


def test_time_shapes_given_to_the_field(f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(2, **f64)
    for batch, ndim in (("per_sample", 1), ("shared", 0)):
        shapes = set()

        def field(t: Tensor, y: Tensor, shapes: set[object] = shapes) -> Tensor:
            shapes.add(tuple(t.shape))
            return SPIRAL.field(t, y)

        solve(ODETerm(field), y0, ts, batch=batch)
        assert shapes == {(3,) * ndim}


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2, 3), (4, 2, 1, 3)])
def test_states_of_any_shape(shape: tuple[int, ...], f64: KIND) -> None:
    y0, ts = normal(shape, 0, **f64), torch.tensor([0.0, 0.5, 1.0], **f64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        assert y.shape == shape
        return -y

    sol = solve(ODETerm(field), y0, ts, controller=TIGHT)
    assert sol.ys.shape == (4, 3, *shape[1:])
    assert sol.final.shape == shape
    torch.testing.assert_close(sol.final, y0 * torch.exp(-ts[-1]), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y[:, ::2],
        lambda y: y.T.contiguous().T,
        lambda y: y[:1].expand(4, 6),
    ],
    ids=["strided", "transposed", "expanded"],
)
def test_layout_of_the_state_does_not_matter(change: object, f64: KIND) -> None:
    y0 = change(normal((4, 6), 0, **f64))
    kept, ts = y0.clone(), torch.tensor([0.0, 1.0], **f64)
    sol = solve(ODETerm(DECAY.field), y0, ts)
    same = solve(ODETerm(DECAY.field), kept, ts)
    assert torch.equal(sol.ys, same.ys)
    assert torch.equal(y0, kept), "y0 was changed"
    sol.ys.zero_()
    assert torch.equal(y0, kept), "the result aliases y0"


def test_a_constant_field_is_one_cheap_solve(f64: KIND) -> None:
    y0, ts = torch.zeros(2, 3, **f64), torch.tensor([0.0, 5.0], **f64)
    sol = solve(ODETerm(lambda t, y: torch.ones_like(y)), y0, ts)
    torch.testing.assert_close(sol.final, torch.full_like(y0, 5.0))
    assert (sol.stats.accepted <= 10).all()
    still = solve(ODETerm(lambda t, y: torch.zeros_like(y)), y0, ts)
    assert torch.equal(still.final, y0)


def test_long_easy_intervals_take_few_steps(f64: KIND) -> None:
    y0, ts = torch.ones(2, 1, **f64), torch.tensor([0.0, 1e9], **f64)
    sol = solve(ODETerm(lambda t, y: 1e-9 * y), y0, ts)
    assert (sol.stats.accepted < 40).all()
    torch.testing.assert_close(sol.final, torch.e * y0, rtol=5e-3, atol=0)


def test_times_far_from_zero(f64: KIND) -> None:
    """At t = 1e6 a step of 1e-2 is still resolved."""
    ts = torch.tensor([1e6, 1e6 + 1], **f64)
    y0 = torch.ones(2, 1, **f64)
    sol = solve(ODETerm(DECAY.field), y0, ts, controller=PID(rtol=1e-8, atol=1e-8))
    torch.testing.assert_close(sol.final, y0 / torch.e, rtol=1e-6, atol=0)
