"""What the training loop tells whoever watches it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StepEnd:
    """One optimiser step, or a batch that was skipped for a loss that is not finite.

    `loss` is the whole loss, penalties included; `evaluations` the mean number of
    calls of the field per series; `steps` the number of steps of the whole run. Of each
    regularizer `penalties` has the value, `weights` the factor, and `shares` its part
    of the gradient's norm, in steps in which that was measured: the first one and every
    `log.every`-th.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    penalties: dict[str, float]
    weights: dict[str, float]
    shares: dict[str, float]
    evaluations: float
    gradient_norm: float
    lr: float
    skipped: bool


@dataclass(frozen=True)
class EpochEnd:
    """One pass over the training series, and the validation after it.

    `evaluations` per series in the training steps, `validation_evaluations` in the
    validation, where no regularizer has a say.
    """

    epoch: int
    epochs: int
    loss: float
    evaluations: float
    lr: float
    skipped: int
    validation: dict[str, float]
    validation_evaluations: float
    best: bool


Observer = Callable[[StepEnd | EpochEnd], None]
