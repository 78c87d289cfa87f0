"""What is audited: a loss for any adjoint, and the tensors its gradient goes to."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from nde.data import Batch
from nde.models import ClassifierOutput, SeriesClassifier, SolverSettings
from nde.regularizers.local import LocalSampling
from nde.solvers.adjoint import Adjoint

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Subject:
    """A loss in float64.

    `loss(adjoint)` gives it as a 0-dim tensor; `tensors` by name are the leaves that
    its gradient goes to, which may be moved in place; `chosen` is the adjoint in
    question, None where none is known. `slope` is the loss without the penalties named
    in `left_out`, whose gradient is not that of their value.
    """

    loss: Callable[[Adjoint], Tensor]
    slope: Callable[[Adjoint], Tensor]
    tensors: dict[str, Tensor]
    chosen: Adjoint | None
    left_out: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return next(iter(self.tensors.values())).device


def subject_of_model(
    model: nn.Module,
    batch: object,
    *,
    loss: Loss | None,
    samples: int,
    penalties: bool,
    seed: int,
) -> Subject:
    """A copy of `model` in float64 on a float64 copy of `batch`."""
    twin = copy.deepcopy(model).double().eval()
    layers = list(_layers(twin))
    if not layers:
        raise ValueError(
            f"model_or_solve is a {type(model).__name__} without any layer of "
            "nde.models, whose adjoint could be exchanged; pass a function of the "
            "adjoint, lambda adjoint: solve(..., adjoint=adjoint).ys.sum()"
        )
    chosen = {layer.solver.gradients() for layer in layers}
    everything = [tuple(getattr(layer, "regularizers", ())) for layer in layers]
    if penalties:
        for layer, own in zip(layers, everything, strict=True):
            # Of the layer alone: dropout and noise on inputs stay off.
            layer.training = bool(own)
    true = [tuple(one for one in own if _has_slope(one)) for own in everything]
    left_out = {
        one.name
        for own in everything
        for one in own
        if penalties and not _has_slope(one)
    }
    if loss is None:
        loss = _training_loss(twin, batch, seed)
    data: Any
    if isinstance(batch, Batch):
        data = _part(batch, samples)
        inputs = {"values": data.values.requires_grad_()}
    else:
        inputs = {}

        def doubled(leaf: object) -> object:
            if not (isinstance(leaf, Tensor) and leaf.is_floating_point()):
                return leaf
            twin = leaf.detach().double()
            twin = twin.clone() if twin is leaf else twin
            if leaf.requires_grad:
                inputs[f"batch[{len(inputs)}]"] = twin.requires_grad_()
            return twin

        data = tree_map(doubled, batch)
    weights = {name: p for name, p in twin.named_parameters() if p.requires_grad}

    def value(adjoint: Adjoint, regularizers: Sequence[tuple[Any, ...]]) -> Tensor:
        for layer, own in zip(layers, regularizers, strict=True):
            layer.solver = replace(layer.solver, adjoint=adjoint)
            if own or hasattr(layer, "regularizers"):
                layer.regularizers = own
        return loss(twin, data)

    return Subject(
        loss=partial(value, regularizers=everything),
        slope=partial(value, regularizers=true),
        tensors=weights | inputs,
        chosen=chosen.pop() if len(chosen) == 1 else None,
        left_out=tuple(sorted(left_out)),
    )


def _has_slope(regularizer: Any) -> bool:
    """Whether the gradient of a penalty is that of its value, for all we know.

    Local ones hold constant what they step from, unless told otherwise.
    """
    options = getattr(regularizer, "options", None)
    if not isinstance(options, LocalSampling):
        return True
    held = (options.state, options.k1, options.step)
    return held == ("attached", "attached", "accepted")


def subject_of_solve(
    solve_with: Callable[[Adjoint], Tensor],
    tensors: Sequence[Tensor] | Mapping[str, Tensor] | nn.Module,
) -> Subject:
    """The loss of a function of the adjoint, in tensors that it reads."""
    named: dict[str, Tensor]
    if isinstance(tensors, nn.Module):
        named = {n: p for n, p in tensors.named_parameters() if p.requires_grad}
    elif isinstance(tensors, Mapping):
        named = dict(tensors)
    elif isinstance(tensors, Sequence):
        named = {f"batch[{i}]": tensor for i, tensor in enumerate(tensors)}
    else:
        raise TypeError(
            "batch must hold the tensors that the function reads: a list, a dict or a "
            f"module of them, got {type(tensors).__name__}"
        )
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype != torch.float64:
            raise TypeError(
                f"{name} is {tensor.dtype}; gradients are audited in float64, and a "
                "function cannot be converted: make its tensors and modules float64"
            )
        if not (tensor.requires_grad and tensor.is_leaf):
            raise ValueError(
                f"{name} must be a leaf that requires grad; use "
                "tensor.detach().requires_grad_() before the function reads it"
            )
    return Subject(solve_with, solve_with, named, None)


def _layers(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if isinstance(getattr(module, "solver", None), SolverSettings):
            yield module


def _training_loss(model: nn.Module, batch: object, seed: int) -> Loss:
    if not isinstance(model, SeriesClassifier) or not isinstance(batch, Batch):
        raise ValueError(
            "loss is needed for any but a SeriesClassifier on a Batch, got "
            f"{type(model).__name__} and {type(batch).__name__}; pass "
            "loss=lambda model, batch: ... giving a 0-dim tensor"
        )
    if batch.labels is None:
        raise ValueError(
            "batch has no labels to compute a cross-entropy with; pass "
            "loss=lambda model, batch: ..."
        )

    def loss(model: SeriesClassifier, batch: Batch) -> Tensor:
        assert batch.labels is not None
        out: ClassifierOutput = model(
            batch.times, batch.values, seed=seed, progress=0.0
        )
        return functional.cross_entropy(out.logits, batch.labels) + out.penalty

    return loss


def _part(batch: Batch, samples: int) -> Batch:
    labels = None if batch.labels is None else batch.labels[:samples]
    return Batch(
        batch.times[:samples].detach().double(),
        batch.values[:samples].detach().double().clone(),
        labels,
    )
