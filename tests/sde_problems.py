"""Non-autonomous SDEs in both interpretations, one for each kind of noise."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from problems import column
from torch import Tensor

from nde.solvers import SDETerm

Field = Callable[[Tensor, Tensor], Tensor]
FIRST = ((0.9, 0.7), (-0.2, 1.1))
# Two whose commutator is as large as they are.
STRETCH = ((0.9, 0.0), (0.0, -0.9))
SWAP = ((0.0, 0.9), (0.9, 0.0))


def size(t: Tensor) -> Tensor:
    """How strong the noise is."""
    return 0.8 + 0.2 * (3 * column(t)).sin()


def drift(t: Tensor, y: Tensor) -> Tensor:
    """The drift of the Stratonovich form."""
    return 0.3 * column(t).cos() - 0.3 * y + 0.3 * y.flip(-1).sin()


def curved(t: Tensor, y: Tensor) -> Tensor:
    """A drift bent so much that noise, not time, makes most of the error."""
    return 0.3 * column(t).cos() + 0.8 * (3 * y.flip(-1)).sin()


def by(y: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """matrix y for each sample."""
    return y @ torch.tensor(matrix, dtype=y.dtype, device=y.device).T


def diagonal(t: Tensor, y: Tensor) -> Tensor:
    return size(t) * (1 + y**2).sqrt()


def scalar(t: Tensor, y: Tensor) -> Tensor:
    return size(t) * by(y, FIRST)


def general(t: Tensor, y: Tensor) -> Tensor:
    """Two motions whose fields do not commute."""
    return size(t)[:, :, None] * torch.stack((by(y, STRETCH), by(y, SWAP)), -1)


def additive(t: Tensor, y: Tensor) -> Tensor:
    matrix = torch.tensor(FIRST, dtype=y.dtype, device=y.device)
    return (size(t)[:, :, None] * matrix).expand(y.shape[0], 2, 2)


@dataclass(frozen=True)
class SDEProblem:
    """A diffusion and its correction (1/2) sum_j (dg_j/dy) g_j by hand."""

    diffusion: Field
    correction: Field
    motions: int
    noise_dim: int | None = None
    drift: Field = drift

    def term(self, noise: str, interpretation: str) -> SDETerm:
        def ito(t: Tensor, y: Tensor) -> Tensor:
            return self.drift(t, y) + 0.5 * size(t) ** 2 * self.correction(t, y)

        return SDETerm(
            ito if interpretation == "ito" else self.drift,
            self.diffusion,
            noise=noise,
            interpretation=interpretation,
            noise_dim=self.noise_dim,
        )


PROBLEMS = {
    "diagonal": SDEProblem(diagonal, lambda t, y: y, 2),
    "scalar": SDEProblem(scalar, lambda t, y: by(by(y, FIRST), FIRST), 1),
    "additive": SDEProblem(additive, lambda t, y: torch.zeros_like(y), 2, 2, curved),
    "general": SDEProblem(
        general,
        lambda t, y: by(by(y, STRETCH), STRETCH) + by(by(y, SWAP), SWAP),
        2,
        2,
    ),
}


def start(batch: int, **kind: object) -> Tensor:
    """The state that every path sets out from, `(batch, 2)`."""
    return torch.tensor([[0.8, -0.4]], **kind).repeat(batch, 1)
