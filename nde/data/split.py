"""Training, validation and test parts, cut by series and stratified by class.

A part the source names wins. A source with a training and a test part only gives
20 % of its training series to validation; a source without parts is cut 70/15/15.
"""

from dataclasses import dataclass

import numpy as np

from nde.data.errors import DataError
from nde.data.series import IntArray, SeriesDataset

VALIDATION_SHARE = 0.2
SHARES = (0.15, 0.15)
_STREAM = 0


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of the series of each part, `(series of that part,)` each."""

    train: IntArray
    validation: IntArray
    test: IntArray
    rule: str


def split_series(dataset: SeriesDataset, *, seed: int) -> Split:
    """Cut a labelled data set into three parts by the rules of this module.

    Raises `DataError` without labels, with fewer than two classes, or when a part
    would stay empty.
    """
    if dataset.labels is None:
        raise DataError(
            f"{dataset.name} has no labels; a classifier needs one label per series "
            "(--label names the column)"
        )
    if len(np.unique(dataset.labels)) < 2:
        raise DataError(
            f"{dataset.name}: every label is the same class; "
            "a classifier needs at least two"
        )
    generator = np.random.default_rng([_STREAM, seed])
    everything = np.arange(len(dataset))
    if dataset.parts is None:
        shares = f"{1 - sum(SHARES):.0%}/{SHARES[0]:.0%}/{SHARES[1]:.0%}"
        rule = f"stratified {shares} by series, seed {seed}"
        train, validation, test = _stratify(everything, dataset, SHARES, generator)
    else:
        parts = np.array(dataset.parts)
        train, validation, test = (
            everything[parts == name] for name in ("train", "validation", "test")
        )
        rule = "parts as given by the source"
        if len(validation) == 0 and len(train) > 0:
            rule += (
                f"; validation is a stratified {VALIDATION_SHARE:.0%} "
                f"of the training series, seed {seed}"
            )
            train, validation = _stratify(
                train, dataset, (VALIDATION_SHARE,), generator
            )
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        if len(part) == 0:
            raise DataError(
                f"{dataset.name}: the {name} part is empty "
                f"({len(dataset)} series in all); more series are needed"
            )
    return Split(train, validation, test, rule)


def _stratify(
    index: IntArray,
    dataset: SeriesDataset,
    shares: tuple[float, ...],
    generator: np.random.Generator,
) -> tuple[IntArray, ...]:
    """Cut `index` into the rest and one part per share, class by class.

    Each part takes its rounded share of a class, and at least one series of any class
    that has enough for the rest to keep one too.
    """
    assert dataset.labels is not None
    labels = dataset.labels[index]
    taken: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for label in np.unique(labels):
        members = generator.permutation(index[labels == label]).tolist()
        start = 0
        for part, share in enumerate(shares, start=1):
            count = round(share * len(members))
            if len(members) > len(shares):
                count = max(1, count)
            taken[part] += members[start : start + count]
            start += count
        taken[0] += members[start:]
    return tuple(np.sort(np.array(part, dtype=np.int64)) for part in taken)
