"""Which trials of a sweep are cut short, and which are not."""

from pathlib import Path

import pytest

from nde.training.config import Config
from nde.training.config_file import merge
from nde.training.events import EpochEnd
from nde.training.space import parse_space
from nde.training.sweep import Pruned, next_trial, open_study, pruning, summary, tell

pytest.importorskip("optuna")

SPACE = parse_space(["optim.lr=1e-4..1e-1,log"])


def epoch(number: int, value: float, metric: str) -> EpochEnd:
    return EpochEnd(
        epoch=number,
        epochs=3,
        loss=1.0,
        evaluations=1.0,
        lr=0.1,
        skipped=0,
        validation={metric: value},
        validation_evaluations=1.0,
        best=True,
    )


@pytest.mark.parametrize(
    ("metric", "good", "bad"), [("log_loss", 0.1, 0.9), ("accuracy", 0.9, 0.1)]
)
def test_a_run_worse_than_most_is_cut_short(
    tmp_path: Path, metric: str, good: float, bad: float
) -> None:
    config = merge({}, [("train.monitor", metric)])
    study = open_study(tmp_path, None, config)
    seen: list[object] = []
    for _ in range(5):
        trial, _ = next_trial(study, SPACE, seed=0)
        observe = pruning(trial, metric, seen.append)
        for number in range(1, 4):
            observe(epoch(number, good, metric))
        tell(study, trial, good, pruned=False)
    assert len(seen) == 15
    trial, _ = next_trial(study, SPACE, seed=0)
    with pytest.raises(Pruned):
        pruning(trial, metric, seen.append)(epoch(1, bad, metric))
    tell(study, trial, None, pruned=True)
    trial, _ = next_trial(study, SPACE, seed=0)
    pruning(trial, metric, seen.append)(epoch(1, good, metric))
    tell(study, trial, float("nan"), pruned=False)
    found = summary(study, lambda number: tmp_path / f"trial-{number}")
    states = [trial["state"] for trial in found["trials"]]
    assert states == ["complete"] * 5 + ["pruned", "fail"]
    assert found["best"]["value"] == good


def test_each_trial_draws_for_itself(tmp_path: Path) -> None:
    chosen = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / folder).mkdir()
        study = open_study(tmp_path / folder, None, Config())
        chosen.append([next_trial(study, SPACE, seed)[1] for _ in range(3)])
    assert chosen[0] == chosen[1] != chosen[2]
    assert len({settings["optim.lr"] for settings in chosen[0]}) == 3
