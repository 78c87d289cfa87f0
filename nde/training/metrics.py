"""Classification metrics of predicted class probabilities."""

import math

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_accuracy,
    multiclass_f1_score,
)


def classification_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro-F1, AUROC and log loss.

    probabilities `(series, classes)`, labels `(series,)` int64. Averages over classes
    run over those present in `labels`; AUROC is one against the rest, NaN when only
    one class is present.
    """
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(dim=1)
    present = sorted(set(labels.tolist()))
    recall = multiclass_accuracy(predicted, labels, classes, average="none")
    f1 = multiclass_f1_score(predicted, labels, classes, average="none")
    # A class that was predicted but never occurs still lowers the mean of F1.
    occurring = sorted({*present, *predicted.tolist()})
    areas = [
        float(binary_auroc(probabilities[:, k], (labels == k).long()))
        for k in present
        if len(present) > 1
    ]
    likelihood = probabilities.double().gather(1, labels[:, None]).squeeze(1)
    tiny = torch.finfo(probabilities.dtype).eps
    return {
        "accuracy": float((predicted == labels).double().mean()),
        "balanced_accuracy": float(recall[present].double().mean()),
        "macro_f1": float(f1[occurring].double().mean()),
        "auroc": sum(areas) / len(areas) if areas else math.nan,
        "log_loss": float(-likelihood.clamp_min(tiny).log().mean()),
    }
