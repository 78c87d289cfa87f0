"""Padded batches of tensors from a `SeriesDataset`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nde.data.series import IntArray, SeriesDataset


@dataclass(frozen=True)
class Batch:
    """Series of one batch, padded to the longest of them.

    times `(batch, length)`, padded by repeating the last time; values
    `(batch, length, channels)`, NaN where missing or padded; labels `(batch,)` int64,
    None for unlabelled data.
    """

    times: Tensor
    values: Tensor
    labels: Tensor | None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        labels = None if self.labels is None else self.labels.to(device)
        return Batch(self.times.to(device), self.values.to(device), labels)


def collate(
    dataset: SeriesDataset,
    index: Sequence[int] | IntArray,
    *,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Pad the series at positions `index` to one batch."""
    rows = [int(i) for i in index]
    longest = max(len(dataset.times[i]) for i in rows)
    times = np.empty((len(rows), longest))
    values = np.full((len(rows), longest, len(dataset.channels)), np.nan)
    for row, i in enumerate(rows):
        length = len(dataset.times[i])
        times[row, :length] = dataset.times[i]
        times[row, length:] = dataset.times[i][-1]
        values[row, :length] = dataset.values[i]
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[rows])
    return Batch(
        torch.from_numpy(times).to(dtype), torch.from_numpy(values).to(dtype), labels
    )
