"""One optimiser step, and the optimiser and learning rate it is taken with."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    ReduceLROnPlateau,
)

from nde.data import Batch
from nde.models import SeriesClassifier
from nde.solvers import SolveError
from nde.training.config import OptimConfig
from nde.training.events import StepEnd
from nde.training.pricing import gradient_norms, penalty_gradients, teach


@dataclass(frozen=True)
class Position:
    """Where a step stands: epoch and step from 1, and steps of the whole run."""

    epoch: int
    step: int
    steps: int


def make_optimiser(config: OptimConfig, model: SeriesClassifier) -> Adam:
    """Adam on all parameters of `model`."""
    return Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)


def make_schedule(
    config: OptimConfig, optimiser: Adam, steps: int, *, rising: bool
) -> LRScheduler | ReduceLROnPlateau:
    """The learning rate over the run.

    `cosine` falls to zero over `steps` optimiser steps; `plateau` halves after five
    epochs without a better validation metric, which is better when it is `rising`.
    """
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimiser, T_max=steps)
    if config.schedule == "plateau":
        return ReduceLROnPlateau(
            optimiser, mode="max" if rising else "min", factor=0.5, patience=5
        )
    return ConstantLR(optimiser, factor=1.0, total_iters=0)


def training_step(
    config: OptimConfig,
    model: SeriesClassifier,
    optimiser: Adam,
    batch: Batch,
    *,
    noise_seed: int,
    position: Position,
    measure: bool = False,
) -> StepEnd:
    """Loss, gradient, clipping, update; no update if any of them is not finite.

    `measure` asks for each penalty's share of the gradient, at the price of a backward
    pass for each. Automatic weights learn from the step, for the next one.
    """
    assert batch.labels is not None
    optimiser.zero_grad(set_to_none=True)
    loss = norm = evaluations = math.nan
    penalties: dict[str, float] = {}
    weights: dict[str, float] = {}
    norms = None
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    progress = (position.step - 1) / position.steps
    finite = True
    try:
        out = model(batch.times, batch.values, seed=noise_seed, progress=progress)
    except SolveError:
        finite = False
    else:
        objective = out.penalty + functional.cross_entropy(
            out.logits, batch.labels, label_smoothing=config.label_smoothing
        )
        loss = objective.item()
        evaluations = out.evaluations.double().mean().item()
        penalties = {name: float(value) for name, value in out.penalties.items()}
        weights = out.weights
        finite = math.isfinite(loss)
        if finite:
            parts = penalty_gradients(parameters, out.terms) if measure else {}
            objective.backward()
            if parts:
                norms = gradient_norms(parameters, parts, weights)
            limit = math.inf if config.clip is None else config.clip
            norm = float(clip_grad_norm_(model.parameters(), limit))
            finite = math.isfinite(norm)
        if finite:
            optimiser.step()
            teach(model, progress, evaluations, norms)
    return StepEnd(
        epoch=position.epoch,
        step=position.step,
        steps=position.steps,
        loss=loss,
        penalties=penalties,
        weights=weights,
        shares={} if norms is None else norms.shares,
        evaluations=evaluations,
        gradient_norm=norm,
        lr=float(torch.as_tensor(optimiser.param_groups[0]["lr"])),
        skipped=not finite,
    )
