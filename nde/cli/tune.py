"""The body of `nde tune`: a run for each of the settings that a sweep tries."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from nde.cli.console import finish, note, warn, watching
from nde.cli.train import resolve
from nde.training.build import check_method, choose_device, try_model
from nde.training.config import Config
from nde.training.config_file import (
    ConfigError,
    merge,
    parse_assignment,
    read_config_file,
    to_tree,
    to_yaml,
)
from nde.training.guard import Diverged
from nde.training.preparation import Prepared, prepare
from nde.training.run import run_training
from nde.training.run_folder import RunFolder, RunFolderError, create_run, free_path
from nde.training.space import Space, parse_space
from nde.training.sweep import (
    Pruned,
    begun,
    check_optuna,
    next_trial,
    open_study,
    pruning,
    summary,
    tell,
)


def run_tune(
    *,
    file: str | None,
    flags: Sequence[tuple[str, Any]],
    settings: Sequence[str],
    space: Sequence[str],
    trials: int,
    storage: str | None,
) -> None:
    """Try settings of `space` until the sweep in `log.out` has so many trials.

    Processes with one folder, or one storage, work on one sweep.
    """
    check_optuna()
    if trials < 1:
        raise ConfigError(f"--trials must be at least 1, got {trials}")
    tree = {} if file is None else read_config_file(Path(file))
    config = merge(tree, [*flags, *(parse_assignment(text) for text in settings)])
    if config.train.seeds is not None:
        raise ConfigError("a trial is one run: leave train.seeds out")
    places = parse_space(space)
    _check_space(config, places)
    check_method(config)
    choose_device(config.train.device)
    resolved = resolve(config)
    prepared = prepare(resolved)
    for line in prepared.notes:
        note(line)
    for line in prepared.warnings:
        warn(line)
    folder = _folder(config, prepared)
    _keep_plan(folder, resolved, space)

    study = open_study(folder, storage, resolved)
    while begun(study) < trials:
        trial, chosen = next_trial(study, places, resolved.train.seed)
        shown = ", ".join(f"{key}={value}" for key, value in chosen.items())
        note(f"trial {trial.number}: {shown}")
        value, pruned = None, False
        try:
            own = merge(to_tree(resolved), chosen.items())
            data = prepared
            if any(key.startswith("data.") for key in chosen):
                data = prepare(own)
            try_model(own, data.schema, data.parts["train"])
            run = create_run(_trial_folder(folder, trial.number))
            monitor = own.train.monitor
            with watching(monitor) as watch:
                observe = pruning(trial, monitor, watch)
                outcome = run_training(own, data, run, observe)
            value = outcome.metrics["validation"][monitor]
            note(f"trial {trial.number}: {monitor} {value:.4f}")
        except Pruned as error:
            pruned = True
            note(f"trial {trial.number}: {error}")
        except (ConfigError, Diverged) as error:
            warn(f"trial {trial.number} failed: {error}")
        finally:
            # A process that is stopped must not leave its trial open for ever.
            tell(study, trial, value, pruned=pruned)
    found = summary(study, lambda number: _trial_folder(folder, number))
    root = RunFolder(folder)
    root.write_json("sweep.json", found)
    best = found["best"]
    if best is None:
        raise Diverged(f"none of the {len(found['trials'])} trials ended with a result")
    note(f"best: trial {best['number']}, {best['value']:.4f}, in {best['run']}")
    finish(root.file("sweep.json"), found)


def _check_space(config: Config, space: Space) -> None:
    """Refuse keys and values that no configuration could have."""
    for key, place in space.items():
        for value in place.ends:
            merge(to_tree(config), [(key, value)])


def _folder(config: Config, prepared: Prepared) -> Path:
    if config.log.out is not None:
        return Path(config.log.out)
    parts = (date.today().isoformat(), config.model.name, prepared.schema.data)
    return free_path(Path("sweeps") / "_".join(parts))


def _trial_folder(folder: Path, number: int) -> Path:
    return folder / f"trial-{number}"


def _keep_plan(folder: Path, config: Config, space: Sequence[str]) -> None:
    """Write down what is swept, or compare with what another process wrote."""
    text = to_yaml(config) + "".join(f"# --space {place}\n" for place in space)
    path = folder / "sweep.yaml"
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise RunFolderError(
                f"{folder} holds a sweep with other settings (sweep.yaml); repeat its "
                "command to join it, or choose another --out"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be written ({error.strerror})"
        ) from None
    RunFolder(folder).write_text("sweep.yaml", text)
