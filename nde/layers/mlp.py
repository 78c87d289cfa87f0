"""Plain building blocks: a perceptron with smooth activations and a bounded output."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class MLP(nn.Module):
    """Affine maps with an activation between them; `layers` hidden layers.

    The default activation is smooth: a kink in a vector field costs an adaptive solver
    rejected steps and keeps error estimates from falling with the order.

    Args:
        inputs: size of the last axis going in.
        outputs: size of the last axis coming out.
        width: size of each hidden layer.
        layers: number of hidden layers; 0 is a single affine map.
        activation: applied to each hidden layer.

    Raises:
        ValueError: a size below 1 or `layers` below 0.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        layers: int,
        activation: Callable[[Tensor], Tensor] = functional.silu,
    ) -> None:
        super().__init__()
        if min(inputs, outputs, width) < 1 or layers < 0:
            raise ValueError(
                f"an MLP needs sizes of at least 1 and layers >= 0, received inputs "
                f"{inputs}, outputs {outputs}, width {width}, layers {layers}"
            )
        sizes = [inputs, *[width] * layers, outputs]
        self.maps = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """`(..., inputs)` to `(..., outputs)`."""
        *hidden, last = self.maps
        for layer in hidden:
            x = self.activation(layer(x))
        out: Tensor = last(x)
        return out


class ScaledTanh(nn.Module):
    """scale * tanh(x) with one learnable scale per entry, 1 at first.

    Bounds a vector field while letting it learn how fast it may be.

    Args:
        size: size of the last axis.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., size)` to the same shape."""
        return self.scale * torch.tanh(x)
