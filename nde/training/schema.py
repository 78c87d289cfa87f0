"""What a trained model must know of its data: the schema of a run."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nde.data import DropProtocol, Scaling, SeriesDataset


@dataclass(frozen=True)
class Schema:
    """Channels, classes and scaling of the training data, and what was hidden of it.

    `fingerprint` is a digest of the data as read, to notice that a file has changed.
    """

    data: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    scaling: Scaling
    time_unit: str
    drop_rate: float
    drop_protocol: DropProtocol
    data_seed: int
    split_rule: str
    fingerprint: str

    def to_tree(self) -> dict[str, Any]:
        """Plain containers, for JSON and for checkpoints."""
        return asdict(self)

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "Schema":
        """Inverse of `to_tree`; raises `KeyError` or `TypeError` on other trees."""
        scaling = tree["scaling"]
        return cls(
            data=str(tree["data"]),
            channels=tuple(tree["channels"]),
            classes=tuple(tree["classes"]),
            scaling=Scaling(
                mean=tuple(scaling["mean"]),
                deviation=tuple(scaling["deviation"]),
                time_scale=float(scaling["time_scale"]),
            ),
            time_unit=str(tree["time_unit"]),
            drop_rate=float(tree["drop_rate"]),
            drop_protocol=tree["drop_protocol"],
            data_seed=int(tree["data_seed"]),
            split_rule=str(tree["split_rule"]),
            fingerprint=str(tree["fingerprint"]),
        )


def fingerprint(dataset: SeriesDataset) -> str:
    """Hexadecimal SHA-256 of ids, times, values and labels."""
    digest = hashlib.sha256()
    digest.update(repr((dataset.ids, dataset.channels, dataset.classes)).encode())
    for time, value in zip(dataset.times, dataset.values, strict=True):
        digest.update(np.ascontiguousarray(time).tobytes())
        # NaN has many bit patterns; one of them stands for all.
        canonical = np.where(np.isnan(value), np.nan, value)
        digest.update(np.ascontiguousarray(canonical).tobytes())
    if dataset.labels is not None:
        digest.update(dataset.labels.tobytes())
    return digest.hexdigest()
