"""From a configuration to scaled training, validation and test series."""

from dataclasses import dataclass
from typing import Any

from nde.data import (
    PARTS,
    DataError,
    Part,
    Reading,
    SeriesDataset,
    Split,
    drop_observations,
    fit_scaling,
    read_source,
    split_series,
)
from nde.training.config import Config
from nde.training.config_file import ConfigError
from nde.training.schema import Schema, fingerprint


@dataclass(frozen=True, eq=False)
class Prepared:
    """Scaled parts, the schema they were made with, and what to tell the user."""

    parts: dict[Part, SeriesDataset]
    schema: Schema
    splits: dict[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def prepare(config: Config) -> Prepared:
    """Read, hide, split and scale the data that `config` names.

    The scaling is fitted on what is left of the training series. Raises `DataError`,
    `ConfigError`.
    """
    reading = read_data(config)
    whole = reading.dataset
    split = split_series(whole, seed=config.data_seed)
    for channel, count in zip(whole.channels, whole.observed(), strict=True):
        if count == 0:
            raise DataError(
                f"{whole.name}: channel {channel!r} is missing in every row; "
                "leave it out with --channels"
            )
    hidden = hide(config, whole)
    parts: dict[Part, SeriesDataset] = {
        "train": hidden.take(split.train),
        "validation": hidden.take(split.validation),
        "test": hidden.take(split.test),
    }
    scaling, doubts = fit_scaling(parts["train"])
    schema = Schema(
        data=whole.name,
        channels=whole.channels,
        classes=whole.classes,
        scaling=scaling,
        time_unit=whole.time_unit,
        drop_rate=config.data.drop_rate,
        drop_protocol=config.data.drop_protocol,
        data_seed=config.data_seed,
        split_rule=split.rule,
        fingerprint=fingerprint(whole),
    )
    splits: dict[str, Any] = {"rule": split.rule, "seed": config.data_seed}
    splits |= {part: list(parts[part].ids) for part in PARTS}
    return Prepared(
        parts={part: scaling.apply(parts[part]) for part in PARTS},
        schema=schema,
        splits=splits,
        notes=(*reading.notes, *_summary(config, whole, split)),
        warnings=(*reading.warnings, *doubts),
    )


def read_data(config: Config) -> Reading:
    """Read the data of `config` as it says. Raises `DataError`, `ConfigError`."""
    if config.data.source is None:
        raise ConfigError("no data: name a data set or a file")
    return read_source(config.data.source, config.data.request())


def hide(config: Config, whole: SeriesDataset) -> SeriesDataset:
    """Impose missingness on the whole data set, so that parts share one drawing."""
    return drop_observations(
        whole,
        config.data.drop_rate,
        seed=config.data_seed,
        protocol=config.data.drop_protocol,
    )


def _summary(config: Config, whole: SeriesDataset, split: Split) -> tuple[str, ...]:
    lengths = [len(time) for time in whole.times]
    cells = sum(lengths) * len(whole.channels)
    missing = 1 - whole.observed().sum() / cells
    lines = [
        f"series: {len(whole)}, {min(lengths)} to {max(lengths)} times each, "
        f"{len(whole.channels)} channels, {missing:.1%} missing",
        f"parts: {len(split.train)} train, {len(split.validation)} validation, "
        f"{len(split.test)} test ({split.rule})",
    ]
    if config.data.drop_rate:
        lines.append(
            f"imposed missingness: {config.data.drop_rate:.0%} dropped, protocol "
            f"{config.data.drop_protocol}, seed {config.data_seed}"
        )
    return tuple(lines)
