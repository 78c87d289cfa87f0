"""Events: found where torchdiffeq finds them, and differentiated alike."""

from typing import Any

import pytest
import torch
from sides import SIDES, start, times
from torch import Tensor, nn

import nde.compat.torchdiffeq as compat


def fall(t: Tensor, y: Any) -> Any:
    position, velocity = y
    return velocity, torch.full_like(velocity, -9.8)


def floor(t: Tensor, y: Any) -> Tensor:
    return y[0]


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


RK4 = {"method": "rk4", "options": {"step_size": 0.01, "interp": "cubic"}}


@pytest.mark.parametrize("kwargs", [{}, RK4, {"method": "dopri8"}])
@pytest.mark.parametrize("function", ["odeint", "odeint_adjoint"])
def test_a_ball_hits_the_floor(function: str, kwargs: dict[str, Any]) -> None:
    extra = {"adjoint_params": ()} if function == "odeint_adjoint" else {}
    found = []
    for side in SIDES.values():
        position, velocity = (times(x).requires_grad_() for x in (10.0, 1.0))
        time, (path, speed) = side.odeint_event(
            fall,
            (position, velocity),
            torch.tensor(0.0, dtype=torch.float64),
            event_fn=floor,
            odeint_interface=getattr(side, function),
            **kwargs,
            **extra,
        )
        assert path.shape == speed.shape == (2, 1)
        assert float(path[-1].detach().abs()) < 1e-6
        grads = torch.autograd.grad(
            time + speed[-1].sum(), (position, velocity), retain_graph=True
        )
        found.append((time, speed[-1], *grads))
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    height = (2.0 * 9.8 * 10.0 + 1.0) ** 0.5
    assert abs(float(found[1][0].detach()) - (1.0 + height) / 9.8) < 1e-8


def test_gradients_to_the_beginning_and_to_parameters() -> None:
    class Rate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(times(2.0))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -self.rate * y

    found = []
    for side in SIDES.values():
        field = Rate()
        t0 = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        time, path = side.odeint_event(
            field, times(4.0), t0, event_fn=lambda t, y: y[0] - 1.0
        )
        time.backward()
        found.append((time.detach(), path[-1].detach(), t0.grad, field.rate.grad))
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_parameters_of_the_event_get_gradients() -> None:
    level = times(1.0).requires_grad_()
    time, path = compat.odeint_event(
        decay,
        times(4.0),
        torch.tensor(0.0, dtype=torch.float64),
        event_fn=lambda t, y: y - level,
    )
    (time + path[-1].sum()).backward()
    # t = log(4 / level), y = level.
    assert level.grad is not None
    assert torch.allclose(level.grad, times(-1.0 + 1.0), atol=1e-6)


def test_odeint_itself_takes_the_time_of_the_event_as_given() -> None:
    found = []
    for side in SIDES.values():
        y0 = times(4.0).requires_grad_()
        time, path = side.odeint(
            decay, y0, times(0.0, 1.0), event_fn=lambda t, y: y[0] - 1.0
        )
        assert not time.requires_grad and path.shape == (2, 1)
        path[-1].sum().backward()
        found.append((time, path.detach(), y0.grad))
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("kwargs", [{}, RK4])
def test_back_in_time(kwargs: dict[str, Any]) -> None:
    found = []
    for side in SIDES.values():
        t0 = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        time, path = side.odeint_event(
            decay,
            times(1.0),
            t0,
            event_fn=lambda t, y: y[0] - 4.0,
            reverse_time=True,
            **kwargs,
        )
        time.backward()
        found.append((time.detach(), path[-1].detach(), t0.grad))
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_first_of_several_values_counts() -> None:
    for side in SIDES.values():
        time, _ = side.odeint(
            decay,
            times(4.0, 1.0),
            times(0.0, 1.0),
            event_fn=lambda t, y: torch.stack([1.0 - y[0], y[1] - 0.5, t - 5.0]),
        )
        assert abs(float(time) - torch.log(times(2.0)).item()) < 1e-6


