"""The training loop: reproducible, resumable files, guarded against what diverges."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from visits import small_config, write_visits

from nde.models import ClassifierOutput, SeriesClassifier
from nde.training import loop
from nde.training.checkpoint import load_checkpoint
from nde.training.config import Config
from nde.training.config_file import ConfigError, merge, read_config_file
from nde.training.events import EpochEnd, StepEnd
from nde.training.loop import Diverged, train
from nde.training.preparation import prepare
from nde.training.restore import recover_test, restore
from nde.training.run import run_training
from nde.training.run_folder import RunFolder, create_run


def ignore(event: StepEnd | EpochEnd) -> None:
    """Watch nothing."""


def run(config: Config, folder: Path) -> tuple[RunFolder, dict[str, Any]]:
    made = create_run(folder)
    outcome = run_training(config, prepare(config), made, ignore)
    return made, outcome.metrics


MODELS = ["lsde", "lnsde", "gsde", "neural-sde", "neural-ode"]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_and_is_measured_the_same_from_its_checkpoint(
    name: str, visits: Path, tmp_path: Path
) -> None:
    config = small_config(visits, model__name=name, data__drop_rate=0.3)
    made, metrics = run(config, tmp_path / "run")
    assert metrics["epochs"] == 2 and metrics["model"] == name
    for part in ("train", "validation", "test"):
        assert all(np.isfinite(value) for value in metrics[part].values())
    assert metrics["solver"]["nfe"] > 0 and metrics["solver"]["steps"] > 0

    trained = restore(made.path, device="cpu")
    test, warnings = recover_test(trained)
    assert warnings == ()
    assert trained.evaluate(test).metrics() == metrics["test"]


def test_the_files_of_a_run(visits: Path, tmp_path: Path) -> None:
    config = small_config(visits, log__plots=True)
    made, metrics = run(config, tmp_path / "run")
    files = {
        path.relative_to(made.path).as_posix()
        for path in made.path.rglob("*")
        if path.is_file()
    }
    assert files == {
        "config.resolved.yaml",
        "schema.json",
        "splits.json",
        "data.json",
        "env.json",
        "metrics.jsonl",
        "metrics.json",
        "timing.json",
        "predictions.csv",
        "steps.csv",
        "report.html",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "plots/training.png",
        "plots/roc_pr.png",
        "plots/reliability.png",
        "plots/confusion.png",
        "plots/steps.png",
    }
    assert made.plot("training").read_bytes().startswith(b"\x89PNG")
    assert json.loads(made.metrics.read_text())["test"] == metrics["test"]
    rows = [
        json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()
    ]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2]
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert steps == list(range(1, rows[-2]["steps"] + 1))
    splits = json.loads(made.file("splits.json").read_text())
    ids = [key for part in ("train", "validation", "test") for key in splits[part]]
    assert sorted(ids) == sorted(f"p{i}" for i in range(40))
    schema = json.loads(made.file("schema.json").read_text())
    assert schema["channels"] == ["x1", "x2"] and schema["classes"] == ["c0", "c1"]
    lines = made.file("predictions.csv").read_text().splitlines()
    assert lines[0] == "id,y_true,y_pred,p_c0,p_c1"
    rows_of = [line.split(",") for line in lines[1:]]
    assert [row[0] for row in rows_of] == splits["test"]
    right = [row[1] == row[2] for row in rows_of]
    assert np.mean(right) == pytest.approx(metrics["test"]["accuracy"])
    for row in rows_of:
        assert float(row[3]) + float(row[4]) == pytest.approx(1.0, abs=1e-5)


def test_one_seed_gives_one_result(visits: Path, tmp_path: Path) -> None:
    config = small_config(visits, regularizers__error=1.0, solver__method="heun")
    first, _ = run(config, tmp_path / "a")
    # What the caller draws in between has no say.
    torch.rand(3)
    second, _ = run(config, tmp_path / "b")
    for name in ("metrics.json", "metrics.jsonl", "predictions.csv"):
        assert first.file(name).read_bytes() == second.file(name).read_bytes()
    other, _ = run(merge(config.model_dump(), [("train.seed", 1)]), tmp_path / "c")
    assert first.metrics.read_bytes() != other.metrics.read_bytes()


def test_the_resolved_configuration_reproduces_the_run(
    visits: Path, tmp_path: Path
) -> None:
    first, _ = run(small_config(visits, data__drop_rate=0.5), tmp_path / "a")
    tree = read_config_file(first.file("config.resolved.yaml"))
    second, _ = run(merge(tree, []), tmp_path / "b")
    assert first.metrics.read_bytes() == second.metrics.read_bytes()


def test_rows_in_another_order_give_the_same_result(
    visits: Path, tmp_path: Path
) -> None:
    header, *rows = visits.read_text().splitlines()
    shuffled = tmp_path / "visits.csv"
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled.write_text("\n".join([header, *(rows[i] for i in order)]) + "\n")
    first, _ = run(small_config(visits), tmp_path / "a")
    second, _ = run(small_config(shuffled), tmp_path / "b")
    assert first.metrics.read_bytes() == second.metrics.read_bytes()


def test_training_learns(visits: Path, tmp_path: Path) -> None:
    config = small_config(
        visits, train__epochs=30, optim__lr=0.02, model__name="neural-ode"
    )
    _, metrics = run(config, tmp_path / "run")
    assert metrics["train"]["accuracy"] >= 0.9


def test_checkpoint_holds_what_a_resumed_run_needs(
    visits: Path, tmp_path: Path
) -> None:
    made, _ = run(small_config(visits, optim__schedule="plateau"), tmp_path / "run")
    last = load_checkpoint(made.last)
    assert (last.epoch, last.iteration) == (2, 8)
    assert set(last.rng) >= {"torch", "numpy", "python"}
    assert set(last.generators) == {"order", "noise"}
    assert last.optimiser["state"] and "best" in last.schedule
    assert last.config["optim"]["schedule"] == "plateau"
    assert last.splits["train"]


def with_output(
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[ClassifierOutput, int], ClassifierOutput],
) -> None:
    """Let `change` see every training output of the model, with its number from 1."""
    forward = SeriesClassifier.forward
    calls = 0

    def changed(model: SeriesClassifier, *args: Any, **options: Any) -> Any:
        nonlocal calls
        out = forward(model, *args, **options)
        if not model.training:
            return out
        calls += 1
        return change(out, calls)

    monkeypatch.setattr(SeriesClassifier, "forward", changed)


def test_a_loss_that_is_not_finite_skips_its_batch(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(out: ClassifierOutput, number: int) -> ClassifierOutput:
        return replace(out, logits=out.logits * (float("nan") if number == 3 else 1))

    with_output(monkeypatch, spoil)
    made, metrics = run(small_config(visits), tmp_path / "run")
    assert metrics["skipped_batches"] == 1
    weights = load_checkpoint(made.last).model
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_gradient_that_is_not_finite_skips_its_batch(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(out: ClassifierOutput, number: int) -> ClassifierOutput:
        # sqrt has value 0 and an infinite slope at 0.
        extra = (out.logits.sum() * 0).abs().sqrt() if number == 2 else 0.0
        return replace(out, penalty=out.penalty + extra)

    with_output(monkeypatch, spoil)
    _, metrics = run(small_config(visits), tmp_path / "run")
    assert metrics["skipped_batches"] == 1


def test_ten_bad_batches_in_a_row_end_the_run(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(out: ClassifierOutput, number: int) -> ClassifierOutput:
        return replace(out, logits=out.logits * float("nan"))

    with_output(monkeypatch, spoil)
    config = small_config(visits, train__epochs=20)
    seen: list[StepEnd | EpochEnd] = []
    with pytest.raises(Diverged, match="10 batches in a row"):
        train(config, prepare(config), create_run(tmp_path / "run"), seen.append)
    assert sum(isinstance(event, StepEnd) for event in seen) == loop.MAX_SKIPPED


def test_early_stop_keeps_the_best_epoch(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A learning rate of almost nothing after the first epoch: no gain to be had.
    config = small_config(visits, train__epochs=50, train__patience=2, optim__lr=1e-30)
    made, metrics = run(config, tmp_path / "run")
    assert metrics["epochs"] == metrics["best_epoch"] + 2 < 50
    assert load_checkpoint(made.best).best["epoch"] == metrics["best_epoch"]


def test_cosine_falls_to_zero_over_the_run(visits: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    config = small_config(visits, optim__lr=0.5, train__epochs=3)
    train(
        config,
        prepare(config),
        create_run(tmp_path / "run"),
        lambda event: seen.append(event.lr) if isinstance(event, StepEnd) else None,
    )
    steps = np.arange(len(seen))
    np.testing.assert_allclose(
        seen, 0.25 * (1 + np.cos(np.pi * steps / len(seen))), rtol=1e-6
    )


def test_regularizers_join_the_loss(visits: Path, tmp_path: Path) -> None:
    config = small_config(
        visits,
        model__name="neural-ode",
        solver__step=None,
        **{"regularizers__local-error": "100:10", "regularizers__stiffness": 0.1},
    )
    seen: list[StepEnd] = []
    train(
        config,
        prepare(config),
        create_run(tmp_path / "run"),
        lambda event: seen.append(event) if isinstance(event, StepEnd) else None,
    )
    assert len(seen[0].penalties) == 2
    assert all(value > 0 for value in seen[0].penalties.values())


def test_data_that_changed_is_noticed(visits: Path, tmp_path: Path) -> None:
    copy = tmp_path / "visits.csv"
    copy.write_text(visits.read_text())
    made, _ = run(small_config(copy), tmp_path / "run")
    trained = restore(made.path, device="cpu")
    lines = copy.read_text().splitlines()
    lines[1] = lines[1].replace(",c0", "1,c0")
    copy.write_text("\n".join(lines) + "\n")
    _, warnings = recover_test(trained)
    assert len(warnings) == 1 and "differs" in warnings[0]
    write_visits(copy, series=8)
    with pytest.raises(ValueError, match="is gone"):
        recover_test(trained)


def test_scaling_sees_training_series_only(tmp_path: Path) -> None:
    lines = ["id,time,x,label,split"]
    for number in range(12):
        part = ("train", "val", "test")[number % 3]
        level = 0.0 if part == "train" else 1000.0
        for time in range(3):
            value = level + time * (1 + number % 2)
            lines.append(f"s{number},{time},{value},c{number % 2},{part}")
    path = tmp_path / "levels.csv"
    path.write_text("\n".join(lines) + "\n")
    prepared = prepare(small_config(path))
    assert prepared.schema.scaling.mean[0] < 10
    np.testing.assert_allclose(
        np.concatenate(prepared.parts["train"].values).mean(), 0, atol=1e-12
    )
    assert np.concatenate(prepared.parts["test"].values).mean() > 100


def test_what_cannot_work_is_told_before_the_run(visits: Path) -> None:
    from nde.training.build import try_model

    for changes, word in (
        ({"solver.method": "huen"}, "did you mean 'heun'"),
        ({"solver.method": "tsit5"}, "tsit5"),
        ({"regularizers.stiffness": 1.0}, "stiffness"),
    ):
        config = merge(small_config(visits).model_dump(), changes.items())
        prepared = prepare(config)
        with pytest.raises(ConfigError, match=word):
            try_model(config, prepared.schema, prepared.parts["train"])
