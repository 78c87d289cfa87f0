"""The body of `nde train`: which configuration, in which folder, anew or going on."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from nde.cli.console import finish, keep_log, note, warn, watching
from nde.data import is_named
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
from nde.training.resume import (
    check_config,
    check_data,
    check_epochs,
    find_stopped,
    read_stopped,
)
from nde.training.run import run_training
from nde.training.run_folder import (
    RunFolder,
    check_folder,
    create_run,
    empty_folder,
    free_path,
    locked,
    tidy_run,
)
from nde.training.seeds import aggregate, config_of_seeds, seed_config, seed_folder


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
    named = {key for key, _ in assignments}
    if {"train.seed", "train.seeds"} <= named:
        raise ConfigError("--seed is one run and --seeds are several; pass one")
    stopped = _stopped_run(resume, config, overwrite=overwrite)
    if stopped is not None:
        changes = [*_assignments(tree), *assignments]
        several = config_of_seeds(stopped)
        if several is not None:
            _go_on_with_seeds(stopped, several, changes, dry_run=dry_run)
        else:
            _go_on(stopped, changes, dry_run=dry_run)
        return
    out = None if config.log.out is None else Path(config.log.out)
    # Where `auto` found no checkpoint, a run was killed before its first one.
    again = resume == "auto" and out is not None and not RunFolder(out).metrics.exists()
    overwrite = overwrite or again
    if out is not None and not dry_run:
        check_method(config)
        choose_device(config.train.device)
        check_folder(out, overwrite=overwrite)
    seeds = config.train.seeds
    resolved = _resolve_any(config)
    first = resolved if seeds is None else seed_config(resolved, seeds[0])
    prepared = _prepare(first)
    if dry_run:
        _show(resolved)
        return
    path = free_path(_default_folder(config, prepared)) if out is None else out
    with locked(path):
        if seeds is None:
            run = create_run(path, overwrite=overwrite)
            keep_log(run.file("log.txt"))
            metrics = _train(resolved, prepared, run).metrics
        else:
            empty_folder(path, overwrite=overwrite)
            metrics = _train_seeds(resolved, path, prepared)
        finish(path / "metrics.json", metrics)


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
    begun = RunFolder(Path(out)).last.is_file() or config_of_seeds(Path(out))
    return Path(out) if begun else None


def _go_on(path: Path, changes: Sequence[tuple[str, Any]], *, dry_run: bool) -> None:
    """Resume one run."""
    run, place = find_stopped(path)
    with locked(run.path):
        stopped = read_stopped(place)
        config = resolve(merge(stopped.config, changes))
        prepared = _admit(stopped, config)
        if dry_run:
            _show(config)
            return
        tidy_run(run)
        keep_log(run.file("log.txt"))
        metrics = _train(config, prepared, run, stopped).metrics
        finish(run.metrics, metrics)


def _go_on_with_seeds(
    path: Path, before: Config, changes: Sequence[tuple[str, Any]], *, dry_run: bool
) -> None:
    """Resume the runs of several seeds; there may be more of them now, or fewer."""
    config = _resolve_any(merge(to_tree(before), changes))
    seeds = config.train.seeds
    check_config(merge(to_tree(before), [("train.seeds", seeds)]), config)
    if seeds is None:
        raise ConfigError(f"{path} holds the runs of several seeds; --seeds names them")
    if dry_run:
        _show(config)
        return
    with locked(path):
        (path / "metrics.json").unlink(missing_ok=True)
        finish(path / "metrics.json", _train_seeds(config, path))


def _train_seeds(
    config: Config, path: Path, first: Prepared | None = None
) -> dict[str, Any]:
    """Train each seed in its folder, or go on with what is there; their metrics.

    `first` is the data of the first seed where it has been read already.
    """
    whole = RunFolder(path)
    whole.write_text("config.resolved.yaml", to_yaml(config))
    keep_log(whole.file("log.txt"))
    seeds = config.train.seeds
    assert seeds is not None
    found: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        note(f"seed {seed}, {len(found) + 1} of {len(seeds)}")
        own, run = seed_config(config, seed), seed_folder(path, seed)
        if run.last.is_file():
            stopped = read_stopped(run.last)
            prepared = _admit(stopped, own)
            tidy_run(run)
        else:
            stopped, prepared = None, first or _prepare(own)
            # What a run left that was killed before its first checkpoint.
            run = create_run(run.path, overwrite=True)
        first = None
        found[seed] = _train(own, prepared, run, stopped, whole=path).metrics
    metrics = aggregate(found)
    whole.write_json("metrics.json", metrics)
    for name in ("accuracy", "log_loss"):
        note(
            f"test {name.replace('_', ' ')} {metrics['mean']['test'][name]:.4f} "
            f"± {metrics['std']['test'][name]:.4f} ({len(seeds)} seeds)"
        )
    return metrics


def _admit(stopped: Checkpoint, config: Config) -> Prepared:
    """The data of a stopped run, if that may go on with `config`."""
    check_config(merge(stopped.config, []), config)
    check_epochs(stopped, config)
    prepared = _prepare(config)
    check_data(stopped, prepared)
    return prepared


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
    *,
    whole: Path | None = None,
) -> Outcome:
    """Train in `run`, which may be a part of the folder `whole`, and tell the end."""
    if stopped is not None:
        note(f"resumed after epoch {stopped.epoch}, step {stopped.iteration}")
    try:
        with watching(config.train.monitor) as observe:
            outcome = run_training(config, prepared, run, observe, stopped)
    except Stopped:
        note(f"the state of the moment is in {run.last}")
        note(f"to go on: nde train --resume {whole or run.path}")
        raise
    _conclude(outcome)
    return outcome


def _assignments(tree: Tree) -> list[tuple[str, Any]]:
    """A tree of sections as dotted keys with their values."""
    return [
        (f"{section}.{key}", value)
        for section, keys in tree.items()
        for key, value in keys.items()
    ]


def resolve(config: Config) -> Config:
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
    several = config.train.seeds
    parts = (
        date.today().isoformat(),
        config.model.name,
        prepared.schema.data,
        f"s{config.train.seed}" if several is None else f"{len(several)}seeds",
    )
    return Path("runs") / "_".join(parts)


def _resolve_any(config: Config) -> Config:
    """As `resolve`; of several seeds each resolves its seed of the data for itself."""
    resolved = resolve(config)
    if config.train.seeds is None:
        return resolved
    return merge(to_tree(resolved), [("data.seed", config.data.seed)])


def _conclude(outcome: Outcome) -> None:
    metrics = outcome.metrics
    solver = metrics["solver"]
    series = len(outcome.test.dataset)
    note(f"weights of epoch {metrics['best_epoch']} of {metrics['epochs']}")
    note(f"test accuracy {metrics['test']['accuracy']:.4f} ({series} series)")
    note(
        f"function evaluations per series: {solver['nfe']:.1f} in the test, "
        f"{solver['nfe_train']:.1f} in training"
    )
