"""The one in-memory form of labelled series: `SeriesDataset`.

Readers produce it; splitting, imposed missingness and scaling map it to itself;
`nde.data.batch` turns it into padded tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nde.data.errors import DataError, unknown_name

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class SeriesDataset:
    """Series of any lengths and times, with missing values and optional labels.

    Series `i` has times `times[i]` `(length,)`, float64 and strictly increasing, and
    values `values[i]` `(length, channels)`, float64 with NaN where nothing was
    observed. `labels` `(series,)` are positions in `classes`; None without labels.
    `parts` names the part each series belongs to, None when the source does not say.
    `time_unit` is the unit of the times when it is known ("seconds" for dates).

    Raises `DataError` when the pieces do not fit together.
    """

    name: str
    ids: tuple[str, ...]
    times: tuple[FloatArray, ...]
    values: tuple[FloatArray, ...]
    channels: tuple[str, ...]
    labels: IntArray | None = None
    classes: tuple[str, ...] = ()
    parts: tuple[Part, ...] | None = None
    time_unit: str = ""

    def __post_init__(self) -> None:
        if not self.ids:
            raise DataError(f"{self.name} holds no series")
        counts = {len(self.ids), len(self.times), len(self.values)}
        if self.labels is not None:
            counts.add(len(self.labels))
        if self.parts is not None:
            counts.add(len(self.parts))
        if len(counts) != 1:
            raise DataError(f"{self.name}: fields of different lengths {counts}")
        if len(set(self.ids)) != len(self.ids):
            raise DataError(f"{self.name}: series ids are not unique")
        for key, time, value in zip(self.ids, self.times, self.values, strict=True):
            if time.ndim != 1 or len(time) == 0:
                raise DataError(f"{self.name}, series {key}: no observation times")
            if value.shape != (len(time), len(self.channels)):
                raise DataError(
                    f"{self.name}, series {key}: values of shape {value.shape}, "
                    f"expected {(len(time), len(self.channels))}"
                )
            if not np.isfinite(time).all() or (np.diff(time) <= 0).any():
                raise DataError(
                    f"{self.name}, series {key}: times must be finite and increasing"
                )

    def __len__(self) -> int:
        """Number of series."""
        return len(self.ids)

    def take(self, index: Sequence[int] | IntArray) -> "SeriesDataset":
        """The series at the positions `index`, in that order."""
        rows = [int(i) for i in index]
        return replace(
            self,
            ids=tuple(self.ids[i] for i in rows),
            times=tuple(self.times[i] for i in rows),
            values=tuple(self.values[i] for i in rows),
            labels=None if self.labels is None else self.labels[rows],
            parts=None if self.parts is None else tuple(self.parts[i] for i in rows),
        )

    def select(self, channels: Sequence[str]) -> "SeriesDataset":
        """The same series with some of the channels, in the order of `channels`.

        Raises `DataError` for a channel there is not.
        """
        for name in channels:
            if name not in self.channels:
                known = unknown_name("channel", name, self.channels)
                raise DataError(f"{self.name}: {known}")
        columns = [self.channels.index(name) for name in channels]
        values = tuple(value[:, columns] for value in self.values)
        return replace(self, channels=tuple(channels), values=values)

    def with_values(self, values: Sequence[FloatArray]) -> "SeriesDataset":
        """The same series with other values, one `(length, channels)` array each."""
        return replace(self, values=tuple(values))

    def observed(self) -> IntArray:
        """Number of observed values of each channel, `(channels,)`."""
        counts = np.zeros(len(self.channels), dtype=np.int64)
        for value in self.values:
            counts += np.isfinite(value).sum(axis=0)
        return counts


@dataclass(frozen=True)
class Reading:
    """What a reader made of a source: the data, what it understood, what it doubts."""

    dataset: SeriesDataset
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
