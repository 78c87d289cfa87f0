"""NeuralODE around a user's field: values, nested states, control, penalties."""

import math

import pytest
import torch
from models.series import random_path
from torch import Tensor, nn

from nde.models import NeuralODE, SolverSettings
from nde.regularizers import ErrorEstimate
from nde.solvers import Recompute


class Decay(nn.Module):
    """dy/dt = -rate y."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rate * y


TIGHT = SolverSettings(rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("adjoint", ["recompute", "direct"])
def test_exponential_decay_and_its_gradient(adjoint: str, device: torch.device) -> None:
    solver = SolverSettings(
        rtol=1e-9,
        atol=1e-10,
        adjoint=adjoint,  # type: ignore[arg-type]
    )
    layer = NeuralODE(Decay(0.7), solver=solver).to(device)
    y0 = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, device=device)
    ts = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64, device=device)
    out = layer(y0, ts)
    exact = y0.unsqueeze(1) * torch.exp(-0.7 * ts).view(1, 3, 1)
    torch.testing.assert_close(out.ys, exact, rtol=1e-7, atol=1e-8)
    out.final.sum().backward()
    slope = -2.0 * math.exp(-1.4) * y0.sum().item()
    assert layer.field.rate.grad.item() == pytest.approx(slope, rel=1e-6)


def test_nested_states_and_times_per_sample(device: torch.device) -> None:
    """A harmonic oscillator in a dict, one sample run twice as long."""

    def field(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"q": y["p"], "p": -y["q"]}

    layer = NeuralODE(field, solver=TIGHT)
    one = torch.ones(2, 1, dtype=torch.float64, device=device)
    ends = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=torch.float64, device=device)
    final = layer({"q": one, "p": 0 * one}, ends).final
    torch.testing.assert_close(final["q"], ends[:, 1:].cos(), rtol=0, atol=1e-7)
    torch.testing.assert_close(final["p"], -ends[:, 1:].sin(), rtol=0, atol=1e-7)


def test_a_control_path_reaches_the_field(device: torch.device) -> None:
    """dy/dt = X'(t) read through differences: integrating X recovers its integral."""
    path = random_path(3, 2, device=device)

    def field(t: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return x

    layer = NeuralODE(field, solver=TIGHT)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    got = layer(torch.zeros(3, 2, dtype=torch.float64, device=device), ts, path=path)
    # Simpson's rule is exact for the cubic on each of the five intervals.
    knots = torch.linspace(0, 1, 11, dtype=torch.float64, device=device)
    weights = torch.tensor([1.0, 4.0, 2.0, 4.0, 2.0, 4.0, 2.0, 4.0, 2.0, 4.0, 1.0])
    x = torch.stack([path.evaluate(t) for t in knots])
    want = (x * (weights / 30).double().to(device).view(-1, 1, 1)).sum(0)
    torch.testing.assert_close(got.final, want, rtol=1e-7, atol=1e-7)


def test_penalty_in_training_mode_only() -> None:
    layer = NeuralODE(Decay(1.0), regularizers=(ErrorEstimate(3.0),))
    y0 = torch.ones(2, 1, dtype=torch.float64)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    out = layer(y0, ts)
    torch.testing.assert_close(out.penalty.detach(), 3.0 * out.penalties["error"])
    assert out.penalty > 0
    layer.eval()
    assert layer(y0, ts).penalty.item() == 0


def test_fixed_steps_and_bad_fields() -> None:
    layer = NeuralODE(Decay(1.0), solver=SolverSettings(method="rk4", step=0.25))
    y0 = torch.ones(1, 1, dtype=torch.float64)
    out = layer(y0, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert out.solution.stats.accepted.tolist() == [4]
    assert out.final.item() == pytest.approx(
        (1 - 1 / 4 + 1 / 32 - 1 / 384 + 1 / 6144) ** 4
    )
    with pytest.raises(TypeError, match="callable"):
        NeuralODE(3)  # type: ignore[arg-type]


def test_adjoints_by_name_or_object() -> None:
    chosen = Recompute(states="sqrt")
    assert SolverSettings(adjoint=chosen).gradients() is chosen
    assert SolverSettings(adjoint="recompute").gradients() == Recompute()
    for bad in ("recomput", Recompute, 3):
        with pytest.raises(ValueError, match="'recompute', .*or an object such as"):
            SolverSettings(adjoint=bad)  # type: ignore[arg-type]
