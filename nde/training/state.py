"""What changes while a run goes on: begun from a seed, or back from a checkpoint.

Everything that decides the rest of a run is here, so that a resumed run and one that
was never interrupted are the same to the last bit.
"""

import math
import random
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from nde.models import SeriesClassifier
from nde.training.build import build_model
from nde.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    global_rng,
    restore_global_rng,
)
from nde.training.config import Config
from nde.training.config_file import to_tree
from nde.training.events import EpochEnd, StepEnd
from nde.training.guard import Guard
from nde.training.preparation import Prepared
from nde.training.pricing import restore_weights, weight_states
from nde.training.step import make_optimiser, make_schedule

_ORDER_STREAM, _NOISE_STREAM = 1, 2


@dataclass
class Tally:
    """Sums over the steps of an epoch so far; `lr` is that of the last step."""

    loss: float = 0.0
    evaluations: float = 0.0
    good: int = 0
    skipped: int = 0
    lr: float = math.nan

    def add(self, end: StepEnd) -> None:
        """Count one step."""
        self.lr = end.lr
        if end.skipped:
            self.skipped += 1
        else:
            self.good += 1
            self.loss += end.loss
            self.evaluations += end.evaluations


@dataclass(eq=False)
class RunState:
    """A run after `epochs` and, since then, some steps: `step` in all.

    `epoch_start` is the state of `order` before it drew the batches of the epoch that
    is under way; `best` the epoch with the best validation metric, and that metric.
    """

    model: SeriesClassifier
    optimiser: Adam
    schedule: LRScheduler | ReduceLROnPlateau
    order: torch.Generator
    noise: torch.Generator
    epoch_start: Tensor
    step: int = 0
    guard: Guard = field(default_factory=Guard)
    epochs: list[EpochEnd] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    best: dict[str, Any] = field(
        default_factory=lambda: {"epoch": 0, "value": math.nan}
    )

    def end_epoch(self, end: EpochEnd) -> None:
        """Take in a whole epoch; the next one draws its batches from here."""
        self.epochs.append(end)
        self.tally = Tally()
        self.epoch_start = self.order.get_state()


def begin(
    config: Config, prepared: Prepared, device: torch.device, steps: int
) -> RunState:
    """A run of so many steps before its first one.

    Seeds the global generators of python, numpy and torch.
    """
    seed = config.train.seed
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(_derived(seed, _ORDER_STREAM))
    noise = torch.Generator().manual_seed(_derived(seed, _NOISE_STREAM))
    model = build_model(config, prepared.schema).to(device)
    optimiser = make_optimiser(config.optim, model)
    rising = config.train.monitor != "log_loss"
    schedule = make_schedule(config.optim, optimiser, steps, rising=rising)
    return RunState(model, optimiser, schedule, order, noise, order.get_state())


def snapshot(
    state: RunState, config: Config, prepared: Prepared, *, rows: int, seconds: float
) -> Checkpoint:
    """The checkpoint of this moment.

    `rows` is the size of metrics.jsonl in bytes, `seconds` what the run has taken.
    """
    return Checkpoint(
        config=to_tree(config),
        schema=prepared.schema.to_tree(),
        splits=prepared.splits,
        model=state.model.state_dict(),
        optimiser=state.optimiser.state_dict(),
        schedule=state.schedule.state_dict(),
        generators={"order": state.epoch_start, "noise": state.noise.get_state()},
        rng=global_rng(),
        epoch=len(state.epochs),
        iteration=state.step,
        best=dict(state.best),
        weights=weight_states(state.model),
        course={
            "epochs": [asdict(epoch) for epoch in state.epochs],
            "tally": asdict(state.tally),
            "guard": vars(state.guard),
            "rows": rows,
            "seconds": seconds,
        },
    )


def bring_back(state: RunState, checkpoint: Checkpoint) -> None:
    """Put a run that has just begun where `checkpoint` was taken.

    Sets the global generators too. Raises `CheckpointError` where it does not fit.
    """
    course = checkpoint.course
    try:
        state.model.load_state_dict(checkpoint.model)
        restore_weights(state.model, checkpoint.weights)
        state.optimiser.load_state_dict(checkpoint.optimiser)
        state.schedule.load_state_dict(checkpoint.schedule)
        _update_rate(state)
        state.epoch_start = checkpoint.generators["order"]
        state.order.set_state(state.epoch_start)
        state.noise.set_state(checkpoint.generators["noise"])
        state.step = checkpoint.iteration
        state.guard = Guard(**course["guard"])
        state.epochs = [EpochEnd(**epoch) for epoch in course["epochs"]]
        state.tally = Tally(**course["tally"])
        state.best = dict(checkpoint.best)
        restore_global_rng(checkpoint.rng)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the checkpoint of step {checkpoint.iteration} does not fit this program "
            f"({type(error).__name__}: {reason}); train anew"
        ) from None


def _update_rate(state: RunState) -> None:
    """Where the run is longer than that of the checkpoint, its rate is another."""
    schedule = state.schedule
    if isinstance(schedule, LambdaLR):
        for group, base, factor in zip(
            state.optimiser.param_groups,
            schedule.base_lrs,
            schedule.lr_lambdas,
            strict=True,
        ):
            group["lr"] = base * factor(schedule.last_epoch)


def _derived(seed: int, stream: int) -> int:
    """A seed of a stream of its own, apart from the other streams of `seed`."""
    state = np.random.SeedSequence([stream, seed]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
