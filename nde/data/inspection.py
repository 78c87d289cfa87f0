"""What a data set holds, and what in it looks like a mistake or gives a label away."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from nde.data.series import FloatArray, IntArray, SeriesDataset


@dataclass(frozen=True)
class Channel:
    """Of one channel: share of the times with a value, and moments of the values.

    The moments are NaN where there is no value at all.
    """

    name: str
    observed: float
    mean: float
    deviation: float
    least: float
    greatest: float


@dataclass(frozen=True)
class Range:
    """Least, middle (the median) and greatest of one number per series."""

    least: float
    middle: float
    greatest: float


@dataclass(frozen=True)
class Inspection:
    """What `inspect_series` found.

    `lengths` in times, `spans` and `gaps` in the unit of the times: from the first time
    to the last, and between neighbours (NaN where no series has two). `clock` is
    "shared" where all series have the same times, "even" where all gaps are equal, and
    "irregular" otherwise. `doubts` are sentences.
    """

    series: int
    lengths: Range
    spans: Range
    gaps: Range
    clock: str
    channels: tuple[Channel, ...]
    classes: dict[str, int]
    parts: dict[str, int]
    doubts: tuple[str, ...]


def inspect_series(dataset: SeriesDataset) -> Inspection:
    """Count, measure and doubt a data set as read, before scaling."""
    lengths = np.array([len(time) for time in dataset.times], dtype=np.float64)
    spans = np.array([time[-1] - time[0] for time in dataset.times])
    gaps = np.concatenate([np.diff(time) for time in dataset.times])
    classes: dict[str, int] = {}
    if dataset.labels is not None:
        counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
        classes = dict(zip(dataset.classes, counts.tolist(), strict=True))
    channels = tuple(_channels(dataset))
    return Inspection(
        series=len(dataset),
        lengths=_range(lengths),
        spans=_range(spans),
        gaps=_range(gaps),
        clock=_clock(dataset, gaps),
        channels=channels,
        classes=classes,
        parts=dict(Counter(dataset.parts or ())),
        doubts=(*_flat(channels), *_repeated(dataset), *_leaks(dataset, channels)),
    )


def _range(values: FloatArray) -> Range:
    if len(values) == 0:
        return Range(np.nan, np.nan, np.nan)
    return Range(float(values.min()), float(np.median(values)), float(values.max()))


def _clock(dataset: SeriesDataset, gaps: FloatArray) -> str:
    first = dataset.times[0]
    if all(np.array_equal(first, time) for time in dataset.times):
        return "shared"
    # Times far from zero carry rounding that says nothing of the clock.
    slack = 8 * np.spacing(max(abs(time).max() for time in dataset.times))
    if len(gaps) and np.ptp(gaps) <= slack:
        return "even"
    return "irregular"


def _channels(dataset: SeriesDataset) -> list[Channel]:
    found = []
    whole = np.concatenate(dataset.values)
    for name, column in zip(dataset.channels, whole.T, strict=True):
        seen = column[np.isfinite(column)]
        share = len(seen) / len(column)
        if len(seen) == 0:
            found.append(Channel(name, share, np.nan, np.nan, np.nan, np.nan))
            continue
        moments = (seen.mean(), seen.std(), seen.min(), seen.max())
        found.append(Channel(name, share, *map(float, moments)))
    return found


def _flat(channels: tuple[Channel, ...]) -> list[str]:
    """Channels in which there is nothing to learn from."""
    doubts = []
    for channel in channels:
        if channel.observed == 0.0:
            doubts.append(f"channel {channel.name!r} has no value at all")
        elif channel.least == channel.greatest:
            doubts.append(
                f"channel {channel.name!r} is {channel.least:g} wherever it is observed"
            )
    return doubts


def _repeated(dataset: SeriesDataset) -> list[str]:
    """Series that are there more than once, in several parts or with several labels."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for i, (time, value) in enumerate(zip(dataset.times, dataset.values, strict=True)):
        canonical = np.where(np.isnan(value), np.nan, value)
        content = np.ascontiguousarray(np.column_stack([time, canonical])).tobytes()
        same[hashlib.sha256(content).digest()].append(i)
    groups = [group for group in same.values() if len(group) > 1]
    if not groups:
        return []
    first, second = (dataset.ids[i] for i in groups[0][:2])
    doubts = [
        f"{sum(map(len, groups))} series are copies of others, "
        f"such as {first!r} and {second!r}"
    ]
    labels, parts = dataset.labels, dataset.parts
    if labels is not None:
        torn = sum(len({int(labels[i]) for i in group}) > 1 for group in groups)
        if torn:
            doubts.append(f"{torn} of these groups of copies have several labels")
    if parts is not None:
        torn = sum(len({parts[i] for i in group}) > 1 for group in groups)
        if torn:
            doubts.append(
                f"{torn} of these groups of copies are in several parts: "
                "the test would be of what was trained on"
            )
    return doubts


# Series of each class below which a class may be told by chance.
_FEWEST = 8


def _leaks(dataset: SeriesDataset, channels: tuple[Channel, ...]) -> list[str]:
    """What tells the class of every series before anything is learned."""
    labels = dataset.labels
    if labels is None:
        return []
    _, members = np.unique(labels, return_counts=True)
    if len(members) < 2 or members.min() < _FEWEST:
        return []
    told: dict[str, FloatArray] = {
        "the number of times": np.array([len(t) for t in dataset.times], float),
        "the first time": np.array([time[0] for time in dataset.times]),
        "the last time": np.array([time[-1] for time in dataset.times]),
    }
    for column, channel in enumerate(channels):
        values = [value[:, column] for value in dataset.values]
        counts = np.array([float(np.isfinite(value).sum()) for value in values])
        name = f"channel {channel.name!r}"
        told[f"how often {name} was observed"] = counts
        if counts.min() > 0 and all(_constant(value) for value in values):
            told[f"{name}, constant in each series,"] = np.array(
                [value[np.isfinite(value)][0] for value in values]
            )
    return [
        f"{name} tells the class of every series: is it known when predicting?"
        for name, numbers in told.items()
        if _separates(numbers, labels)
    ]


def _constant(value: FloatArray) -> bool:
    seen = value[np.isfinite(value)]
    return bool(len(seen) > 0 and seen.min() == seen.max())


def _separates(numbers: FloatArray, labels: IntArray) -> bool:
    """Whether each class has an interval of its own, or few values of its own."""
    owners: dict[float, set[int]] = defaultdict(set)
    for number, label in zip(numbers.tolist(), labels.tolist(), strict=True):
        owners[number].add(label)
    if any(len(classes) > 1 for classes in owners.values()):
        return False
    order = [min(owners[number]) for number in sorted(owners)]
    changes = sum(a != b for a, b in zip(order, order[1:], strict=False))
    return changes == len(set(order)) - 1 or len(owners) <= len(labels) // 5
