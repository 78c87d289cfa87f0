"""Splits, imposed missingness, scaling and batches of series."""

import numpy as np
import pytest
import torch

from nde.data import (
    DataError,
    Part,
    SeriesDataset,
    collate,
    drop_observations,
    fit_scaling,
    read_source,
    split_series,
)
from nde.data.series import FloatArray


def make(
    lengths: list[int],
    *,
    channels: int = 2,
    classes: int = 2,
    parts: tuple[Part, ...] | None = None,
    seed: int = 0,
) -> SeriesDataset:
    generator = np.random.default_rng(seed)
    times: list[FloatArray] = [
        100.0 + np.cumsum(generator.uniform(0.5, 2.0, n)) for n in lengths
    ]
    return SeriesDataset(
        name="made",
        ids=tuple(f"s{i}" for i in range(len(lengths))),
        times=tuple(times),
        values=tuple(generator.normal(5, 3, (n, channels)) for n in lengths),
        channels=tuple(f"x{c}" for c in range(channels)),
        labels=np.arange(len(lengths)) % classes,
        classes=tuple(str(k) for k in range(classes)),
        parts=parts,
    )


def test_split_without_parts_is_disjoint_stratified_and_seeded() -> None:
    dataset = make([5] * 200, classes=4)
    split = split_series(dataset, seed=3)
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(200))
    assert [len(part) for part in parts] == [136, 32, 32]
    assert dataset.labels is not None
    for part in parts:
        counts = np.bincount(dataset.labels[part], minlength=4)
        assert counts.max() == counts.min()
    again = split_series(dataset, seed=3)
    assert again.test.tolist() == split.test.tolist()
    other = split_series(dataset, seed=4)
    assert other.test.tolist() != split.test.tolist()


def test_validation_is_a_fifth_of_the_official_training_series() -> None:
    dataset = read_source("japanese-vowels").dataset
    split = split_series(dataset, seed=0)
    assert (len(split.train), len(split.validation), len(split.test)) == (216, 54, 370)
    assert dataset.parts is not None and dataset.labels is not None
    assert {dataset.parts[i] for i in split.test} == {"test"}
    assert np.bincount(dataset.labels[split.validation]).tolist() == [6] * 9
    assert not set(split.train.tolist()) & set(split.validation.tolist())


def test_given_parts_win() -> None:
    parts: tuple[Part, ...] = ("test", "train", "validation", "train", "test", "train")
    split = split_series(make([3] * 6, parts=parts), seed=0)
    assert split.train.tolist() == [1, 3, 5]
    assert split.validation.tolist() == [2]
    assert split.test.tolist() == [0, 4]


def test_small_classes_reach_every_part() -> None:
    split = split_series(make([3] * 6, classes=2), seed=0)
    assert [len(split.train), len(split.validation), len(split.test)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (make([3] * 4, classes=1), "same class"),
        (make([3] * 2), "part is empty"),
        (make([3] * 4, parts=("train",) * 4), "test part is empty"),
    ],
)
def test_splits_that_cannot_be(dataset: SeriesDataset, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        split_series(dataset, seed=0)


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.7, 0.57])
def test_dropping_by_channel_hides_the_floor_of_each(rate: float) -> None:
    dataset = make([7, 29, 100, 1])
    dropped = drop_observations(dataset, rate, seed=1)
    for value, before in zip(dropped.values, dataset.values, strict=True):
        # Whole hundredths, so that the floor is taken of the exact product.
        expected = len(value) * round(100 * rate) // 100
        missing = np.isnan(value)
        assert missing.sum(axis=0).tolist() == [expected] * value.shape[1]
        np.testing.assert_array_equal(value[~missing], before[~missing])
    long = np.isnan(dropped.values[2])
    assert (long[:, 0] != long[:, 1]).any()
    for after, time in zip(dropped.times, dataset.times, strict=True):
        assert after is time


def test_dropping_rows_hides_whole_rows() -> None:
    dropped = drop_observations(make([10, 20]), 0.5, seed=1, protocol="rows")
    for value, count in zip(dropped.values, (5, 10), strict=True):
        missing = np.isnan(value)
        assert missing.all(axis=1).sum() == count
        np.testing.assert_array_equal(missing.all(axis=1), missing.any(axis=1))


