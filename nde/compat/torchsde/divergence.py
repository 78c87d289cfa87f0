"""`logqp`: the divergence between an SDE and another with the same diffusion.

One channel of the state more, without noise, whose drift is |u|^2 / 2 with g u = f - h
(Li et al. 2020, *Scalable gradients for stochastic differential equations*, eq. 10).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nde.compat.torchsde.equation import Equation, check_shape
from nde.solvers.brownian import BrownianIncrement, BrownianMotion, Levy

# A diffusion that is less counts as this.
_LEAST = 1e-7


class NoPrior(ValueError, AttributeError):
    """An SDE without the drift to compare with."""


def with_divergence(equation: Equation) -> Equation:
    """The equation of `(batch, d + 1)`, the last channel being the divergence.

    Raises NoPrior without a prior drift.
    """
    drift, diffusion, prior = equation.drift, equation.diffusion, equation.prior
    if prior is None:
        raise NoPrior(
            "logqp compares with a prior drift: define h, or name it in "
            "names={'prior_drift': ...}"
        )
    diagonal = equation.noise == "diagonal"

    def both(t: Tensor, state: Tensor) -> Tensor:
        y = state[:, :-1]
        f, g, h = drift(t, y), diffusion(t, y), prior(t, y)
        check_shape("the drift", f, tuple(y.shape))
        check_shape("the prior drift", h, tuple(y.shape))
        u = _divided(f - h, g) if diagonal else _solved(g, f - h)
        return torch.cat([f, 0.5 * u.square().sum(dim=1, keepdim=True)], dim=1)

    def silent(t: Tensor, state: Tensor) -> Tensor:
        g = diffusion(t, state[:, :-1])
        return torch.cat([g, torch.zeros_like(g[:, :1])], dim=1)

    m = equation.m + 1 if diagonal else equation.m
    return replace(equation, drift=both, diffusion=silent, m=m)


def _divided(a: Tensor, g: Tensor) -> Tensor:
    """a / g, finite where g is zero."""
    least = torch.full_like(g, _LEAST).copysign(g.detach())
    return a / torch.where(g.detach().abs() > _LEAST, g, least)


def _solved(g: Tensor, a: Tensor) -> Tensor:
    """The shortest u with g u nearest to a."""
    return torch.bmm(torch.linalg.pinv(g), a.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True, eq=False)
class WithSilence:
    """A motion of one channel more, that does not move."""

    inner: BrownianMotion

    @property
    def t0(self) -> float:
        """Begin of the span."""
        return self.inner.t0

    @property
    def t1(self) -> float:
        """End of the span."""
        return self.inner.t1

    @property
    def size(self) -> tuple[int, int]:
        """(batch, m)."""
        batch, m = self.inner.size
        return batch, m + 1

    def increment(self, ta: float, tb: float, levy: Levy = "none") -> BrownianIncrement:
        """W and H of the motion; raises as it does."""
        assert levy != "area", "diagonal noise asks for none"
        moved = self.inner.increment(ta, tb, levy)
        return moved.map(lambda part: torch.nn.functional.pad(part, (0, 1)))
