"""Scaling fitted on the training series and applied to all: channels and time.

Channel values become (value - mean) / deviation over the observed training values.
Times become (time - start of the series) / scale, with the median length of a
training series as the scale, so that most solves run over about [0, 1].
"""

from dataclasses import dataclass, replace

import numpy as np

from nde.data.errors import DataError
from nde.data.series import FloatArray, SeriesDataset


@dataclass(frozen=True)
class Scaling:
    """Mean and deviation of each channel, and the unit of time."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    time_scale: float

    def apply(self, dataset: SeriesDataset) -> SeriesDataset:
        """Scaled copy of `dataset`, which must have the channels of the fit."""
        if len(dataset.channels) != len(self.mean):
            raise DataError(
                f"{dataset.name} has {len(dataset.channels)} channels, "
                f"the scaling was fitted on {len(self.mean)}"
            )
        mean, deviation = np.array(self.mean), np.array(self.deviation)
        times = ((time - time[0]) / self.time_scale for time in dataset.times)
        values = ((value - mean) / deviation for value in dataset.values)
        return replace(dataset, times=tuple(times), values=tuple(values))

    def invert_values(self, values: FloatArray) -> FloatArray:
        """Scaled `values` `(..., channels)` in their original units."""
        restored: FloatArray = values * np.array(self.deviation) + np.array(self.mean)
        return restored

    def invert_times(self, times: FloatArray, start: float) -> FloatArray:
        """Scaled `times` of a series that began at `start`, in original units."""
        return start + times * self.time_scale


def fit_scaling(dataset: SeriesDataset) -> tuple[Scaling, tuple[str, ...]]:
    """Fit the scaling on the series of `dataset`; also returns warnings to print.

    A channel that never changes, or is never observed, keeps its values.
    """
    stacked = np.concatenate(dataset.values)
    seen = np.isfinite(stacked)
    count = np.maximum(seen.sum(axis=0), 1)
    # Dividing by the largest magnitude first keeps squares of 1e200 finite.
    size = np.abs(np.where(seen, stacked, 0.0)).max(axis=0)
    size = np.where(size > 0, size, 1.0)
    unit = np.where(seen, stacked / size, 0.0)
    mean = unit.sum(axis=0) / count
    centred = np.where(seen, unit - mean, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=0) / count)
    warnings = []
    # Rounding leaves a constant channel a deviation near the machine epsilon.
    constant = deviation <= 1e-12
    for name, still, number in zip(
        dataset.channels, constant, seen.sum(axis=0), strict=True
    ):
        if number == 0:
            warnings.append(f"channel {name!r} has no value in the training series")
        elif still:
            warnings.append(f"channel {name!r} is constant in the training series")
    deviation = np.where(constant, 1.0 / size, deviation)
    lengths = np.array([time[-1] - time[0] for time in dataset.times])
    positive = lengths[lengths > 0]
    time_scale = float(np.median(positive)) if len(positive) else 1.0
    return (
        Scaling(
            tuple(float(m) for m in mean * size),
            tuple(float(d) for d in deviation * size),
            time_scale,
        ),
        tuple(warnings),
    )
