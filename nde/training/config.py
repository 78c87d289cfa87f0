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

Seed = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    # The text below a field explains it in the schema and in `nde init`.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
    )


class DataConfig(_Section):
    """What to read, how its columns are named, and what to hide of it."""

    source: str | None = None
    """A data set by name, or a path."""
    id: str | None = None
    """Column of the series id; null: by its usual names."""
    time: str | None = None
    """Column of the time; null: by its usual names."""
    label: str | None = None
    """Column of the class label; null: by its usual names."""
    channels: tuple[str, ...] | None = None
    """Columns to use as channels; null: all that have no other role."""
    format: str | None = None
    """Format of the source; null: told by its content."""
    labels: str | None = None
    """A table id, label[, split] of its own."""
    times: str | None = None
    """Times of a grid of values."""
    data_dir: str | None = None
    """Files of named data sets; null: $NDE_DATA_DIR or the user's cache."""
    cache: bool = True
    """Whether to keep what took long to parse, there too."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the observations to hide."""
    drop_protocol: DropProtocol = "channels"
    """Hide points of each channel by itself, or whole rows."""
    seed: Seed | None = None
    """Draws the split and the dropped points; null: the seed of the run."""

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
    """The class of a series."""


class ModelConfig(_Section):
    """Which model, and how large."""

    name: ModelName = "lnsde"
    """The equation."""
    form: Form = "paper"
    """Of the SDE models: as published, or as its code computes it."""
    noise: SharedNoise = "diagonal"
    """Of the stable SDE models: a motion for each part of the state, or one for all."""
    controlled: bool = False
    """Whether the drift of neural-sde sees the series after its start."""
    hidden: PositiveInt = 64
    """Size of the state."""
    width: PositiveInt = 64
    """Size of the hidden layers of the networks."""
    layers: PositiveInt = 2
    """Hidden layers of the drift."""
    intensity: Intensity = "none"
    """Extra channels that tell where something was observed."""
    readout: ReadOut = "mean"
    """The last state, or that and the mean over `outputs` times."""
    outputs: PositiveInt = 4
    """Equally spaced times that the mean is over."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Rate on the hidden layer of the read-out."""
    input_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7
    """Noise on the observations while training, in deviations of a channel."""


class SolverConfig(_Section):
    """How the model is solved; null leaves the choice to the model."""

    method: str | None = None
    """Name of a method, such as dopri5 or heun."""
    step: PositiveFloat | Literal["adaptive"] | None = None
    """Size of fixed steps, or adaptive."""
    rtol: PositiveFloat = 1e-3
    """Relative tolerance of adaptive steps."""
    atol: PositiveFloat = 1e-6
    """Absolute tolerance of adaptive steps."""
    adjoint: Literal["recompute", "direct", "reversible", "backsolve"] = "recompute"
    """Where gradients come from."""
    max_steps: PositiveInt = 4096
    """Steps after which a solve counts as failed."""


class OptimConfig(_Section):
    """The optimiser, Adam, and its schedule over the epochs."""

    lr: PositiveFloat = 3e-3
    """Learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Factor of the squared weights in the loss."""
    clip: PositiveFloat | None = 1.0
    """Largest norm of the gradient; null: any."""
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    """Of the learning rate: cosine falls to zero over the run, plateau halves."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target that is spread over all classes."""


class TrainConfig(_Section):
    """The loop: budget, selection, seeds and device."""

    seed: Seed = 0
    """Seed of everything."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """One run for each of these, instead of one with `seed`."""
    epochs: PositiveInt = 100
    """Passes over the training series."""
    batch_size: PositiveInt = 32
    """Series per step."""
    eval_paths: PositiveInt = 4
    """Noise paths per series whose class probabilities an evaluation averages."""
    monitor: Metric = "log_loss"
    """The validation metric that selects the weights."""
    patience: PositiveInt | None = None
    """Epochs without a better validation metric before stopping; null: never, so that
    a cosine schedule runs to its end."""
    limit_batches: PositiveInt | None = None
    """At most this many batches of each part per pass; null: all."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is a GPU when there is one."""
    threads: Annotated[int, Field(ge=0)] = 1
    """Threads of torch on the CPU, one being fastest for small networks; 0: its own
    choice."""

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"expected different seeds, got {value}")
        return value


class LogConfig(_Section):
    """What a run leaves behind and where."""

    out: str | None = None
    """Run folder; null: a new one under runs/."""
    every: PositiveInt = 10
    """Training steps between two lines of metrics.jsonl."""
    save_every: PositiveInt | None = None
    """Training steps between two checkpoints inside an epoch; null: its end only."""
    plots: bool = True
    """Whether to draw the curves of the training."""


class Config(_Section):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    solver: SolverConfig = SolverConfig()
    regularizers: dict[str, float | str] = {}
    """Name: weight, as in `error: 0.1` or `local-error: 100:10`. steer and
    steer-gaussian have a width instead, in parts of the interval."""
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
