"""Whether predicted probabilities are as often right as they say.

Confidence is the probability of the predicted class; series are put into bins of equal
width by it, and the expected calibration error is the mean over the series of the gap
between accuracy and confidence of their bin (Guo et al. 2017, On Calibration of Modern
Neural Networks, eqs. 2, 3 and 5).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Of each bin that is not empty: its place, series, confidence and accuracy."""

    place: tuple[int, ...]
    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    error: float


def calibrate(probabilities: Tensor, labels: Tensor) -> Calibration:
    """Calibration in `BINS` bins; probabilities `(series, classes)`, labels int64."""
    top, predicted = probabilities.double().max(dim=1)
    right = (predicted == labels).double()
    edges = torch.linspace(0, 1, BINS + 1, dtype=top.dtype)
    # A confidence of exactly 1 belongs to the last bin.
    place = (torch.bucketize(top, edges, right=True) - 1).clamp(max=BINS - 1)
    filled = [k for k in range(BINS) if bool((place == k).any())]
    error = multiclass_calibration_error(
        probabilities.double(), labels, probabilities.shape[1], n_bins=BINS, norm="l1"
    )
    return Calibration(
        place=tuple(filled),
        count=tuple(int((place == k).sum()) for k in filled),
        confidence=tuple(float(top[place == k].mean()) for k in filled),
        accuracy=tuple(float(right[place == k].mean()) for k in filled),
        error=float(error),
    )
