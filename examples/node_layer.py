"""A neural ODE layer with a local regularizer in an ordinary model and training loop.

Two classes that no straight line separates, a disc within a ring. The layer is trained
twice, without and with a penalty on its solver's local error, and the function
evaluations of both are printed.

    python examples/node_layer.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from nde.models import NeuralODE, SolverSettings
from nde.regularizers import Exponential, LocalError, Regularizer


class Field(nn.Module):
    """dy/dt = MLP(t, y)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim + 1, width), nn.Tanh(), nn.Linear(width, dim)
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        clock = t.expand(len(y)).unsqueeze(1)
        return self.net(torch.cat([y, clock], dim=1))


class Classifier(nn.Module):
    """Lift, flow for unit time, read out."""

    def __init__(self, regularizers: tuple[Regularizer, ...]) -> None:
        super().__init__()
        self.lift = nn.Linear(2, 8)
        self.flow = NeuralODE(
            Field(8, 32),
            solver=SolverSettings(method="tsit5", rtol=1e-5, atol=1e-5),
            regularizers=regularizers,
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, progress: float = 0.0) -> tuple[Tensor, Tensor, float]:
        out = self.flow(self.lift(x), torch.tensor([0.0, 1.0]), progress=progress)
        evaluations = out.solution.stats.evaluations.double().mean().item()
        return self.head(out.final), out.penalty, evaluations


def disc_and_ring(samples: int) -> tuple[Tensor, Tensor]:
    """Points and their class."""
    label = torch.arange(samples) % 2
    radius = torch.rand(samples) * 0.8 + 1.2 * label
    angle = torch.rand(samples) * 2.0 * torch.pi
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), label


def train(
    regularizers: tuple[Regularizer, ...], iterations: int
) -> tuple[float, float]:
    """Test accuracy and mean evaluations per sample after training."""
    torch.manual_seed(0)
    model = Classifier(regularizers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for iteration in range(iterations):
        x, label = disc_and_ring(64)
        logits, penalty, _ = model(x, progress=iteration / iterations)
        loss = nn.functional.cross_entropy(logits, label) + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    x, label = disc_and_ring(512)
    with torch.no_grad():
        logits, _, evaluations = model(x)
    return (logits.argmax(1) == label).double().mean().item(), evaluations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    penalty = LocalError(Exponential(start=10.0, end=1.0))
    for name, regularizers in (("plain", ()), ("local error", (penalty,))):
        accuracy, evaluations = train(regularizers, options.iterations)
        print(f"{name:12s} accuracy {accuracy:.3f}  evaluations {evaluations:.1f}")


if __name__ == "__main__":
    main()