def test_dropping_is_seeded_and_leaves_the_original_alone() -> None:
    dataset = make([50])
    before = dataset.values[0].copy()
    first, second = (drop_observations(dataset, 0.5, seed=2) for _ in range(2))
    other = drop_observations(dataset, 0.5, seed=3)
    np.testing.assert_array_equal(first.values[0], second.values[0])
    assert (np.isnan(first.values[0]) != np.isnan(other.values[0])).any()
    np.testing.assert_array_equal(dataset.values[0], before)
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match="drop rate"):
            drop_observations(dataset, rate, seed=0)


def test_scaling_is_fitted_on_observed_values_of_the_given_series() -> None:
    dataset = drop_observations(make([20, 30, 40]), 0.5, seed=0)
    train = dataset.take([0, 1])
    scaling, warnings = fit_scaling(train)
    assert warnings == ()
    stacked = np.concatenate(train.values)
    np.testing.assert_allclose(scaling.mean, np.nanmean(stacked, axis=0))
    np.testing.assert_allclose(scaling.deviation, np.nanstd(stacked, axis=0))
    scaled = scaling.apply(dataset)
    np.testing.assert_allclose(
        np.nanmean(np.concatenate(scaled.values[:2]), axis=0), 0, atol=1e-12
    )
    # The series that was left out did not take part.
    assert abs(np.nanmean(scaled.values[2])) > 1e-6
    np.testing.assert_allclose(
        scaling.invert_values(scaled.values[2]), dataset.values[2]
    )


def test_time_starts_at_zero_and_the_median_length_is_one() -> None:
    dataset = make([20, 30, 40])
    scaling, _ = fit_scaling(dataset)
    scaled = scaling.apply(dataset)
    assert [time[0] for time in scaled.times] == [0.0] * 3
    assert np.median([time[-1] for time in scaled.times]) == pytest.approx(1.0)
    back = scaling.invert_times(scaled.times[1], dataset.times[1][0])
    np.testing.assert_allclose(back, dataset.times[1])


def test_still_and_unseen_channels_are_told_and_stay_finite() -> None:
    dataset = make([20, 30], channels=3)
    for value in dataset.values:
        value[:, 0] = 7.3
        value[:, 1] = np.nan
        value[:, 2] *= 1e300
    scaling, warnings = fit_scaling(dataset)
    assert "'x0' is constant" in warnings[0] and "'x1' has no value" in warnings[1]
    scaled = np.concatenate(scaling.apply(dataset).values)
    np.testing.assert_allclose(scaled[:, 0], 0, atol=1e-12)
    assert np.isfinite(scaled[:, 2]).all()
    assert np.abs(scaled[:, 2]).max() < 10


def test_batch_is_padded_with_the_last_time_and_nan() -> None:
    dataset = make([2, 4])
    batch = collate(dataset, [1, 0])
    assert batch.times.dtype == torch.float32
    assert batch.times.shape == (2, 4) and batch.values.shape == (2, 4, 2)
    assert batch.labels is not None and batch.labels.tolist() == [1, 0]
    assert (batch.times[1, 2:] == batch.times[1, 1]).all()
    assert batch.values[1, 2:].isnan().all()
    assert batch.values[1, :2].isfinite().all()
    wide = collate(dataset, [0], dtype=torch.float64)
    np.testing.assert_array_equal(wide.values[0].numpy(), dataset.values[0])


def test_a_data_set_that_does_not_fit_together_is_refused() -> None:
    good = make([3])
    with pytest.raises(DataError, match="increasing"):
        SeriesDataset("d", ("a",), (good.times[0][::-1],), good.values, good.channels)
    with pytest.raises(DataError, match="shape"):
        SeriesDataset("d", ("a",), good.times, good.values, ("x0",))
    with pytest.raises(DataError, match="no series"):
        SeriesDataset("d", (), (), (), ("x0",))
    with pytest.raises(DataError, match="unique"):
        SeriesDataset("d", ("a", "a"), good.times * 2, good.values * 2, good.channels)
