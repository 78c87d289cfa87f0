"""ROC and precision-recall curves, of one class against the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_precision_recall_curve,
    binary_roc,
)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassCurves:
    """How well the probability of the class `name` tells it from the rest.

    False and true positive rates from (0, 0) to (1, 1); recalls and precisions from
    recall 1 to 0; the areas under both (for the second the average precision); and
    the share of the class, which is the precision of a blind guess.
    """

    name: str
    false_positives: FloatArray
    true_positives: FloatArray
    recall: FloatArray
    precision: FloatArray
    auroc: float
    average_precision: float
    share: float


def class_curves(
    probabilities: Tensor, labels: Tensor, classes: Sequence[str]
) -> tuple[ClassCurves, ...]:
    """The curves of each class that occurs in `labels`, beside others.

    probabilities `(series, classes)`, labels `(series,)` int64. Of two classes only the
    rarer one has curves, the second if they are equal: its precision says more, and
    the ROC curve of the other is the same one mirrored. Empty when all labels are of
    one class.
    """
    present = sorted(set(labels.tolist()))
    if len(present) < 2:
        return ()
    shown = present
    if len(classes) == 2:
        shown = [int(2 * int(labels.sum()) <= len(labels))]
    found = []
    for k in shown:
        scores, target = probabilities[:, k], (labels == k).long()
        fpr, tpr, _ = binary_roc(scores, target)
        precision, recall, _ = binary_precision_recall_curve(scores, target)
        found.append(
            ClassCurves(
                name=classes[k],
                false_positives=_array(fpr),
                true_positives=_array(tpr),
                recall=_array(recall),
                precision=_array(precision),
                auroc=float(binary_auroc(scores, target)),
                average_precision=float(binary_average_precision(scores, target)),
                share=float(target.double().mean()),
            )
        )
    return tuple(found)


def _array(values: Tensor) -> FloatArray:
    array: FloatArray = values.double().numpy()
    return array
