"""A sweep: runs with settings that Optuna chooses, by one process or by several.

The storage is a journal file in the folder of the sweep, which machines that share the
folder share, or a database by its address. Needs the extra `nde[tune]`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nde.training.config import Config
from nde.training.config_file import ConfigError
from nde.training.events import EpochEnd, Observer, StepEnd
from nde.training.space import OneOf, Space, Value

if TYPE_CHECKING:
    from optuna import Study, Trial

_STREAM = 4


class Pruned(Exception):
    """A run that goes worse than half of those before it went."""


def check_optuna() -> None:
    """Raise `ConfigError` if Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("a sweep needs optuna: pip install 'nde[tune]'")


def open_study(folder: Path, storage: str | None, config: Config) -> Study:
    """The study of the sweep in `folder`, made if there is none."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept: Any = storage
    if storage is None:
        path = str(folder / "study.journal")
        # A lock by a file that is opened holds on network file systems too.
        kept = JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))
    return optuna.create_study(
        study_name=folder.name,
        storage=kept,
        direction="minimize" if config.train.monitor == "log_loss" else "maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        load_if_exists=True,
    )


def next_trial(study: Study, space: Space, seed: int) -> tuple[Trial, dict[str, Value]]:
    """A new trial and the settings it is to try.

    Its random numbers follow from seed and number of the trial, so that one process
    repeats itself and several do not repeat each other.
    """
    from optuna.samplers import TPESampler

    trial = study.ask()
    derived = np.random.SeedSequence([_STREAM, seed, trial.number])
    study.sampler = TPESampler(seed=int(derived.generate_state(1)[0]))
    return trial, {key: _suggest(trial, key, place) for key, place in space.items()}


def _suggest(trial: Trial, key: str, place: Any) -> Value:
    value: Value
    if isinstance(place, OneOf):
        value = trial.suggest_categorical(key, place.values)
    elif place.whole:
        value = trial.suggest_int(key, int(place.low), int(place.high), log=place.log)
    else:
        value = trial.suggest_float(key, place.low, place.high, log=place.log)
    return value


def pruning(trial: Trial, monitor: str, watch: Observer) -> Observer:
    """`watch`, and a report of the validation metric after each epoch.

    Raises `Pruned` in the training where the run is not worth going on.
    """

    def observe(event: StepEnd | EpochEnd) -> None:
        watch(event)
        if isinstance(event, EpochEnd):
            trial.report(event.validation[monitor], event.epoch)
            if trial.should_prune():
                raise Pruned(f"pruned after epoch {event.epoch}")

    return observe


def tell(study: Study, trial: Trial, value: float | None, *, pruned: bool) -> None:
    """Close a trial with the metric it reached; None where it failed."""
    from optuna.trial import TrialState

    if pruned:
        study.tell(trial, state=TrialState.PRUNED)
    elif value is None or not np.isfinite(value):
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)


def begun(study: Study) -> int:
    """Trials so far, those under way included."""
    return len(study.get_trials(deepcopy=False))


def summary(study: Study, folder_of: Callable[[int], Path]) -> dict[str, Any]:
    """All trials, and the best of those that ended, as plain containers."""
    trials: list[dict[str, Any]] = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value,
            "settings": trial.params,
        }
        for trial in study.get_trials(deepcopy=False)
    ]
    ended = [trial for trial in trials if trial["state"] == "complete"]
    sign = 1 if study.direction.name == "MINIMIZE" else -1
    best = min(ended, key=lambda trial: sign * trial["value"], default=None)
    return {
        "best": None
        if best is None
        else best | {"run": str(folder_of(best["number"]))},
        "trials": trials,
    }
