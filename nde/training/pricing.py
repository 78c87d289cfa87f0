"""What penalties weigh: their gradients beside the task's, and weights that learn.

A penalty's gradient costs a backward pass of its own, so the loop asks for it now and
then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nde.regularizers import AutoWeight, Measured, WeightState

Gradients = Sequence[Tensor | None]


@dataclass(frozen=True)
class GradientNorms:
    """Norms over all parameters: of the task's gradient, and of each penalty's.

    `penalties` by name, without the weights; `weights` are those of this step.
    """

    task: float
    penalties: dict[str, float]
    weights: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Each weighted penalty's part of the sum of all norms, by name."""
        parts = self._parts()
        total = self.task + sum(parts.values())
        return {name: part / total if total else 0.0 for name, part in parts.items()}

    def others(self, name: str) -> float:
        """The sum of the norms of all but one penalty, weighted."""
        parts = self._parts()
        return self.task + sum(part for key, part in parts.items() if key != name)

    def _parts(self) -> dict[str, float]:
        return {
            name: self.weights[name] * size for name, size in self.penalties.items()
        }


def penalty_gradients(
    parameters: Sequence[nn.Parameter], terms: Mapping[str, Tensor]
) -> dict[str, Gradients]:
    """Gradients of each penalty, by name. The graph stays for the loss."""
    return {
        name: torch.autograd.grad(
            term, parameters, retain_graph=True, allow_unused=True
        )
        for name, term in terms.items()
        if term.requires_grad
    }


def gradient_norms(
    parameters: Sequence[nn.Parameter],
    penalties: Mapping[str, Gradients],
    weights: dict[str, float],
) -> GradientNorms:
    """Norms where the gradient of the whole loss is in `parameters`, not yet clipped.

    `penalties` as `penalty_gradients` gave them: what they leave of it is the task's.
    """
    squares = dict.fromkeys(penalties, 0.0)
    task = 0.0
    for index, parameter in enumerate(parameters):
        rest = None if parameter.grad is None else parameter.grad.clone()
        for name, gradients in penalties.items():
            gradient = gradients[index]
            if gradient is not None:
                squares[name] += float(gradient.square().sum())
                assert rest is not None
                rest -= weights[name] * gradient
        task += 0.0 if rest is None else float(rest.square().sum())
    return GradientNorms(
        task=task**0.5,
        penalties={name: square**0.5 for name, square in squares.items()},
        weights=weights,
    )


def auto_weights(model: nn.Module) -> dict[str, AutoWeight]:
    """The weights of a model's regularizers that learn, by name of the regularizer."""
    found: dict[str, AutoWeight] = {}
    for layer in model.modules():
        for regularizer in getattr(layer, "regularizers", ()):
            weight = getattr(regularizer, "weight", None)
            if isinstance(weight, AutoWeight):
                found[regularizer.name] = weight
    return found


def teach(
    model: nn.Module, progress: float, evaluations: float, norms: GradientNorms | None
) -> None:
    """Tell the weights that learn what a step measured."""
    for name, weight in auto_weights(model).items():
        own = others = None
        if norms is not None and name in norms.penalties:
            own, others = norms.penalties[name], norms.others(name)
        weight.update(Measured(progress, evaluations, own, others))


def weight_states(model: nn.Module) -> dict[str, WeightState]:
    """What the weights that learn have learned, by name of the regularizer."""
    return {name: weight.state() for name, weight in auto_weights(model).items()}


def restore_weights(model: nn.Module, states: Mapping[str, WeightState]) -> None:
    """Let the weights go on from `weight_states`.

    Raises ValueError for a state of another kind or of no such weight.
    """
    weights = auto_weights(model)
    for name, state in states.items():
        if name not in weights:
            raise ValueError(
                f"the state of the automatic weight of {name!r} has no place; the "
                f"model has such weights of {list(weights) or 'no regularizer'}"
            )
        weights[name].restore(state)
