"""Imposed missingness: drop a share of the observations, reproducibly.

Two published protocols that are not comparable with one another:
`channels` drops floor(length * rate) points of each series and each channel
independently; `rows` drops floor(length * rate) whole rows of each series.
"""

import math
from typing import Literal

import numpy as np

from nde.data.series import FloatArray, SeriesDataset

DropProtocol = Literal["channels", "rows"]
# Keeps this stream apart from the one that draws the splits from the same seed.
_STREAM = 1


def drop_observations(
    dataset: SeriesDataset,
    rate: float,
    *,
    seed: int,
    protocol: DropProtocol = "channels",
) -> SeriesDataset:
    """Replace a share `rate` of the values by NaN; the times stay.

    Every series keeps at least one row of each channel. Raises `ValueError` for a
    rate outside [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"the drop rate must be in [0, 1), got {rate}")
    if rate == 0.0:
        return dataset
    generator = np.random.default_rng([_STREAM, seed])
    columns = 1 if protocol == "rows" else len(dataset.channels)
    dropped: list[FloatArray] = []
    for value in dataset.values:
        length = len(value)
        # 100 * 0.57 is 56.99999999999999 in floating point and means 57.
        count = math.floor(length * rate + 1e-9)
        shuffled = generator.random((length, columns)).argsort(axis=0)
        mask = np.broadcast_to(shuffled < count, value.shape)
        dropped.append(np.where(mask, np.nan, value))
    return dataset.with_values(dropped)
