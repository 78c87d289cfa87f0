"""One training and what it cost, by one loop for all benchmarks of regularizers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from nde.models import LayerOutput
from nde.solvers import SolveError
from nde.training.pricing import (
    auto_weights,
    gradient_norms,
    penalty_gradients,
    teach,
)

# Iterations between two looks at gradient norms, for weights that learn from them.
_LOOK = 10

# Predictions whose median time is told.
_PREDICTIONS = 3


class Experiment(Protocol):
    """A fresh model with data and optimizer, all of them drawn with one seed."""

    @property
    def model(self) -> nn.Module:
        """What is trained, with its regularizers."""

    @property
    def field(self) -> nn.Module:
        """The part of the model whose calls are counted."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Of all parameters of the model."""

    def loss(self, iteration: int, progress: float) -> tuple[Tensor, LayerOutput]:
        """Loss of the task on one batch, and the solve that it comes from."""

    def test(self) -> float:
        """Predict the test set by one solve; the metric of that."""


@dataclass(frozen=True)
class Row:
    """One training.

    `setting` names data, size and budget; rows of other settings are not compared.
    Evaluations are calls of the field: of one solve of the test set, and of the forward
    pass of an iteration, with the extra steps of local regularizers. Seconds are of the
    processor: of all iterations, and of one prediction of the test set. `note` tells
    why there are no numbers.
    """

    method: str
    seed: int
    setting: str
    metric: float
    test_evaluations: float
    train_evaluations: float
    train_seconds: float
    predict_seconds: float
    note: str = ""


class Calls:
    """Counts calls of a module while it is asked to."""

    def __init__(self, field: nn.Module) -> None:
        self.count = 0
        self._counting = False
        field.register_forward_pre_hook(self._called)

    def _called(self, module: nn.Module, inputs: object) -> None:
        self.count += self._counting

    @contextmanager
    def counting(self) -> Iterator[None]:
        self._counting = True
        try:
            yield
        finally:
            self._counting = False


def trial(method: str, seed: int, setting: str, work: Experiment, count: int) -> Row:
    """Train for `count` iterations, then test."""
    try:
        calls = Calls(work.field)
        seconds = _train(work, count, calls)
        trained = calls.count
        times = []
        work.model.eval()
        for _ in range(_PREDICTIONS):
            begin = time.process_time()
            with torch.no_grad(), calls.counting():
                metric = work.test()
            times.append(time.process_time() - begin)
    except SolveError as error:
        unknown = float("nan")
        note = str(error).splitlines()[0]
        return Row(method, seed, setting, *(unknown,) * 5, note)
    return Row(
        method,
        seed,
        setting,
        metric,
        (calls.count - trained) / _PREDICTIONS,
        trained / count,
        seconds,
        statistics.median(times),
    )


def _train(work: Experiment, count: int, calls: Calls) -> float:
    """Train, counting calls in forward passes; seconds of all iterations."""
    work.model.train()
    begin = time.process_time()
    for iteration in range(count):
        progress = iteration / count
        with calls.counting():
            task, out = work.loss(iteration, progress)
        loss = task + out.penalty
        _descend(work, loss, out, progress, look=iteration % _LOOK == 0)
    return time.process_time() - begin


def _descend(
    work: Experiment, loss: Tensor, out: LayerOutput, progress: float, *, look: bool
) -> None:
    """One step of the optimizer, from which weights learn that do."""
    learning = auto_weights(work.model)
    parameters = list(work.model.parameters())
    parts = penalty_gradients(parameters, out.terms) if learning and look else None
    work.optimizer.zero_grad()
    loss.backward()
    if learning:
        evaluations = float(out.solution.stats.evaluations.double().mean())
        norms = None
        if parts is not None:
            norms = gradient_norms(parameters, parts, out.weights)
        teach(work.model, progress, evaluations, norms)
    work.optimizer.step()
