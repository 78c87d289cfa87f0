"""Metrics against scikit-learn, and the classes that do not occur."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from nde.training.metrics import classification_metrics


@pytest.mark.parametrize(("classes", "present"), [(2, 2), (9, 9), (5, 3)])
def test_against_scikit_learn(classes: int, present: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(present, (200,), generator=generator)
    scores = torch.randn(200, classes, generator=generator, dtype=torch.float64)
    scores[torch.arange(200), labels] += 1.0
    # Classes that never occur are sometimes predicted all the same.
    probabilities = scores.softmax(dim=1)
    found = classification_metrics(probabilities, labels)
    y, p = labels.numpy(), probabilities.numpy()
    predicted = p.argmax(axis=1)
    areas = [oracle.roc_auc_score(y == k, p[:, k]) for k in range(present)]
    recalls = oracle.recall_score(y, predicted, average=None, zero_division=0)
    wanted = {
        "accuracy": oracle.accuracy_score(y, predicted),
        "balanced_accuracy": recalls[np.unique(y)].mean(),
        "macro_f1": oracle.f1_score(y, predicted, average="macro", zero_division=0),
        "auroc": np.mean(areas),
        "log_loss": oracle.log_loss(y, p, labels=range(classes)),
    }
    assert found == pytest.approx(wanted, rel=1e-6)


def test_certain_and_wrong_is_a_finite_loss() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    found = classification_metrics(probabilities, torch.tensor([0, 1]))
    assert math.isfinite(found["log_loss"]) and found["log_loss"] > 10


def test_one_class_has_no_area() -> None:
    probabilities = torch.tensor([[0.7, 0.3], [0.6, 0.4]], dtype=torch.float64)
    found = classification_metrics(probabilities, torch.tensor([0, 0]))
    assert math.isnan(found["auroc"]) and found["accuracy"] == 1.0
