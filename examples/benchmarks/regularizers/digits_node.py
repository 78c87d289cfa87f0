"""Regularizers of a neural ODE that classifies digits.

    python examples/benchmarks/regularizers/digits_node.py --seeds 0 1 2 3 4
    python examples/benchmarks/regularizers/digits_node.py --mnist mnist.npz \\
        --iterations 7500 --batch 512 --lr 1e-3

As in Pal and others (2021, 2023): pixels evolve from t = 0 to 1 under a tanh network of
width 100 that sees the time, a linear layer reads the class off; tsit5 at rtol = atol =
1.4e-8, one step for the batch. Here in float64: in float32 that tolerance is below the
rounding of a state, and the error estimates are noise. The learning rate of Adam falls
to zero along a cosine. Without --mnist on scikit-learn's digits (64-100-64).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from campaign import Task, run
from images import Images, ImageTraining, image_parser, load, setting_of
from named_methods import NODE
from torch import Tensor, nn

from nde.models import LayerOutput, NeuralODE, SolverSettings
from nde.regularizers import AnyRegularizer

F64 = torch.float64
TIMES = torch.tensor([0.0, 1.0], dtype=F64)


class Field(nn.Module):
    """W2 tanh(W1 [x, t])."""

    def __init__(self, pixels: int, width: int = 100) -> None:
        super().__init__()
        self.inner = nn.Linear(pixels + 1, width)
        self.outer = nn.Linear(width, pixels)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        time = t.reshape(-1, 1).expand(len(x), 1)
        slope: Tensor = self.outer(torch.tanh(self.inner(torch.cat((x, time), 1))))
        return slope


class Classifier(nn.Module):
    """A neural ODE and a linear layer."""

    def __init__(
        self,
        pixels: int,
        solver: SolverSettings,
        regularizers: Sequence[AnyRegularizer],
    ) -> None:
        super().__init__()
        self.field = Field(pixels)
        self.ode = NeuralODE(self.field, solver=solver, regularizers=regularizers)
        self.head = nn.Linear(pixels, 10)

    def forward(self, x: Tensor, progress: float) -> tuple[Tensor, LayerOutput]:
        out: LayerOutput = self.ode(x, TIMES, progress=progress)
        return self.head(out.final), out


class Digits(ImageTraining):
    """An experiment: `iterations` are those over which the learning rate falls."""

    def __init__(
        self,
        images: Images,
        seed: int,
        regularizers: Sequence[AnyRegularizer],
        *,
        iterations: int,
        batch: int,
        lr: float,
        tolerance: float,
    ) -> None:
        solver = SolverSettings(
            "tsit5",
            rtol=tolerance,
            atol=tolerance,
            batch="shared",
            adjoint="direct",
        )
        pixels = images.train_x.shape[1]
        model = Classifier(pixels, solver, regularizers).to(F64)
        self.field = model.field
        adam = torch.optim.Adam(model.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, iterations)
        super().__init__(images, seed, batch, model, adam, schedule)

    def test(self) -> float:
        """Accuracy in percent."""
        logits, _ = self.model(self.images.test_x, 1.0)
        right = (logits.argmax(1) == self.images.test_y).double().mean()
        return 100.0 * float(right)


def main(arguments: Sequence[str] | None = None) -> str:
    """Train, print and return the table."""
    options = image_parser(__doc__, 300, 1.4e-8)
    options.add_argument("--lr", type=float, default=3e-3)
    asked = options.parse_args(arguments)
    torch.set_num_threads(1)

    def start(seed: int, regularizers: Sequence[AnyRegularizer]) -> Digits:
        return Digits(
            load(asked.mnist, seed),
            seed,
            regularizers,
            iterations=asked.iterations,
            batch=asked.batch,
            lr=asked.lr,
            tolerance=asked.tolerance,
        )

    setting = setting_of(asked, asked.lr)
    table = run(Task("digits_node", "accuracy %", 2, True, setting, NODE, start), asked)
    print(table)
    return table


if __name__ == "__main__":
    main()
