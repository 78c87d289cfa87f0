"""A drift that runs down a learned potential."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nde.layers.mlp import MLP


class PotentialDrift(nn.Module):
    """-grad_z U(z, X) with U(z, X) = sum_i k_i z_i^2 / 2 + MLP(z, X).

    k is positive and learnable, one number per dimension. The MLP has SiLU activations,
    so its slope in z is bounded and the first part wins far out: the drift is
    dissipative whatever the weights. Its Jacobian in z is symmetric.

    With X at rest and constant noise sigma the equation dz = -grad U dt + sigma dW has
    the Gibbs density exp(-2 U(z, X) / sigma^2), up to a factor. A moving X, or a sigma
    that changes over time or between dimensions, leaves no such law.

    Args:
        hidden: size of the state z.
        channels: size of the control value X; 0 for a potential without control.
        width: size of the hidden layers.
        layers: number of hidden layers of the MLP; at least 1.
        confinement: every k before training.

    Raises:
        ValueError: a size below 1, or `confinement` not positive.

    Source: Pavliotis, *Stochastic Processes and Applications* (2014), chapter 4, for
    the invariant law, there with sigma^2 = 2 / beta.
    """

    def __init__(
        self,
        hidden: int,
        channels: int,
        *,
        width: int,
        layers: int = 2,
        confinement: float = 1.0,
    ) -> None:
        super().__init__()
        if min(hidden, width, layers) < 1 or channels < 0:
            raise ValueError(
                "a potential needs hidden, width and layers of at least 1 and channels "
                f">= 0, received hidden {hidden}, width {width}, layers {layers}, "
                f"channels {channels}"
            )
        if not confinement > 0:
            raise ValueError(
                f"confinement is {confinement}; it must be positive, or the potential "
                "has no bottom"
            )
        self.channels = channels
        raw = confinement + math.log(-math.expm1(-confinement))
        self.raw = nn.Parameter(torch.full((hidden,), raw))
        self.net = MLP(hidden + channels, 1, width=width, layers=layers)

    @property
    def confinement(self) -> Tensor:
        """k, `(hidden,)`."""
        return functional.softplus(self.raw)

    def energy(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """U(z, X) of `z (batch, hidden)` and `x (batch, channels)`, `(batch,)`."""
        inner: Tensor = self.net(z if x is None else torch.cat([z, x], dim=-1))
        return 0.5 * (self.confinement * z.square()).sum(-1) + inner.squeeze(-1)

    def forward(self, t: Tensor, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Drift `(batch, hidden)`, the same at all times.

        `z` is `(batch, hidden)`, `x` the control value `(batch, channels)`. Works
        without gradients too, also in inference mode.
        """
        graph = torch.is_grad_enabled()
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self._slope(z.clone(), None if x is None else x.clone(), False)
        return self._slope(z, x, graph)

    def _slope(self, z: Tensor, x: Tensor | None, graph: bool) -> Tensor:
        with torch.enable_grad():
            if not (graph and z.requires_grad):
                z = z.detach().requires_grad_()
            total = self.energy(z, x).sum()
            (slope,) = torch.autograd.grad(total, z, create_graph=graph)
        return -slope
