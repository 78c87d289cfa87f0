"""The body of `nde train`: which configuration, in which folder, anew or going on."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from nde.cli.console import finish, keep_log, note, warn, watching
from nde.data import is_bundled
from nde.training.build import check_method, choose_device, try_model
from nde.training.checkpoint import Checkpoint
from nde.training.config import Config
from nde.training.config_file import (
    ConfigError,
    Tree,
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
from nde.training.resume import check_config, check_data, find_stopped, read_stopped
from nde.training.run import run_training
from nde.training.run_folder import (
    RunFolder,
    check_folder,
    create_run,
    free_path,
    locked,
    tidy_run,
)


def run_train(
    *,
    file: str | None,
    flags: Sequence[tuple[str, Any]],
    regularizers: Sequence[str],
    settings: Sequence[str],
    overwrite: bool,
    dry_run: bool,
    resume: str | None,
) -> None:
    """Train as the command line says; `flags` are dotted keys with their values.

    `resume` is the folder of a run or one of its checkpoints, which goes on with its
    own configuration, changed by the file and the flags; or `auto`, for the run in
    `log.out` if one has begun there.
    """
    tree = {} if file is None else read_config_file(Path(file))
    assignments = [
        *flags,
        *(parse_regularizer(text) for text in regularizers),
        *(parse_assignment(text) for text in settings),
    ]
    config = merge(tree, assignments)
    stopped = _stopped_run(resume, config, overwrite=overwrite)
    if stopped is not None:
        _go_on(stopped, [*_assignments(tree), *assignments], dry_run=dry_run)
        return
    out = None if config.log.out is None else Path(config.log.out)
    if out is not None and not dry_run:
        check_method(config)
        choose_device(config.train.device)
        check_folder(out, overwrite=overwrite)
    prepared = _prepare(config)
    resolved = _resolve(config)
    if dry_run:
        _show(resolved)
        return
    path = free_path(_default_folder(config, prepared)) if out is None else out
    with locked(path):
        _train(resolved, prepared, create_run(path, overwrite=overwrite))


def _stopped_run(resume: str | None, config: Config, *, overwrite: bool) -> Path | None:
    """What `--resume` names, if there is something to go on from."""
    if resume is None:
        return None
    if overwrite:
        raise ConfigError("--resume keeps a run and --overwrite drops it; pass one")
    out = config.log.out
    if resume != "auto":
        if out is not None:
            raise ConfigError(
                f"--resume {resume} goes on in that folder, got --out {out} as well; "
                "leave --out away"
            )
        return Path(resume)
    if out is None:
        raise ConfigError("--resume auto looks in the folder of --out; pass --out too")
    return Path(out) if RunFolder(Path(out)).last.is_file() else None


def _go_on(path: Path, changes: Sequence[tuple[str, Any]], *, dry_run: bool) -> None:
    run, place = find_stopped(path)
    with locked(run.path):
        stopped = read_stopped(place)
        before = merge(stopped.config, [])
        config = _resolve(merge(stopped.config, changes))
        check_config(stopped, before, config)
        prepared = _prepare(config)
        check_data(stopped, prepared)
        if dry_run:
            _show(config)
            return
        tidy_run(run)
        note(f"resumed after epoch {stopped.epoch}, step {stopped.iteration}")
        _train(config, prepared, run, stopped)


def _prepare(config: Config) -> Prepared:
    """Read the data and try the model, and say what was understood."""
    check_method(config)
    choose_device(config.train.device)
    prepared = prepare(config)
    size = try_model(config, prepared.schema, prepared.parts["train"])
    for line in (*prepared.notes, f"model: {config.model.name}, {size} parameters"):
        note(line)
    for line in prepared.warnings:
        warn(line)
    return prepared


def _show(config: Config) -> None:
    device = choose_device(config.train.device)
    note(f"device: {device}\n\n{to_yaml(config).rstrip()}")


def _train(
    config: Config,
    prepared: Prepared,
    run: RunFolder,
    stopped: Checkpoint | None = None,
) -> None:
    keep_log(run.file("log.txt"))
    try:
        with watching(config.train.monitor) as observe:
            outcome = run_training(config, prepared, run, observe, stopped)
    except Stopped:
        note(f"the state of the moment is in {run.last}")
        note(f"to go on: nde train --resume {run.path}")
        raise
    _conclude(run, outcome)


def _assignments(tree: Tree) -> list[tuple[str, Any]]:
    """A tree of sections as dotted keys with their values."""
    return [
        (f"{section}.{key}", value)
        for section, keys in tree.items()
        for key, value in keys.items()
    ]


def _resolve(config: Config) -> Config:
    """The configuration that reproduces the run from anywhere, in another folder."""
    source = config.data.source
    if source is not None and not is_bundled(source):
        source = str(Path(source).expanduser().absolute())
    fixed = [
        ("data.source", source),
        ("data.seed", config.data_seed),
        ("log.out", None),
    ]
    return merge(to_tree(config), fixed)


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
