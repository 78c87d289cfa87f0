"""The latent ODE of the regularizer papers for PhysioNet.

Rubanova, Chen, Duvenaud, *Latent ODEs for irregularly-sampled time series*, 2019, with
the sizes of Pal and others 2021: a recurrent network reads a series backward in time
into a normal of 20 numbers, an ODE moves a draw of it, a linear layer reads the signals
off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nde.models import LayerOutput, NeuralODE, SolverSettings
from nde.regularizers import AnyRegularizer

LATENT, HIDDEN, GATE, WIDTH = 20, 50, 40, 50
_BLOCKS = 4


class Recognition(nn.Module):
    """Mean and logarithm of the variance of the first state, `(batch, 20)` each.

    A gated recurrent unit whose state is two parts of 50, the second one positive.
    """

    def __init__(self, signals: int) -> None:
        super().__init__()
        inputs = 2 * HIDDEN + 2 * signals + 1

        def gate(*end: nn.Module) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, GATE), nn.Tanh(), *end)

        self.update = gate(nn.Linear(GATE, HIDDEN), nn.Sigmoid())
        self.reset = gate(nn.Linear(GATE, HIDDEN), nn.Sigmoid())
        self.fresh = gate(nn.Linear(GATE, 2 * HIDDEN))
        self.end = nn.Sequential(
            nn.Linear(2 * HIDDEN, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2 * LATENT)
        )

    def forward(
        self, values: Tensor, seen: Tensor, gap: float
    ) -> tuple[Tensor, Tensor]:
        """`values`, `seen (batch, T, signals)` at times `gap` apart."""
        batch = values.shape[0]
        a = values.new_zeros(batch, HIDDEN)
        b = torch.zeros_like(a)
        step = values.new_full((batch, 1), gap)
        for place in reversed(range(values.shape[1])):
            x = torch.cat((values[:, place], seen[:, place], step), 1)
            whole = torch.cat((a, b, x), 1)
            update, reset = self.update(whole), self.reset(whole)
            fresh = self.fresh(torch.cat((a * reset, b * reset, x), 1))
            mean, size = fresh.chunk(2, dim=1)
            # A time without a measurement leaves the state as it is.
            keep = torch.where(seen[:, place].any(1, keepdim=True), update, 1.0)
            a = keep * a + (1.0 - keep) * mean
            b = keep * b + (1.0 - keep) * size.abs()
        mean, log_variance = self.end(torch.cat((a, b), 1)).chunk(2, dim=1)
        return mean, log_variance


class Field(nn.Module):
    """A tanh, then four times 20-50-20 with a tanh after each layer; without time."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Tanh()]
        for _ in range(_BLOCKS):
            layers += [nn.Linear(LATENT, WIDTH), nn.Tanh()]
            layers += [nn.Linear(WIDTH, LATENT), nn.Tanh()]
        self.net = nn.Sequential(*layers)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        slope: Tensor = self.net(z)
        return slope


@dataclass(frozen=True)
class Reconstruction:
    """Signals `(batch, T, signals)`, divergence from N(0, 1) `(batch,)`, the solve."""

    signals: Tensor
    divergence: Tensor
    out: LayerOutput


class LatentODE(nn.Module):
    """Draws the first state in training mode, else takes its mean."""

    def __init__(
        self,
        signals: int,
        solver: SolverSettings,
        regularizers: Sequence[AnyRegularizer],
    ) -> None:
        super().__init__()
        self.recognition = Recognition(signals)
        self.field = Field()
        self.ode = NeuralODE(self.field, solver=solver, regularizers=regularizers)
        self.decoder = nn.Linear(LATENT, signals)

    def forward(
        self, values: Tensor, seen: Tensor, ts: Tensor, progress: float
    ) -> Reconstruction:
        """`values` are zero where not `seen`, at equally spaced times `ts (T,)`."""
        mean, log_var = self.recognition(values, seen, float(ts[1] - ts[0]))
        z0 = mean
        if self.training:
            z0 = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        out: LayerOutput = self.ode(z0, ts, progress=progress)
        divergence = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).sum(1)
        return Reconstruction(self.decoder(out.ys), divergence, out)
