"""The neural SDE of the speed benchmark, as nde and torchsde both take it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

DIM, WIDTH, BATCH = 16, 64, 256


class Equation(nn.Module):
    """dy = f(y) dt + g(y) dW with diagonal noise, both MLPs of one hidden layer.

    `calls` counts those of f and of g; a plain list, since what a module sets takes
    longer.
    """

    noise_type = "diagonal"

    def __init__(
        self, interpretation: str, device: str = "cpu", dim: int = DIM
    ) -> None:
        super().__init__()
        self.sde_type = interpretation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            nets = [
                nn.Sequential(nn.Linear(dim, WIDTH), nn.Tanh(), nn.Linear(WIDTH, dim))
                for _ in range(2)
            ]
        self.drift, self.size = (net.to(device) for net in nets)
        self.calls = [0, 0]

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """The drift."""
        self.calls[0] += 1
        return self.drift(y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """The diffusion, between 0 and 1."""
        self.calls[1] += 1
        return torch.sigmoid(self.size(y))


@dataclass(frozen=True)
class Workload:
    """One solve: `steps` equal steps from 0 to 1 from `y0 (batch, dim)`, float32.

    `method` has the name that nde and torchsde share.
    """

    method: str
    equation: Equation
    y0: Tensor
    steps: int

    @property
    def dt(self) -> float:
        """Length of a step."""
        return 1.0 / self.steps

    @property
    def ts(self) -> Tensor:
        """Both ends. In float64, as torchsde adds up its steps in this precision: in
        float32 a thousand end a rounding before 1, and one more follows."""
        return torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.y0.device)

    @property
    def levy(self) -> str:
        """What the method asks of a Brownian motion besides W."""
        return "space-time" if self.method == "srk" else "none"


# What nde and torchsde both solve, and in which interpretation.
METHODS = {
    "euler": "ito",
    "milstein": "ito",
    "srk": "ito",
    "heun": "stratonovich",
    "reversible_heun": "stratonovich",
}


def workload(
    method: str, steps: int, device: str = "cpu", batch: int = BATCH
) -> Workload:
    """The problem for a method."""
    make = torch.Generator().manual_seed(1)
    y0 = torch.randn(batch, DIM, generator=make).to(device)
    return Workload(method, Equation(METHODS[method], device), y0, steps)
