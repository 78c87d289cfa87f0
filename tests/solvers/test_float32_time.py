"""A device without double precision keeps time in float32: tried here on the CPU."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from nde.solvers import PID, Direct, Event, FixedSteps, ODETerm, Recompute, solve
from nde.solvers.tableau import on_device
from nde.solvers.types import TIME_DTYPES


@pytest.fixture(autouse=True)
def single_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    on_device.cache_clear()
    monkeypatch.setitem(TIME_DTYPES, "cpu", torch.float32)
    yield
    on_device.cache_clear()


def field(t: Tensor, y: Tensor) -> Tensor:
    assert t.dtype == y.dtype == torch.float32
    return -y * (1.0 + t.reshape(-1, 1).cos())


def exact(t: Tensor) -> Tensor:
    return torch.exp(-(t + t.sin()))


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
@pytest.mark.parametrize(
    "adjoint", [Recompute(), Direct()], ids=["recompute", "direct"]
)
@pytest.mark.parametrize(
    ("method", "controller"),
    [
        ("tsit5", PID(1e-5, 1e-6)),
        ("vern7", PID(1e-5, 1e-6)),
        ("rk4", FixedSteps(0.05)),
        ("explicit_adams", FixedSteps(0.02)),
    ],
)
def test_no_double_is_made(
    method: str, controller: PID | FixedSteps, adjoint: object, batch: str
) -> None:
    y0 = torch.tensor([[1.0], [2.0]], requires_grad=True)
    ts = torch.linspace(0, 3, 7)
    sol = solve(
        ODETerm(field),
        y0,
        ts,
        method=method,
        controller=controller,
        adjoint=adjoint,
        batch=batch,
        dense=True,
    )
    assert sol.ys.dtype == sol.stats.t.dtype == sol.stats.step.dtype == torch.float32
    want = y0.detach()[:, None] * exact(ts)[:, None]
    torch.testing.assert_close(sol.ys.detach(), want, rtol=2e-4, atol=1e-5)
    at = torch.tensor([0.3, 2.2])
    want = y0.detach()[:, None] * exact(at)[:, None]
    torch.testing.assert_close(sol.evaluate(at).detach(), want, rtol=2e-4, atol=1e-5)
    (grad,) = torch.autograd.grad(sol.final.sum(), y0)
    end = exact(ts)[-1].item()
    assert grad.flatten().tolist() == pytest.approx([end, end], rel=1e-3)


def test_events() -> None:
    sol = solve(
        ODETerm(lambda t, y: -torch.ones_like(y)),
        torch.tensor([[1.0], [2.0]]),
        torch.tensor([0.0, 5.0]),
        events=[Event(lambda t, y: y[:, 0])],
    )
    assert sol.events is not None
    assert sol.events.time[:, 0].tolist() == pytest.approx([1.0, 2.0], rel=1e-5)
    assert math.isnan(sol.ys[0, -1, 0].item())