def test_an_event_where_the_solve_begins_ends_it_there() -> None:
    for side in SIDES.values():
        time, path = side.odeint(
            decay, times(1.0), times(0.2, 1.0), event_fn=lambda t, y: y - 1.0
        )
        assert float(time) == pytest.approx(0.2)
        assert torch.equal(path, torch.ones(2, 1, dtype=torch.float64))


@pytest.mark.parametrize("when", [1e-5, 0.5, 30.0, 12345.0])
def test_events_near_and_far(when: float) -> None:
    time, path = compat.odeint(
        lambda t, y: torch.ones_like(y),
        times(0.0),
        times(0.0, 1.0),
        event_fn=lambda t, y: y[0] - when,
    )
    assert float(time) == pytest.approx(when, rel=1e-12)
    assert float(path[-1]) == pytest.approx(when, rel=1e-9)


def test_an_event_far_away_is_found_on_an_oscillation() -> None:
    calls = []

    def rotate(t: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return torch.stack([y[1], -y[0]])

    def late(t: Tensor, y: Tensor) -> Tensor:
        return t - 57.0

    counts = []
    for side in SIDES.values():
        time, path = side.odeint(
            rotate, times(1.0, 0.0), times(0.0, 1.0), event_fn=late, rtol=1e-8
        )
        assert abs(float(path[-1, 0]) - torch.cos(time).item()) < 1e-5
        counts.append(len(calls))
        calls.clear()
    assert counts[1] <= 1.05 * counts[0] + 40


def test_a_bouncing_ball() -> None:
    """torchdiffeq's example: bounces one after another, and a gradient through all."""
    found = []
    for side in SIDES.values():
        height = times(10.0).requires_grad_()
        t = torch.zeros(1, dtype=torch.float64)
        state = (height, times(0.0))
        bounces = []
        for _ in range(4):
            t, paths = side.odeint_event(
                fall, state, t, event_fn=floor, atol=1e-9, rtol=1e-9
            )
            position, velocity = (path[-1] for path in paths)
            # Off the floor, else the next event is here.
            state = (position + 1e-7, -0.9 * velocity)
            bounces.append(t)
        grad = torch.autograd.grad(t.sum(), height)[0]
        found.append((torch.stack([b.reshape(()) for b in bounces]), grad))
    (theirs, slope), (ours, our_slope) = found
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(our_slope, slope, atol=1e-5)


def test_an_event_that_never_happens() -> None:
    def never(t: Tensor, y: Tensor) -> Tensor:
        return y[0] + 1.0

    y0, t = times(1.0), times(0.0, 1.0)
    for kwargs in (
        {"options": {"max_num_steps": 50}},
        {"method": "euler", "options": {"step_size": 0.1}},
    ):
        with pytest.raises(AssertionError, match="never.*did not change sign") as info:
            compat.odeint(decay, y0, t, event_fn=never, **kwargs)
        assert isinstance(info.value, RuntimeError)


def test_an_event_that_is_not_finite() -> None:
    def broken(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > 0.3, torch.nan, y[0])

    with pytest.raises(compat.SolveFailed, match="event_fn"):
        compat.odeint(decay, times(1.0), times(0.0, 1.0), event_fn=broken)
    with pytest.raises(AssertionError, match="NaN where"):
        compat.odeint(
            decay, times(1.0), times(0.0, 1.0), event_fn=lambda t, y: y[0] * torch.nan
        )


def test_states_of_any_shape() -> None:
    for y0 in (torch.tensor(4.0, dtype=torch.float64), start(2, 3) + 5.0):
        time, path = compat.odeint_event(
            decay,
            y0,
            torch.tensor(0.0, dtype=torch.float64),
            event_fn=lambda t, y: y - 1.0,
        )
        assert path.shape == (2, *y0.shape)
        assert float(time) == pytest.approx(float(y0.min().log()), rel=1e-6)


def test_another_interface_is_called() -> None:
    seen = []

    def interface(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return compat.odeint(*args, **kwargs)

    compat.odeint_event(
        decay,
        times(4.0),
        torch.tensor(0.0),
        event_fn=lambda t, y: y - 1.0,
        odeint_interface=interface,
        rtol=1e-4,
    )
    assert seen[0]["rtol"] == 1e-4 and "event_fn" in seen[0]
