"""Whether two data sets are the same, and the one line of a refusal."""

from collections.abc import Callable

import numpy as np
import pytest

from nde.data import DataError, Reading, SeriesDataset


def assert_same(found: SeriesDataset, wanted: SeriesDataset) -> None:
    """Ids, channels, labels, parts, times and values agree, to the last bit."""
    assert found.ids == wanted.ids and found.channels == wanted.channels
    assert found.classes == wanted.classes and found.parts == wanted.parts
    np.testing.assert_array_equal(found.labels, wanted.labels)
    for a, b in zip(found.times, wanted.times, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(found.values, wanted.values, strict=True):
        np.testing.assert_array_equal(a, b)


def refusal(read: Callable[[], Reading]) -> str:
    """The message of the `DataError` that `read` raises, which must be one line."""
    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    return message
