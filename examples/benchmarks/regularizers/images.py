"""Images of digits as rows of pixels: scikit-learn's, or MNIST from a file.

And what trainings on them share.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from campaign import parser
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nde.models import LayerOutput

# Of scikit-learn's digits, how many of 1,797 are for tests.
_TEST = 360


@dataclass(frozen=True)
class Images:
    """Pixels in [0, 1] `(n, pixels)` float64, labels `(n,)`."""

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load(mnist: Path | None, seed: int) -> Images:
    """MNIST, as published split, if a file is given, else digits, split by `seed`.

    `mnist` is an .npz with the arrays x_train, y_train, x_test, y_test, as Keras
    keeps it. Raises ValueError for another file.
    """
    return _digits(seed) if mnist is None else _mnist(mnist)


class ImageTraining:
    """Batches of images through a model; subclasses measure it in tests."""

    def __init__(
        self,
        images: Images,
        seed: int,
        batch: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self.images, self.batch = images, batch
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.order = torch.Generator().manual_seed(seed)

    def loss(self, iteration: int, progress: float) -> tuple[Tensor, LayerOutput]:
        """Cross entropy of the next batch, and the solve."""
        if iteration:
            self.schedule.step()
        images = self.images
        rows = torch.randint(len(images.train_y), (self.batch,), generator=self.order)
        logits, out = self.model(images.train_x[rows], progress)
        return cross_entropy(logits, images.train_y[rows]), out


def image_parser(
    description: str | None, iterations: int, tolerance: float
) -> ArgumentParser:
    """Options of a script, with its defaults."""
    options = parser((description or "").splitlines()[0], "results", iterations)
    options.add_argument("--mnist", type=Path, help=".npz of MNIST, as Keras keeps it")
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--tolerance", type=float, default=tolerance)
    return options


def setting_of(asked: Namespace, lr: float) -> str:
    """What the trainings of a table have in common."""
    data = "digits" if asked.mnist is None else "MNIST"
    return (
        f"{data}, {asked.iterations} iterations of {asked.batch}, Adam {lr:g}, "
        f"tolerance {asked.tolerance:g}"
    )


def _digits(seed: int) -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.target))
    x = torch.tensor(found.data[order] / 16.0, dtype=torch.float64)
    y = torch.tensor(found.target[order])
    return Images("digits", x[_TEST:], y[_TEST:], x[:_TEST], y[:_TEST])


def _mnist(path: Path) -> Images:
    with np.load(path) as found:
        missing = {"x_train", "y_train", "x_test", "y_test"} - set(found.files)
        if missing:
            raise ValueError(
                f"{path} lacks the arrays {sorted(missing)}; give MNIST as the .npz "
                "that Keras keeps"
            )
        return Images(
            "MNIST",
            _pixels(found["x_train"]),
            torch.tensor(found["y_train"].astype(np.int64)),
            _pixels(found["x_test"]),
            torch.tensor(found["y_test"].astype(np.int64)),
        )


def _pixels(bytes_of: np.ndarray) -> Tensor:
    return torch.tensor(bytes_of.reshape(len(bytes_of), -1) / 255.0)
