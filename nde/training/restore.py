"""A trained model back from its checkpoint alone, and the series to use it on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nde.data import (
    DataError,
    Reading,
    Request,
    SeriesDataset,
    read_source,
    unknown_name,
)
from nde.models import SeriesClassifier
from nde.training.build import build_model, choose_device
from nde.training.checkpoint import CheckpointError, load_checkpoint
from nde.training.config import Config
from nde.training.config_file import ConfigError, merge
from nde.training.evaluation import Evaluation, evaluate
from nde.training.loop import configure_torch
from nde.training.preparation import hide, read_data
from nde.training.pricing import restore_weights
from nde.training.run_folder import find_checkpoint
from nde.training.schema import Schema, fingerprint


@dataclass(frozen=True, eq=False)
class Trained:
    """A model with the configuration and schema it was trained with.

    `test_ids` are the series its training run kept for the test.
    """

    config: Config
    schema: Schema
    test_ids: tuple[str, ...]
    model: SeriesClassifier
    device: torch.device

    def evaluate(self, dataset: SeriesDataset) -> Evaluation:
        """Class probabilities of scaled series, as the training run computes them."""
        return evaluate(
            self.model, dataset, config=self.config.train, device=self.device
        )


def restore(run: Path, *, device: str = "auto") -> Trained:
    """The best model of a run folder, or the model of a checkpoint file.

    Raises `CheckpointError`, `RunFolderError`, `ConfigError`.
    """
    path = find_checkpoint(run)
    checkpoint = load_checkpoint(path)
    try:
        config = merge(checkpoint.config, [])
        schema = Schema.from_tree(checkpoint.schema)
        test_ids = tuple(str(key) for key in checkpoint.splits["test"])
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the checkpoint does not fit: {error}") from None
    configure_torch(config)
    where = choose_device(device)
    # Building draws initial weights; the caller's random numbers stay as they are.
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, schema)
    try:
        restore_weights(model, checkpoint.weights)
    except ValueError as error:
        raise CheckpointError(f"{path}: the checkpoint does not fit: {error}") from None
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: the weights do not fit the model: {reason}"
        ) from None
    return Trained(config, schema, test_ids, model.to(where), where)


def recover_test(trained: Trained) -> tuple[SeriesDataset, tuple[str, ...]]:
    """The scaled test series of the training run, and warnings.

    Warns when the data is no longer what the run was trained on; raises `DataError`
    when a test series is gone.
    """
    schema = trained.schema
    whole = read_data(trained.config).dataset
    warnings = []
    if fingerprint(whole) != schema.fingerprint:
        warnings.append(f"{schema.data} differs from the data of the training run")
    place = {key: i for i, key in enumerate(whole.ids)}
    for key in trained.test_ids:
        if key not in place:
            raise DataError(f"{schema.data}: the test series {key!r} is gone")
    hidden = hide(trained.config, whole)
    test = hidden.take([place[key] for key in trained.test_ids])
    return match_classes(fit(trained, test), schema.classes), tuple(warnings)


def read_other(trained: Trained, source: str, request: Request) -> Reading:
    """Read other data for a trained model, its channels matched by name.

    Names of the id and time columns not given in `request` are those of the training
    run. Raises `DataError`.
    """
    trained_on = trained.config.data.request()
    columns = replace(
        request.columns,
        id=request.columns.id or trained_on.columns.id,
        time=request.columns.time or trained_on.columns.time,
        channels=trained.schema.channels,
    )
    folder = request.data_dir or trained_on.data_dir
    return read_source(source, replace(request, columns=columns, data_dir=folder))


def fit(trained: Trained, dataset: SeriesDataset) -> SeriesDataset:
    """Scaled copy of `dataset`; refuses other channels than those of the training."""
    if dataset.channels != trained.schema.channels:
        raise DataError(
            f"{dataset.name} has the channels {', '.join(dataset.channels)}; "
            f"the model needs {', '.join(trained.schema.channels)}"
        )
    return trained.schema.scaling.apply(dataset)


def match_classes(dataset: SeriesDataset, classes: Sequence[str]) -> SeriesDataset:
    """`dataset` with labels as positions in `classes`; refuses a class not in it."""
    if dataset.labels is None:
        raise DataError(
            f"{dataset.name} has no labels to compare with (--label names the column)"
        )
    place = {name: i for i, name in enumerate(classes)}
    for name in dataset.classes:
        if name not in place:
            raise DataError(f"{dataset.name}: {unknown_name('class', name, classes)}")
    table = np.array([place[name] for name in dataset.classes], dtype=np.int64)
    return replace(dataset, labels=table[dataset.labels], classes=tuple(classes))
