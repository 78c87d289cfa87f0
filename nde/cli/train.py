"""The body of `nde train`: configuration, data, run folder, training, summary."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from nde.cli.console import finish, keep_log, note, warn, watching
from nde.data import is_named
from nde.training.build import check_method, choose_device, try_model
from nde.training.config import Config
from nde.training.config_file import (
    merge,
    parse_assignment,
    parse_regularizer,
    read_config_file,
    to_tree,
    to_yaml,
)
from nde.training.interrupt import Stopped
from nde.training.loop import Outcome
from nde.training.preparation import Prepared, prepare
from nde.training.run import run_training
from nde.training.run_folder import RunFolder, check_folder, create_run, free_path


def run_train(
    *,
    file: str | None,
    flags: Sequence[tuple[str, Any]],
    regularizers: Sequence[str],
    settings: Sequence[str],
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Train as the command line says; `flags` are dotted keys with their values."""
    config = merge(
        {} if file is None else read_config_file(Path(file)),
        [
            *flags,
            *(parse_regularizer(text) for text in regularizers),
            *(parse_assignment(text) for text in settings),
        ],
    )
    check_method(config)
    device = choose_device(config.train.device)
    out = None if config.log.out is None else Path(config.log.out)
    if out is not None and not dry_run:
        check_folder(out, overwrite=overwrite)

    prepared = prepare(config)
    size = try_model(config, prepared.schema, prepared.parts["train"])
    for line in (*prepared.notes, f"model: {config.model.name}, {size} parameters"):
        note(line)
    for line in prepared.warnings:
        warn(line)
    resolved = _resolve(config)
    if dry_run:
        note(f"device: {device}\n\n{to_yaml(resolved).rstrip()}")
        return

    run = create_run(
        free_path(_default_folder(config, prepared)) if out is None else out,
        overwrite=overwrite,
    )
    keep_log(run.file("log.txt"))
    try:
        with watching(config.train.monitor) as observe:
            outcome = run_training(resolved, prepared, run, observe)
    except Stopped:
        note(f"the state of the moment is in {run.last}")
        raise
    _conclude(run, outcome)


def _resolve(config: Config) -> Config:
    """The configuration that reproduces the run from anywhere, in another folder."""
    data = config.data
    named = data.source is not None and is_named(data.source)
    fixed = [
        ("data.source", data.source if named else _absolute(data.source)),
        ("data.labels", _absolute(data.labels)),
        ("data.times", _absolute(data.times)),
        ("data.data_dir", _absolute(data.data_dir)),
        ("data.seed", config.data_seed),
        ("log.out", None),
    ]
    return merge(to_tree(config), fixed)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())


def _default_folder(config: Config, prepared: Prepared) -> Path:
    parts = (
        date.today().isoformat(),
        config.model.name,
        prepared.schema.data,
        f"s{config.train.seed}",
    )
    return Path("runs") / "_".join(parts)


def _conclude(run: RunFolder, outcome: Outcome) -> None:
    metrics = outcome.metrics
    solver = metrics["solver"]
    series = len(outcome.test.dataset)
    note(f"weights of epoch {metrics['best_epoch']} of {metrics['epochs']}")
    note(f"test accuracy {metrics['test']['accuracy']:.4f} ({series} series)")
    note(
        f"function evaluations per series: {solver['nfe']:.1f} in the test, "
        f"{solver['nfe_train']:.1f} in training"
    )
    finish(run.metrics, metrics)
