"""What the parts of the data are: counts for people to look at."""

from typing import Any

import numpy as np

from nde.data import PARTS, SeriesDataset
from nde.training.preparation import Prepared


def summarise_data(prepared: Prepared) -> dict[str, Any]:
    """A plain tree of each part, for data.json.

    Series; shortest, median and longest number of times and duration (in the unit of
    the data); the share of values of each channel that is missing, hidden ones
    included; series of each class.
    """
    scale = prepared.schema.scaling.time_scale
    return {part: _part(prepared.parts[part], scale) for part in PARTS}


def _part(dataset: SeriesDataset, time_scale: float) -> dict[str, Any]:
    labels = dataset.labels
    assert labels is not None
    lengths = np.array([len(time) for time in dataset.times])
    spans = np.array([time[-1] - time[0] for time in dataset.times]) * time_scale
    missing = 1 - dataset.observed() / lengths.sum()
    counts = np.bincount(labels, minlength=len(dataset.classes))
    return {
        "series": len(dataset),
        "times": _range(lengths),
        "duration": _range(spans),
        "missing": dict(zip(dataset.channels, missing.tolist(), strict=True)),
        "classes": dict(zip(dataset.classes, counts.tolist(), strict=True)),
    }


def _range(values: np.ndarray[Any, Any]) -> list[float]:
    return [float(values.min()), float(np.median(values)), float(values.max())]
