"""An SDE of every kind as torchsde takes it, and Brownian motions for both sides."""

from typing import Any

import torch
from torch import Tensor, nn

import nde.compat.torchsde as compat

F64 = {"dtype": torch.float64}
BATCH, DIM, MOTIONS = 4, 3, 2
TS = torch.linspace(0.0, 1.0, 5, **F64)
# On this grid TS lie on knots.
DT = 1.0 / 16


class Equation(nn.Module):
    """A smooth SDE with parameters and a prior drift, dependent on time."""

    def __init__(self, noise_type: str, sde_type: str) -> None:
        super().__init__()
        self.noise_type, self.sde_type = noise_type, sde_type
        make = torch.Generator().manual_seed(0)
        shape = DIM, motions(noise_type)
        self.drift = nn.Parameter(0.4 * torch.randn(DIM, DIM, generator=make, **F64))
        self.size = nn.Parameter(0.5 * torch.randn(shape, generator=make, **F64))

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.drift) - t * y

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        if self.noise_type == "diagonal":
            return 0.4 + 0.2 * torch.sin(y * self.size[:, 0] + t)
        if self.noise_type == "additive":
            return (self.size * (1.0 + t)).expand(len(y), DIM, MOTIONS)
        return torch.cos(y + t).unsqueeze(-1) * self.size

    def h(self, t: Tensor, y: Tensor) -> Tensor:
        return -y


def motions(noise_type: str) -> int:
    """Brownian motions of each sample."""
    return {"diagonal": DIM, "scalar": 1}.get(noise_type, MOTIONS)


def start() -> Tensor:
    """An initial state, the same every time."""
    return torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(1), **F64)


def interval(m: int, side: Any = compat, **changes: Any) -> Any:
    """A Brownian interval of a side with every Levy area."""
    arguments: dict[str, Any] = {
        "t0": 0.0,
        "t1": 1.0,
        "size": (BATCH, m),
        "entropy": 3,
        "levy_area_approximation": "foster",
        **F64,
    }
    return side.BrownianInterval(**(arguments | changes))
