"""Comparing gradients: with each other, and with finite differences."""

from collections.abc import Callable, Sequence

import pytest
import torch
from problems import normal
from torch import Tensor, nn


def assert_same(found: Sequence[Tensor], wanted: Sequence[Tensor], rtol: float) -> None:
    """Equal in norm to `rtol`, tensor by tensor, and not trivially zero."""
    for x, y in zip(found, wanted, strict=True):
        assert y.abs().max() > 0, "nothing to compare: the gradient is zero"
        assert (x - y).norm() <= rtol * y.norm(), f"{(x - y).norm() / y.norm():.2e}"


def gradients(
    loss: Callable[[Tensor, nn.Module], Tensor], y0: Tensor, net: nn.Module
) -> list[Tensor]:
    y0 = y0.clone().requires_grad_()
    return list(torch.autograd.grad(loss(y0, net), [y0, *net.parameters()]))


def check_finite_differences(
    loss: Callable[[Tensor, nn.Module], Tensor],
    y0: Tensor,
    net: nn.Module,
    rtol: float = 1e-5,
) -> None:
    """Directional derivatives in y0 and in each parameter, central, rel 1e-5."""
    found = gradients(loss, y0, net)
    parameters = list(net.parameters())
    kind = {"dtype": y0.dtype, "device": y0.device}
    for index, gradient in enumerate(found):
        direction = normal(tuple(gradient.shape), 100 + index, **kind)
        values = []
        for eps in (1e-5, -1e-5):
            if index == 0:
                with torch.no_grad():
                    values.append(loss(y0 + eps * direction, net))
                continue
            p = parameters[index - 1]
            kept = p.detach().clone()
            with torch.no_grad():
                p.add_(eps * direction)
                values.append(loss(y0, net))
                p.copy_(kept)
        slope = ((values[0] - values[1]) / 2e-5).item()
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=rtol)


def check_inputs(
    loss: Callable[..., Tensor], inputs: Sequence[Tensor], eps: float = 1e-5
) -> None:
    """Directional derivatives in each input, central, relative 1e-5, none of them 0."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    found = torch.autograd.grad(loss(*leaves), leaves)
    for index, (x, gradient) in enumerate(zip(inputs, found, strict=True)):
        kind = {"dtype": x.dtype, "device": x.device}
        direction = normal(tuple(x.shape), 70 + index, **kind)
        with torch.no_grad():
            up, down = (
                loss(*inputs[:index], x + e * direction, *inputs[index + 1 :])
                for e in (eps, -eps)
            )
        slope = ((up - down) / (2 * eps)).item()
        assert slope != 0.0
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5), (
            f"input {index}"
        )
