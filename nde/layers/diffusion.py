"""Diffusion networks: noise sizes that depend on time alone, or on time and state."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nde.layers.mlp import MLP

Sigma = Literal["softplus", "signed"]


class TimeNoise(nn.Module):
    """sigma(t): one hidden layer on t, then softplus (positive) or nothing (signed).

    Args:
        outputs: number of noise sizes.
        width: size of the hidden layer.
        sigma: "softplus" or "signed".
        start: about the size of every output before training. Small, because a network
            that starts in strong noise first learns to ignore the data.

    Raises:
        ValueError: an unknown `sigma`, or `start` not positive.

    Source: Oh, Lim, Kim, Stable Neural SDEs (ICLR 2024), section 3; softplus in place
    of the published relu, which leaves dimensions without noise and without gradient.
    """

    def __init__(
        self,
        outputs: int,
        *,
        width: int,
        sigma: Sigma = "softplus",
        start: float = 0.1,
    ) -> None:
        super().__init__()
        if sigma not in ("softplus", "signed"):
            raise ValueError(f"sigma is {sigma!r}; use 'softplus' or 'signed'")
        _check_start(start)
        self.sigma = sigma
        self.inner = nn.Linear(1, width)
        self.outer = nn.Linear(width, outputs)
        bias = math.log(math.expm1(start)) if sigma == "softplus" else start
        nn.init.constant_(self.outer.bias, bias)

    def forward(self, t: Tensor) -> Tensor:
        """`()` to `(outputs,)`, `(batch,)` to `(batch, outputs)`."""
        out: Tensor = self.outer(functional.silu(self.inner(t.unsqueeze(-1))))
        return functional.softplus(out) if self.sigma == "softplus" else out


class RuntimeTimeNoise(nn.Module):
    """sigmoid(theta) relu(affine relu affine (sin t, cos t)): the published sigma(t).

    theta is one number, 1 at first. Published with outputs = width = hidden.

    Args:
        outputs: number of noise sizes.
        width: size of the hidden layer.

    Source: github.com/yongkyung-oh/Stable-Neural-SDEs.
    """

    def __init__(self, outputs: int, *, width: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(()))
        self.net = MLP(2, outputs, width=width, layers=1, activation=functional.relu)

    def forward(self, t: Tensor) -> Tensor:
        """`()` to `(outputs,)`, `(batch,)` to `(batch, outputs)`."""
        n = functional.relu(self.net(torch.stack([t.sin(), t.cos()], dim=-1)))
        return torch.sigmoid(self.theta) * n


class StateNoise(nn.Module):
    """softplus(affine silu affine (t, z)): diagonal noise that sees the whole state.

    One hidden layer, so that dg_i/dz_i, which turns an Ito drift into a Stratonovich
    drift, has a closed form at the price of one matrix product.

    Args:
        hidden: size of the state z.
        width: size of the hidden layer.
        start: about the size of the noise before training.

    Raises:
        ValueError: `start` not positive.
    """

    def __init__(self, hidden: int, *, width: int, start: float = 0.1) -> None:
        super().__init__()
        _check_start(start)
        self.inner = nn.Linear(1 + hidden, width)
        self.outer = nn.Linear(width, hidden)
        nn.init.constant_(self.outer.bias, math.log(math.expm1(start)))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """g at time t (0-dim or `(batch,)`) and state `(batch, hidden)`."""
        inside = self._inside(t, z)
        return functional.softplus(self.outer(functional.silu(inside)))

    def half_slope(self, t: Tensor, z: Tensor) -> Tensor:
        """g_i (dg_i/dz_i) / 2, `(batch, hidden)`: Ito minus Stratonovich drift."""
        inside = self._inside(t, z)
        before = self.outer(functional.silu(inside))
        s = torch.sigmoid(inside)
        slope = _own_slope(self.inner, self.outer, s * (1 + inside * (1 - s)))
        return 0.5 * functional.softplus(before) * torch.sigmoid(before) * slope

    def _inside(self, t: Tensor, z: Tensor) -> Tensor:
        time = t.unsqueeze(-1).expand(len(z), 1)
        out: Tensor = self.inner(torch.cat([time, z], dim=-1))
        return out


class RuntimeStateNoise(nn.Module):
    """tanh(sigmoid(theta) relu(affine relu affine (sin t, cos t, z))).

    The diffusion of the plain neural SDE in the published code.

    Args:
        hidden: size of the state z.
        width: size of the hidden layer.

    Source: github.com/yongkyung-oh/Stable-Neural-SDEs, noise option 18.
    """

    def __init__(self, hidden: int, *, width: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(()))
        self.inner = nn.Linear(2 + hidden, width)
        self.outer = nn.Linear(width, hidden)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """g at time t (0-dim or `(batch,)`) and state `(batch, hidden)`."""
        before = self.outer(functional.relu(self._inside(t, z)))
        size = torch.sigmoid(self.theta)
        return torch.tanh(size * functional.relu(before))

    def half_slope(self, t: Tensor, z: Tensor) -> Tensor:
        """g_i (dg_i/dz_i) / 2, `(batch, hidden)`: Ito minus Stratonovich drift."""
        inside = self._inside(t, z)
        before = self.outer(functional.relu(inside))
        size = torch.sigmoid(self.theta)
        g = torch.tanh(size * functional.relu(before))
        slope = _own_slope(self.inner, self.outer, (inside > 0).to(z.dtype))
        rising = (before > 0).to(z.dtype)
        half: Tensor = 0.5 * g * (1 - g * g) * size * rising * slope
        return half

    def _inside(self, t: Tensor, z: Tensor) -> Tensor:
        tau = torch.stack([t.sin(), t.cos()], dim=-1).expand(len(z), 2)
        out: Tensor = self.inner(torch.cat([tau, z], dim=-1))
        return out


def _own_slope(inner: nn.Linear, outer: nn.Linear, activated: Tensor) -> Tensor:
    """sum_k outer[i, k] activated[k] inner[k, i] for every i, `(batch, hidden)`.

    The state is the last part of what `inner` reads.
    """
    hidden = outer.out_features
    return functional.linear(activated, outer.weight * inner.weight[:, -hidden:].T)


def _check_start(start: float) -> None:
    if not start > 0:
        raise ValueError(f"start is {start}; the first noise size must be positive")
