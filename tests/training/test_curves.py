"""Numbers behind the pictures: class curves, calibration, names in figures."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from nde.training.calibration import calibrate
from nde.training.class_curves import class_curves
from nde.training.plots.confusion import draw_confusion
from nde.training.plots.discrimination import draw_discrimination
from nde.training.plots.picture import literal


def guesses(classes: int, series: int = 200) -> tuple[Tensor, Tensor]:
    """Probabilities that know something, and labels of which all classes occur."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (series,), generator=generator)
    logits = torch.randn(series, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(series), labels] += 1.0
    # Two digits, so that there are ties.
    return logits.softmax(dim=1).round(decimals=2), labels


def test_areas_are_those_of_scikit_learn_and_of_what_is_drawn() -> None:
    probabilities, labels = guesses(4)
    curves = class_curves(probabilities, labels, ["a", "b", "c", "d"])
    assert [curve.name for curve in curves] == ["a", "b", "c", "d"]
    for k, curve in enumerate(curves):
        target, score = (labels == k).numpy(), probabilities[:, k].numpy()
        assert curve.auroc == pytest.approx(roc_auc_score(target, score), abs=1e-6)
        expected = average_precision_score(target, score)
        assert curve.average_precision == pytest.approx(expected, abs=1e-6)
        assert curve.share == pytest.approx(target.mean())
        area = np.trapezoid(curve.true_positives, curve.false_positives)
        assert area == pytest.approx(curve.auroc, abs=1e-6)
        steps = -np.sum(np.diff(curve.recall) * curve.precision[:-1])
        assert steps == pytest.approx(curve.average_precision, abs=1e-6)


def test_of_two_classes_the_rarer_one_is_shown() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    names = ["no", "yes"]
    for labels, name in (([0, 1, 1, 1], "no"), ([0, 1, 0, 0], "yes")):
        (curve,) = class_curves(probabilities, torch.tensor(labels), names)
        assert curve.name == name and curve.share == 0.25
    (curve,) = class_curves(probabilities, torch.tensor([0, 1, 1, 0]), names)
    assert curve.name == "yes" and curve.auroc == 1.0


def test_absent_classes_have_no_curves() -> None:
    probabilities, labels = guesses(3)
    some = class_curves(probabilities, labels.clamp(max=1), ["a", "b", "c"])
    assert [curve.name for curve in some] == ["a", "b"]
    assert class_curves(probabilities, torch.zeros_like(labels), ["a", "b", "c"]) == ()


def test_calibration_by_hand() -> None:
    # Confidences 1 (right), 0.95 (wrong) and 0.55 twice (one right).
    probabilities = torch.tensor(
        [[1.0, 0.0], [0.05, 0.95], [0.55, 0.45], [0.45, 0.55]], dtype=torch.float64
    )
    found = calibrate(probabilities, torch.tensor([0, 0, 0, 0]))
    assert found.place == (5, 9) and found.count == (2, 2)
    assert found.confidence == pytest.approx((0.55, 0.975))
    assert found.accuracy == pytest.approx((0.5, 0.5))
    assert found.error == pytest.approx(0.5 * 0.05 + 0.5 * 0.475)


def test_the_calibration_error_is_the_gap_of_the_bins_shown() -> None:
    probabilities, labels = guesses(3)
    found = calibrate(probabilities, labels)
    assert sum(found.count) == len(labels)
    gaps = np.abs(np.array(found.accuracy) - np.array(found.confidence))
    assert found.error == pytest.approx(np.average(gaps, weights=found.count), abs=1e-6)
    assert found.error > 0.01


def test_names_of_any_kind_are_drawn_as_they_are() -> None:
    names = [r"$\frac{$", "_hidden", "日本", "a" * 60, *(f"n{k}" for k in range(8))]
    assert literal(names[0]) == r"\$\frac{\$"
    assert len(literal(names[3])) == 24
    probabilities, labels = guesses(len(names), 400)
    curves = class_curves(probabilities, labels, names)
    assert len(curves) == len(names)
    for shown in (curves, curves[:4]):
        assert draw_discrimination(shown).startswith(b"\x89PNG")
    matrix = torch.eye(len(names), dtype=torch.int64)
    # A class that does not occur has an empty row.
    matrix[2, 2] = 0
    assert draw_confusion(matrix, names).startswith(b"\x89PNG")
