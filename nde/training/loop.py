"""The training loop: epochs of steps, the best weights, final metrics."""

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from nde.data import PARTS, Part, collate
from nde.models import SeriesClassifier
from nde.solvers import SolveError
from nde.training.build import choose_device
from nde.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from nde.training.config import Config
from nde.training.evaluation import Evaluation, evaluate
from nde.training.events import EpochEnd, Observer
from nde.training.guard import Diverged, keep
from nde.training.interrupt import Stopped, StopRequest
from nde.training.preparation import Prepared
from nde.training.run_folder import RunFolder
from nde.training.state import RunState, begin, bring_back, snapshot
from nde.training.step import Position, training_step


@dataclass(frozen=True, eq=False)
class Outcome:
    """Final metrics as one plain tree, the test evaluation, and the epochs passed.

    `seconds` is what training took, before an interruption and after it.
    """

    metrics: dict[str, Any]
    test: Evaluation
    epochs: tuple[EpochEnd, ...]
    seconds: float


def train(
    config: Config,
    prepared: Prepared,
    run: RunFolder,
    observe: Observer,
    resumed: Checkpoint | None = None,
) -> Outcome:
    """Train as `config` says and evaluate the best weights on every part.

    Checkpoints and the rows of metrics.jsonl go to `run`. From `resumed`, a checkpoint
    of this run, it goes on as if it had never stopped. Raises `Diverged` for losses
    that stay without a finite value (see `Guard`) or a validation that cannot be
    solved, and `Stopped` on a signal, after saving the last state.
    """
    configure_torch(config)
    data = prepared.parts["train"]
    size = config.train.batch_size
    per_epoch = math.ceil(len(data) / size)
    if config.train.limit_batches is not None:
        per_epoch = min(per_epoch, config.train.limit_batches)
    steps = per_epoch * config.train.epochs
    device = choose_device(config.train.device)
    state = begin(config, prepared, device, steps)
    began = time.perf_counter()
    if resumed is not None:
        bring_back(state, resumed)
        run.cut_rows(resumed.course["rows"])
        began -= resumed.course["seconds"]
        if state.step == len(state.epochs) * per_epoch > 0 and _is_best(state):
            # The best one is written after the last one, which may have been the end.
            save_checkpoint(run.best, resumed)
        elif state.epochs:
            _check_best(state, run)

    def save() -> Checkpoint:
        seconds = time.perf_counter() - began
        now = snapshot(state, config, prepared, rows=run.keep_rows(), seconds=seconds)
        save_checkpoint(run.last, now)
        return now

    def measure(part: Part) -> Evaluation:
        return _measure(config, state.model, prepared, part, stop)

    with StopRequest() as stop:
        try:
            while not _over(config, state):
                epoch = len(state.epochs) + 1
                state.model.train()
                shuffled = torch.randperm(len(data), generator=state.order).tolist()
                for batch in range(state.step - (epoch - 1) * per_epoch, per_epoch):
                    stop.check()
                    state.step += 1
                    logged = state.step % config.log.every == 0
                    rows = shuffled[batch * size : (batch + 1) * size]
                    before = keep(state.model, state.optimiser)
                    end = training_step(
                        config.optim,
                        state.model,
                        state.optimiser,
                        collate(data, rows).to(device),
                        noise_seed=int(torch.randint(2**62, (), generator=state.noise)),
                        position=Position(epoch, state.step, steps),
                        measure=state.step == 1 or logged,
                    )
                    undone = state.guard.after(
                        end.skipped, before, state.model, state.optimiser
                    )
                    end = replace(end, undone=undone)
                    state.tally.add(end)
                    observe(end)
                    if logged:
                        run.append_row({"kind": "step"} | asdict(end))
                    _check(state, epoch)
                    if not (
                        end.skipped or isinstance(state.schedule, ReduceLROnPlateau)
                    ):
                        state.schedule.step()
                    if _due(config, state):
                        save()

                validated = measure("validation")
                done = _epoch_end(state, validated, config)
                state.end_epoch(done)
                if isinstance(state.schedule, ReduceLROnPlateau):
                    state.schedule.step(done.validation[config.train.monitor])
                run.append_row({"kind": "epoch"} | asdict(done))
                saved = save()
                if done.best:
                    save_checkpoint(run.best, saved)
                observe(done)
        except Stopped:
            save()
            raise
        # The file, not the memory: what is measured is what was kept.
        state.model.load_state_dict(load_checkpoint(run.best).model)
        measured = {part: measure(part) for part in PARTS}

    cost = asdict(measured["test"].cost)
    metrics: dict[str, Any] = {
        "task": config.task.kind,
        "data": prepared.schema.data,
        "model": config.model.name,
        "seed": config.train.seed,
        "n_params": sum(weight.numel() for weight in state.model.parameters()),
        "epochs": len(state.epochs),
        "best_epoch": state.best["epoch"],
        "skipped_batches": sum(epoch.skipped for epoch in state.epochs),
        **{part: found.metrics() for part, found in measured.items()},
        "solver": cost | {"nfe_train": state.epochs[-1].evaluations},
    }
    seconds = time.perf_counter() - began
    return Outcome(metrics, measured["test"], tuple(state.epochs), seconds)


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


def _check(state: RunState, epoch: int) -> None:
    try:
        state.guard.check()
    except Diverged as error:
        raise Diverged(
            f"diverged: {error} (epoch {epoch}, step {state.step}); try a lower --lr"
        ) from None


def _is_best(state: RunState) -> bool:
    return bool(state.best["epoch"] == len(state.epochs))


def _check_best(state: RunState, run: RunFolder) -> None:
    """Refuse now what would be found out at the end of the run."""
    found, expected = load_checkpoint(run.best).epoch, state.best["epoch"]
    if found != expected:
        raise CheckpointError(
            f"{run.best}: of epoch {found}, and the best one so far is {expected}; "
            "put the file of the run back, or train anew"
        )


def _over(config: Config, state: RunState) -> bool:
    """Whether all epochs have passed, or too many without a better validation."""
    passed, patience = len(state.epochs), config.train.patience
    waited = passed - state.best["epoch"]
    return passed >= config.train.epochs or (
        patience is not None and passed > 0 and waited >= patience
    )


def _due(config: Config, state: RunState) -> bool:
    every = config.log.save_every
    return every is not None and state.step % every == 0


def _epoch_end(state: RunState, validated: Evaluation, config: Config) -> EpochEnd:
    """The epoch just passed; notes in `state` if it is the best one."""
    epoch = len(state.epochs) + 1
    scores = validated.metrics()
    value, before = scores[config.train.monitor], state.best["value"]
    rising = config.train.monitor != "log_loss"
    gain = value > before if rising else value < before
    # A metric may be undefined, and the first epoch has nothing before it.
    if gain or epoch == 1 or (math.isnan(before) and not math.isnan(value)):
        state.best = {"epoch": epoch, "value": value}
    tally = state.tally
    count = tally.good or math.nan
    return EpochEnd(
        epoch=epoch,
        epochs=config.train.epochs,
        loss=tally.loss / count,
        evaluations=tally.evaluations / count,
        lr=tally.lr,
        skipped=tally.skipped,
        validation=scores,
        validation_evaluations=validated.cost.nfe,
        best=state.best["epoch"] == epoch,
    )
