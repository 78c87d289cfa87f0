"""Drift networks that read time, state and the value of a control path."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nde.layers.mlp import MLP, ScaledTanh

GeometricDrift = Literal["tanh", "one_minus_sigmoid"]


class Drift(nn.Module):
    """gamma(t, zeta(z, X)) or, untimed, gamma(zeta(z, X)), with smooth activations.

    zeta is one affine map of (z, X) followed by SiLU; gamma is an MLP. A bounded drift
    ends in a tanh with a learnable scale per dimension, so the solution cannot explode;
    an unbounded one is only Lipschitz, and can pull back with any force.

    Args:
        hidden: size of the state z.
        channels: size of the control value X; 0 for a drift without control.
        width: size of the hidden layers.
        layers: number of hidden layers, zeta included; at least 1.
        timed: whether gamma gets t.
        bounded: whether the output goes through the scaled tanh.

    Raises:
        ValueError: a size below 1, or `layers` below 1.

    Source: Oh, Lim, Kim, Stable Neural SDEs (ICLR 2024), section 3.4.
    """

    def __init__(
        self,
        hidden: int,
        channels: int,
        *,
        width: int,
        layers: int = 2,
        timed: bool = True,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        _check(hidden, channels, width, layers)
        self.channels = channels
        self.timed = timed
        self.zeta = nn.Linear(hidden + channels, width)
        self.gamma = MLP(width + timed, hidden, width=width, layers=layers - 1)
        self.bound = ScaledTanh(hidden) if bounded else nn.Identity()

    def forward(self, t: Tensor, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Drift at time t (0-dim or `(batch,)`), `(batch, hidden)`.

        `z` is `(batch, hidden)`, `x` the control value `(batch, channels)`.
        """
        inner = functional.silu(self.zeta(z if x is None else torch.cat([z, x], -1)))
        if self.timed:
            inner = torch.cat([inner, t.unsqueeze(-1).expand(len(z), 1)], dim=-1)
        out: Tensor = self.bound(self.gamma(inner))
        return out


class RuntimeDrift(nn.Module):
    """The drift that the published code of the Stable Neural SDEs computes.

    With tau = (sin t, cos t): e_X = affine(X), e_z = affine(z) or affine(tau, z),
    m = affine(e_z, e_X), r = affine (relu affine)^(layers-1) relu (m), and the drift is
    tanh(r), tanh(r tanh z) or tanh(r (1 - sigmoid z)). Without control m = e_z.

    Args:
        hidden: size of the state z.
        channels: size of the control value X; 0 for a drift without control.
        width: size of the hidden layers; the published code has width = hidden.
        layers: number of hidden layers; at least 1.
        timed: whether e_z gets tau.
        geometric: the factor on r: None, "tanh" (published code since November 2024) or
            "one_minus_sigmoid" (first release, with which the tables were made).

    Raises:
        ValueError: a size below 1, `layers` below 1, or an unknown factor.

    Source: github.com/yongkyung-oh/Stable-Neural-SDEs, class of the vector fields.
    """

    def __init__(
        self,
        hidden: int,
        channels: int,
        *,
        width: int,
        layers: int = 2,
        timed: bool = True,
        geometric: GeometricDrift | None = None,
    ) -> None:
        super().__init__()
        _check(hidden, channels, width, layers)
        if geometric not in (None, "tanh", "one_minus_sigmoid"):
            raise ValueError(
                f"geometric drift is {geometric!r}; use 'tanh' or 'one_minus_sigmoid'"
            )
        self.channels = channels
        self.timed = timed
        self.geometric = geometric
        self.state = nn.Linear(hidden + 2 * timed, width)
        if channels:
            self.control = nn.Linear(channels, width)
            self.merge = nn.Linear(2 * width, width)
        self.output = MLP(
            width, hidden, width=width, layers=layers - 1, activation=functional.relu
        )

    def forward(self, t: Tensor, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Drift at time t (0-dim or `(batch,)`), `(batch, hidden)`.

        `z` is `(batch, hidden)`, `x` the control value `(batch, channels)`.
        """
        inner = self.state(torch.cat([_tau(t, len(z)), z], -1) if self.timed else z)
        if x is not None:
            inner = self.merge(torch.cat([inner, self.control(x)], dim=-1))
        out: Tensor = self.output(functional.relu(inner))
        if self.geometric == "tanh":
            out = out * torch.tanh(z)
        elif self.geometric == "one_minus_sigmoid":
            out = out * torch.sigmoid(-z)
        return torch.tanh(out)


def _tau(t: Tensor, batch: int) -> Tensor:
    return torch.stack([t.sin(), t.cos()], dim=-1).expand(batch, 2)


def _check(hidden: int, channels: int, width: int, layers: int) -> None:
    if min(hidden, width, layers) < 1 or channels < 0:
        raise ValueError(
            "a drift needs hidden, width and layers of at least 1 and channels >= 0, "
            f"received hidden {hidden}, width {width}, layers {layers}, channels "
            f"{channels}"
        )
