"""The configuration of a run: sections, defaults and bounds.

Every key a file, a flag or `--set` may give is a field here, and nothing else is;
`nde.training.config_file` reads and merges the sources.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nde.data import FORMATS, Columns, DropProtocol, Request, unknown_name
from nde.models import ModelName
from nde.models.classifier import Intensity, ReadOut
from nde.models.sde import Form, SharedNoise
from nde.regularizers.weight_text import canonical

Metric = Literal["log_loss", "accuracy", "balanced_accuracy", "macro_f1", "auroc"]
# Movers of the end time, which have a width instead of a weight.
END_TIMES = ("steer", "steer-gaussian")
REGULARIZERS = (
    "error",
    "stiffness",
    "local-error",
    "local-stiffness",
    "log-error",
    "local-log-error",
    "predicted-steps",
    "local-predicted-steps",
    "kinetic",
    "jacobian",
    "taylor-2",
    "taylor-3",
    "adaptive-jacobian",
    *END_TIMES,
)

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class DataConfig(_Section):
    """What to read, how its columns are named, and what to hide of it."""

    source: str | None = None
    id: str | None = None
    time: str | None = None
    label: str | None = None
    channels: tuple[str, ...] | None = None
    # None: told by the content of the source.
    format: str | None = None
    # A table id, label[, split] of its own; times of a grid of values.
    labels: str | None = None
    times: str | None = None
    # Files of named data sets; None: $NDE_DATA_DIR or the user's cache.
    data_dir: str | None = None
    # Whether to keep what took long to parse, there too.
    cache: bool = True
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    drop_protocol: DropProtocol = "channels"
    # Draws the split and the dropped points; None means the seed of the run.
    seed: Annotated[int, Field(ge=0)] | None = None

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str | None) -> str | None:
        if value is not None and value not in FORMATS:
            raise ValueError(unknown_name("format", value, FORMATS))
        return value

    def request(self) -> Request:
        """What this section says beside the source, for `nde.data.read_source`."""
        return Request(
            columns=Columns(self.id, self.time, self.label, self.channels),
            format=self.format,
            labels=_path(self.labels),
            times=_path(self.times),
            data_dir=_path(self.data_dir),
            cache=self.cache,
        )


class TaskConfig(_Section):
    """What is learned."""

    kind: Literal["classify"] = "classify"


class ModelConfig(_Section):
    """Which model, and how large."""

    name: ModelName = "lnsde"
    form: Form = "paper"
    noise: SharedNoise = "diagonal"
    # Whether the drift of neural-sde sees the series after its start.
    controlled: bool = False
    hidden: PositiveInt = 64
    width: PositiveInt = 64
    layers: PositiveInt = 2
    # Extra channels that tell where something was observed.
    intensity: Intensity = "none"
    readout: ReadOut = "mean"
    outputs: PositiveInt = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    # Noise on the observations while training, in deviations of a channel.
    input_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7


class SolverConfig(_Section):
    """How the model is solved; None leaves the choice to the model."""

    method: str | None = None
    step: PositiveFloat | Literal["adaptive"] | None = None
    rtol: PositiveFloat = 1e-3
    atol: PositiveFloat = 1e-6
    adjoint: Literal["recompute", "direct", "reversible", "backsolve"] = "recompute"
    max_steps: PositiveInt = 4096


class OptimConfig(_Section):
    """The optimiser, Adam, and its schedule over the epochs."""

    lr: PositiveFloat = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: PositiveFloat | None = 1.0
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1


class TrainConfig(_Section):
    """The loop: budget, selection, seeds and device."""

    seed: Annotated[int, Field(ge=0)] = 0
    epochs: PositiveInt = 100
    batch_size: PositiveInt = 32
    # Noise paths per series whose class probabilities an evaluation averages.
    eval_paths: PositiveInt = 4
    monitor: Metric = "log_loss"
    # Epochs without a better validation metric before stopping; None: never, so that
    # a cosine schedule runs to its end.
    patience: PositiveInt | None = None
    # At most this many batches of each part per pass; None: all.
    limit_batches: PositiveInt | None = None
    device: str = "auto"
    # Threads of torch on the CPU: one is fastest for small networks. 0: torch's own.
    threads: Annotated[int, Field(ge=0)] = 1


class LogConfig(_Section):
    """What a run leaves behind and where."""

    out: str | None = None
    # Training steps between two lines of metrics.jsonl.
    every: PositiveInt = 10
    plots: bool = True


class Config(_Section):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    solver: SolverConfig = SolverConfig()
    # Name -> weight, as `nde.regularizers.weight_of` reads it; the end times have a
    # width instead, in parts of the interval.
    regularizers: dict[str, float | str] = {}
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    log: LogConfig = LogConfig()

    @field_validator("regularizers")
    @classmethod
    def _check_regularizers(
        cls, value: dict[str, float | str]
    ) -> dict[str, float | str]:
        checked: dict[str, float | str] = {}
        for name, weight in value.items():
            if name not in REGULARIZERS:
                raise ValueError(unknown_name("regularizer", name, REGULARIZERS))
            try:
                checked[name] = (
                    _width(weight) if name in END_TIMES else canonical(weight)
                )
            except ValueError as error:
                raise ValueError(f"weight of {name}: {error}") from None
        return checked

    @property
    def data_seed(self) -> int:
        """Seed of the split and of the dropped points."""
        return self.train.seed if self.data.seed is None else self.data.seed


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _width(text: float | str) -> float:
    """The width of a random end time. Raises ValueError for what is none."""
    try:
        width = float(text)
    except ValueError:
        width = 0.0
    if not 0.0 < width < 1.0:
        raise ValueError(
            "expected a number between 0 and 1, the part of the interval by which its "
            f"end moves, got {text!r}"
        )
    return width
