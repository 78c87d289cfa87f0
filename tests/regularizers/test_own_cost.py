"""A cost of one's own: a class of a few lines, in a layer."""

from dataclasses import dataclass

import pytest
import torch
from problems import KIND, TimedMLP, normal
from torch import Tensor

from nde.models import NeuralODE, SolverSettings
from nde.regularizers import ErrorEstimate, Exponential
from nde.solvers import Solution
from nde.solvers.state import State


@dataclass(frozen=True)
class NearlyRejected:
    """Errors above half of the tolerance: what makes the controller turn back."""

    weight: float | Exponential = 1.0
    name: str = "nearly-rejected"

    def times(self, t0: Tensor, t1: Tensor) -> None:
        return None

    def __call__(self, solution: Solution, times: None, states: None) -> Tensor:
        return (solution.stats.error_estimate - 0.5).relu().square().sum(0).mean()


@dataclass(frozen=True)
class Speed:
    """|f|^2 at a random time: where one wants states, one asks for times."""

    field: TimedMLP
    weight: float = 1.0
    name: str = "speed"

    def times(self, t0: Tensor, t1: Tensor) -> Tensor:
        return (t0 + (t1 - t0) * torch.rand(len(t0)).to(t0))[:, None]

    def __call__(self, solution: Solution, times: Tensor, states: State) -> Tensor:
        return self.field(times[:, 0], states[:, 0]).square().mean()


@pytest.mark.parametrize("which", [NearlyRejected, Speed])
def test_a_layer_takes_it(which: type[NearlyRejected] | type[Speed], f64: KIND) -> None:
    net, y0 = TimedMLP(3, gain=3.0).to(**f64), normal((4, 3), 2, **f64)
    own = (
        NearlyRejected(Exponential(3.0, 1.0)) if which is NearlyRejected else Speed(net)
    )
    layer = NeuralODE(
        net,
        solver=SolverSettings(rtol=1e-5),
        regularizers=[own, ErrorEstimate(weight=0.0)],
    )
    torch.manual_seed(0)
    out = layer(y0, torch.tensor([0.0, 1.0], **f64), progress=0.0)
    value = out.penalties[own.name]
    assert value > 0
    factor = 3.0 if which is NearlyRejected else 1.0
    torch.testing.assert_close(out.penalty.detach(), factor * value)
    assert torch.autograd.grad(out.penalty, net.inner.weight)[0].any()


def test_it_is_what_it_says(f64: KIND) -> None:
    net, y0 = TimedMLP(3, gain=3.0).to(**f64), normal((4, 3), 2, **f64)
    layer = NeuralODE(
        net, solver=SolverSettings(rtol=1e-5), regularizers=[NearlyRejected()]
    )
    out = layer(y0, torch.tensor([0.0, 1.0], **f64))
    stats, total = out.solution.stats, 0.0
    for i in range(4):
        for j in range(int(stats.accepted[i])):
            total += max(stats.error_estimate[j, i].item() - 0.5, 0.0) ** 2 / 4
    assert out.penalties["nearly-rejected"].item() == pytest.approx(total, rel=1e-11)
