"""A Jacobian penalty whose strength over time is learned. Experimental."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nde.regularizers.integral import jacobian_product, rademacher
from nde.regularizers.weight import Weight, check_weight
from nde.solvers.term import Field

# The least scale: where the Jacobian is nearly zero, the best one has no bound.
_FLOOR = 1e-3


class AdaptiveJacobian(nn.Module):
    """int |J eps|^2 / (2 dim s(t)^2) + log s(t) dt, the mean over the batch.

    The negative log density of Jacobians whose entries are normal with deviation s(t) /
    sqrt(dim), for a scale s that a small network of time learns along: it is smallest
    at s^2 = |J|^2 / dim, so that a time which needs a large Jacobian is pulled less.
    The value may be negative. J eps as in `JacobianNorm`, which is the control with a
    scale that is fixed.

    After the idea of JAWS (arXiv:2603.05538), a scale over space for surrogates of
    partial differential equations; the form over time is our own. Experimental: no
    benchmark is known. Its parameters belong to the layer that it is given to.

    Args:
        weight: factor of the penalty in the loss.
        width: hidden size of the network.

    Raises TypeError or ValueError for a weight that is none or a width below 1.
    """

    name = "adaptive-jacobian"

    def __init__(self, weight: Weight = 1.0, width: int = 16) -> None:
        super().__init__()
        check_weight(weight)
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.weight = weight
        self.inner, self.outer = nn.Linear(1, width), nn.Linear(width, 1)
        with torch.no_grad():
            # A scale of about one to begin with.
            self.outer.weight.mul_(0.1)
            self.outer.bias.fill_(math.log(math.e - 1.0))

    def scale(self, t: Tensor) -> Tensor:
        """s at times `(k,)`, positive: `(k,)`."""
        column = t.unsqueeze(1).to(self.inner.weight)
        size: Tensor = softplus(self.outer(torch.tanh(self.inner(column)))) + _FLOOR
        return size.squeeze(1)

    def noise(self, like: Tensor) -> Tensor:
        return rademacher(like)

    def rate(
        self, field: Field, t: Tensor, y: Tensor, slope: Tensor, noise: Tensor | None
    ) -> Tensor:
        assert noise is not None
        size = jacobian_product(field, t, y, noise).square().mean(dim=1)
        scale = self.scale(t.reshape(-1)).to(y.dtype)
        return 0.5 * size / scale.square() + scale.log()
