"""Several events whose conditions save tensors for their derivatives."""

from contextlib import AbstractContextManager

import pytest
import torch
from problems import KIND
from torch import Tensor

from nde.solvers import PID, Event, FixedSteps, ODETerm, solve


def turn(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[:, 1], -y[:, 0]], dim=1)


def back(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[:, 0], -y[:, 1]], dim=1)


MODES = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reset", [None, back], ids=["terminal", "reset"])
@pytest.mark.parametrize("controller", [PID(1e-8, 1e-10), FixedSteps(0.02)])
def test_nonlinear_conditions(
    mode: str, reset: object, controller: PID | FixedSteps, f64: KIND
) -> None:
    context: AbstractContextManager[object] = MODES[mode]()
    with context:
        y0 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.3, 0.2]], **f64)
        sol = solve(
            ODETerm(turn),
            y0,
            torch.tensor([0.0, 1.2], **f64),
            controller=controller,
            events=[
                Event(lambda t, y: y[:, 0].square() - 0.3, reset=reset),
                Event(lambda t, y: (y[:, 1] * y[:, 1]).exp() - 2.0),
            ],
        )
    assert sol.events is not None
    # Of (cos t, -sin t), cos^2 falls to 0.3 at 0.991 and sin^2 rises to log 2 at 0.983;
    # of (sin t, cos t), cos^2 falls to log 2 at 0.587, before sin^2 rises to 0.3.
    by_hand = torch.tensor([2.0], **f64).log().sqrt()
    times = [by_hand.asin().item(), torch.tensor(0.3, **f64).sqrt().asin().item()]
    starts_beyond = by_hand.acos().item()
    assert sol.events.index[0, 0] == 1
    assert sol.events.time[0, 0].item() == pytest.approx(times[0], abs=1e-6)
    found = sol.events.time[1, 0].item()
    assert found == pytest.approx(min(starts_beyond, times[1]), abs=1e-6)
    assert sol.events.count[2] == 0
