"""The training loop: seeds, model, epochs of steps, the best weights, final metrics."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from nde.data import PARTS, Part, collate
from nde.models import SeriesClassifier
from nde.solvers import SolveError
from nde.training.build import build_model, choose_device
from nde.training.checkpoint import (
    Checkpoint,
    global_rng,
    load_checkpoint,
    save_checkpoint,
)
from nde.training.config import Config
from nde.training.config_file import to_tree
from nde.training.evaluation import Evaluation, evaluate
from nde.training.events import EpochEnd, Observer, StepEnd
from nde.training.interrupt import Stopped, StopRequest
from nde.training.preparation import Prepared
from nde.training.pricing import weight_states
from nde.training.run_folder import RunFolder
from nde.training.step import Position, make_optimiser, make_schedule, training_step

# Batches in a row without a finite loss before a run counts as diverged.
MAX_SKIPPED = 10
_ORDER_STREAM, _NOISE_STREAM = 1, 2


class Diverged(RuntimeError):
    """Losses or solves that stay without a finite value."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Final metrics as one plain tree, the test evaluation, and the epochs passed."""

    metrics: dict[str, Any]
    test: Evaluation
    epochs: tuple[EpochEnd, ...]


def train(
    config: Config, prepared: Prepared, run: RunFolder, observe: Observer
) -> Outcome:
    """Train as `config` says and evaluate the best weights on every part.

    Checkpoints and the rows of metrics.jsonl go to `run`. Raises `Diverged` after ten
    batches in a row without a finite loss or a validation that cannot be solved, and
    `Stopped` on a signal, after saving the last state.
    """
    configure_torch(config)
    seed = config.train.seed
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(_derived(seed, _ORDER_STREAM))
    noise = torch.Generator().manual_seed(_derived(seed, _NOISE_STREAM))

    device = choose_device(config.train.device)
    model = build_model(config, prepared.schema).to(device)
    data = prepared.parts["train"]
    size = config.train.batch_size
    per_epoch = math.ceil(len(data) / size)
    if config.train.limit_batches is not None:
        per_epoch = min(per_epoch, config.train.limit_batches)
    steps = per_epoch * config.train.epochs
    rising = config.train.monitor != "log_loss"
    optimiser = make_optimiser(config.optim, model)
    schedule = make_schedule(config.optim, optimiser, steps, rising=rising)

    epochs: list[EpochEnd] = []
    step = skipped_in_row = 0
    best: dict[str, Any] = {"epoch": 0, "value": math.nan}
    epoch_start = order.get_state()

    def snapshot() -> Checkpoint:
        return Checkpoint(
            config=to_tree(config),
            schema=prepared.schema.to_tree(),
            splits=prepared.splits,
            model=model.state_dict(),
            optimiser=optimiser.state_dict(),
            schedule=schedule.state_dict(),
            generators={"order": epoch_start, "noise": noise.get_state()},
            rng=global_rng(),
            epoch=len(epochs),
            iteration=step,
            best=best,
            weights=weight_states(model),
        )

    def measure(part: Part) -> Evaluation:
        return _measure(config, model, prepared, part, stop)

    with StopRequest() as stop:
        try:
            for epoch in range(1, config.train.epochs + 1):
                model.train()
                ends: list[StepEnd] = []
                shuffled = torch.randperm(len(data), generator=order).tolist()
                for start in range(0, per_epoch * size, size):
                    stop.check()
                    step += 1
                    end = training_step(
                        config.optim,
                        model,
                        optimiser,
                        collate(data, shuffled[start : start + size]).to(device),
                        noise_seed=int(torch.randint(2**62, (), generator=noise)),
                        position=Position(epoch, step, steps),
                        measure=step == 1 or step % config.log.every == 0,
                    )
                    ends.append(end)
                    observe(end)
                    if step % config.log.every == 0:
                        run.append_row({"kind": "step"} | asdict(end))
                    skipped_in_row = skipped_in_row + 1 if end.skipped else 0
                    if skipped_in_row == MAX_SKIPPED:
                        raise Diverged(
                            f"diverged: {MAX_SKIPPED} batches in a row gave no finite "
                            f"loss (epoch {epoch}, step {step}); try a lower --lr"
                        )
                    if not (end.skipped or isinstance(schedule, ReduceLROnPlateau)):
                        schedule.step()

                validated = measure("validation")
                scores = validated.metrics()
                value = scores[config.train.monitor]
                gain = value > best["value"] if rising else value < best["value"]
                if epoch == 1 or gain:
                    best = {"epoch": epoch, "value": value}
                done = _epoch_end(
                    epoch, ends, validated, config, best["epoch"] == epoch
                )
                epochs.append(done)
                if isinstance(schedule, ReduceLROnPlateau):
                    schedule.step(value)
                epoch_start = order.get_state()
                if done.best:
                    save_checkpoint(run.best, snapshot())
                save_checkpoint(run.last, snapshot())
                run.append_row({"kind": "epoch"} | asdict(done))
                observe(done)
                patience = config.train.patience
                if patience is not None and epoch - best["epoch"] >= patience:
                    break
        except Stopped:
            save_checkpoint(run.last, snapshot())
            raise
        # The file, not the memory: what is measured is what was kept.
        model.load_state_dict(load_checkpoint(run.best).model)
        measured = {part: measure(part) for part in PARTS}

    cost = asdict(measured["test"].cost)
    metrics: dict[str, Any] = {
        "task": config.task.kind,
        "data": prepared.schema.data,
        "model": config.model.name,
        "seed": seed,
        "n_params": sum(weight.numel() for weight in model.parameters()),
        "epochs": len(epochs),
        "best_epoch": best["epoch"],
        "skipped_batches": sum(epoch.skipped for epoch in epochs),
        **{part: found.metrics() for part, found in measured.items()},
        "solver": cost | {"nfe_train": epochs[-1].evaluations},
    }
    return Outcome(metrics, measured["test"], tuple(epochs))


def configure_torch(config: Config) -> None:
    """Set torch's CPU threads, on whose number the last digits of results depend."""
    if config.train.threads:
        torch.set_num_threads(config.train.threads)


def _measure(
    config: Config,
    model: SeriesClassifier,
    prepared: Prepared,
    part: Part,
    stop: StopRequest,
) -> Evaluation:
    try:
        return evaluate(
            model,
            prepared.parts[part],
            config=config.train,
            device=next(model.parameters()).device,
            between=stop.check,
        )
    except SolveError as error:
        raise Diverged(
            f"diverged: the {part} series cannot be solved: {error}"
        ) from None


def _derived(seed: int, stream: int) -> int:
    """A seed of a stream of its own, apart from the other streams of `seed`."""
    state = np.random.SeedSequence([stream, seed]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _epoch_end(
    epoch: int,
    ends: Sequence[StepEnd],
    validated: Evaluation,
    config: Config,
    best: bool,
) -> EpochEnd:
    good = [end for end in ends if not end.skipped]
    count = len(good) or math.nan
    return EpochEnd(
        epoch=epoch,
        epochs=config.train.epochs,
        loss=sum(end.loss for end in good) / count,
        evaluations=sum(end.evaluations for end in good) / count,
        lr=ends[-1].lr,
        skipped=len(ends) - len(good),
        validation=validated.metrics(),
        validation_evaluations=validated.cost.nfe,
        best=best,
    )
