"""What a data set holds, and what in it gives a label away."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from nde.data.inspection import inspect_series
from nde.data.series import SeriesDataset


def dataset(
    times: Sequence[Sequence[float]], values: Sequence[np.ndarray], labels: list[int]
) -> SeriesDataset:
    channels = tuple(f"x{i + 1}" for i in range(values[0].shape[1]))
    return SeriesDataset(
        name="d",
        ids=tuple(f"s{i}" for i in range(len(times))),
        times=tuple(np.array(time, dtype=np.float64) for time in times),
        values=tuple(values),
        channels=channels,
        labels=np.array(labels, dtype=np.int64),
        classes=tuple(f"c{i}" for i in range(max(labels) + 1)),
    )


def honest(series: int = 20) -> SeriesDataset:
    """Two classes that nothing but the values of x1 tells apart, at times of chance."""
    generator = np.random.default_rng(0)
    labels = [i % 2 for i in range(series)]
    times, values = [], []
    for label in labels:
        length = generator.integers(3, 8)
        times.append(np.cumsum(generator.uniform(0.5, 2.0, length)).tolist())
        values.append(generator.normal((3.0 * label, 10.0), 1.0, (length, 2)))
    return dataset(times, values, labels)


def test_counts_and_moments() -> None:
    nan = np.nan
    found = inspect_series(
        dataset(
            [[0, 1, 4], [2]],
            [np.array([[1.0, nan], [3.0, nan], [nan, nan]]), np.array([[5.0, nan]])],
            [0, 1],
        )
    )
    assert found.series == 2 and found.classes == {"c0": 1, "c1": 1}
    assert vars(found.lengths) == {"least": 1.0, "middle": 2.0, "greatest": 3.0}
    assert vars(found.spans) == {"least": 0.0, "middle": 2.0, "greatest": 4.0}
    assert vars(found.gaps) == {"least": 1.0, "middle": 2.0, "greatest": 3.0}
    first, second = found.channels
    assert (first.name, first.observed) == ("x1", 0.75)
    assert (first.mean, first.least, first.greatest) == (3.0, 1.0, 5.0)
    assert first.deviation == pytest.approx(np.std([1, 3, 5]))
    assert second.observed == 0.0 and np.isnan(second.mean)
    assert found.doubts == ("channel 'x2' has no value at all",)


def test_clocks() -> None:
    one = np.zeros((1, 1))

    def clock(*times: Sequence[float]) -> str:
        values = [np.repeat(one, len(time), 0) for time in times]
        return inspect_series(dataset(times, values, [0] * len(times))).clock

    assert clock([0, 1, 3], [0, 1, 3]) == "shared"
    assert clock([0, 1, 2], [5, 6]) == "even"
    late = 1.7e9
    assert clock([late + 0.1, late + 0.2, late + 0.3], [0.1, 0.2]) == "even"
    assert clock([0, 1, 3], [0, 1]) == "irregular"
    assert clock([0], [1]) == "irregular"


def test_an_honest_data_set_raises_no_doubt() -> None:
    assert inspect_series(honest()).doubts == ()
    assert inspect_series(replace(honest(), labels=None, classes=())).doubts == ()


def test_what_gives_the_label_away() -> None:
    good = honest()
    assert good.labels is not None
    kinds = good.labels.tolist()

    def doubts(**changes: object) -> tuple[str, ...]:
        return inspect_series(replace(good, **changes)).doubts  # type: ignore[arg-type]

    shifted = [t + 100 * k for t, k in zip(good.times, kinds, strict=True)]
    first, last = doubts(times=tuple(shifted))
    assert first.startswith("the first time tells the class of every series")
    assert last.startswith("the last time tells")

    # A channel measured in one class only, and one that holds the label itself.
    seen = [v.copy() for v in good.values]
    told = [v.copy() for v in good.values]
    for value, copied, kind in zip(seen, told, kinds, strict=True):
        if kind:
            value[:, 1] = np.nan
        copied[:, 1] = kind
    (line,) = doubts(values=tuple(seen))
    assert line.startswith("how often channel 'x2' was observed tells the class")
    (line,) = doubts(values=tuple(told))
    assert line.startswith("channel 'x2', constant in each series, tells the class")
    # Codes of several values for a class are no intervals, and give it away too.
    for number, (copied, kind) in enumerate(zip(told, kinds, strict=True)):
        copied[:, 1] = (number // 2 % 2) * 2 + kind
    assert len(doubts(values=tuple(told))) == 1
    # A number of its own for each series says nothing.
    for number, copied in enumerate(told):
        copied[:, 1] = number
    assert doubts(values=tuple(told)) == ()


def test_few_series_may_be_told_apart_by_chance() -> None:
    small = honest(14)
    assert small.labels is not None
    kinds = small.labels.tolist()
    shifted = [t + 100 * k for t, k in zip(small.times, kinds, strict=True)]
    assert inspect_series(replace(small, times=tuple(shifted))).doubts == ()


def test_copies_and_flat_channels() -> None:
    good = honest()
    times, values = list(good.times), list(good.values)
    times[5], values[5] = times[2], values[2]
    copied = replace(good, times=tuple(times), values=tuple(values))
    first, second = inspect_series(copied).doubts
    assert first == "2 series are copies of others, such as 's2' and 's5'"
    assert "several labels" in second
    parts = tuple("train" if i < 4 else "test" for i in range(len(good)))
    third = inspect_series(replace(copied, parts=parts)).doubts[2]  # type: ignore[arg-type]
    assert "several parts" in third
    flat = [np.column_stack([v[:, 0], np.full(len(v), 7.0)]) for v in good.values]
    assert inspect_series(replace(good, values=tuple(flat))).doubts == (
        "channel 'x2' is 7 wherever it is observed",
    )
