"""From a configuration to a model on a device."""

from collections.abc import Callable
from functools import partial

import torch

from nde.data import SeriesDataset, collate, unknown_name
from nde.models import SeriesClassifier, SolverSettings, build_classifier
from nde.regularizers import (
    AdaptiveJacobian,
    AnyRegularizer,
    ErrorEstimate,
    JacobianNorm,
    KineticEnergy,
    LocalError,
    LocalPredictedSteps,
    LocalStiffness,
    Measure,
    NormalEnd,
    PredictedSteps,
    Stiffness,
    TaylorDerivative,
    UniformEnd,
    Weight,
    weight_of,
)
from nde.solvers import ODE_METHODS, SDE_METHODS, SolveError
from nde.training.config import Config
from nde.training.config_file import ConfigError
from nde.training.schema import Schema

# Of no scale, so that a weight holds for any tolerance.
_LOG = Measure(log=True, with_h=False)

# What a name of the configuration makes of the number or text beside it.
_PRICED: dict[str, Callable[[Weight], AnyRegularizer]] = {
    "error": ErrorEstimate,
    "stiffness": Stiffness,
    "local-error": LocalError,
    "local-stiffness": LocalStiffness,
    "log-error": partial(ErrorEstimate, measure=_LOG, name="log-error"),
    "local-log-error": partial(LocalError, measure=_LOG, name="local-log-error"),
    "predicted-steps": PredictedSteps,
    "local-predicted-steps": LocalPredictedSteps,
    "kinetic": KineticEnergy,
    "jacobian": JacobianNorm,
    "taylor-2": partial(TaylorDerivative, 2),
    "taylor-3": partial(TaylorDerivative, 3),
    "adaptive-jacobian": AdaptiveJacobian,
}
_MOVING: dict[str, Callable[[float], AnyRegularizer]] = {
    "steer": UniformEnd,
    "steer-gaussian": NormalEnd,
}


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU when there is one. Raises `ConfigError` for one there is not."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        there = ["auto", "cpu"]
        there += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise ConfigError(
            f"device {name!r} is not available here; expected one of {', '.join(there)}"
        ) from None
    return device


def check_method(config: Config) -> None:
    """Refuse a solver method that does not exist. Raises `ConfigError`."""
    method, known = config.solver.method, (*ODE_METHODS, *SDE_METHODS)
    if method is not None and method not in known:
        raise ConfigError(unknown_name("solver method", method, dict.fromkeys(known)))


def build_model(config: Config, schema: Schema) -> SeriesClassifier:
    """The classifier that `config` describes for the data of `schema`.

    Its weights are drawn from torch's global generator. Raises `ConfigError`.
    """
    check_method(config)
    regularizers = tuple(
        _regularizer(name, value) for name, value in config.regularizers.items()
    )
    try:
        return build_classifier(
            config.model.name,
            channels=len(schema.channels),
            classes=len(schema.classes),
            hidden=config.model.hidden,
            width=config.model.width,
            layers=config.model.layers,
            form=config.model.form,
            noise=config.model.noise,
            controlled=config.model.controlled,
            intensity=config.model.intensity,
            readout=config.model.readout,
            outputs=config.model.outputs,
            dropout=config.model.dropout,
            input_noise=config.model.input_noise,
            solver=SolverSettings(
                method=config.solver.method,
                step=config.solver.step,
                rtol=config.solver.rtol,
                atol=config.solver.atol,
                adjoint=config.solver.adjoint,
                max_steps=config.solver.max_steps,
            ),
            regularizers=regularizers,
        )
    except ValueError as error:
        raise ConfigError(f"model {config.model.name}: {error}") from None


def try_model(config: Config, schema: Schema, dataset: SeriesDataset) -> int:
    """Solve for two series, so that what cannot work is told before a run begins.

    Returns the number of parameters; leaves the generators of random numbers as they
    were. Raises `ConfigError`.
    """
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, schema).train()
        batch = collate(dataset, range(min(2, len(dataset))))
        try:
            model(batch.times, batch.values, seed=0, progress=0.0)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"model {config.model.name}: {error}") from None
        except SolveError:
            # Hard numbers are no mistake in the configuration: training will tell.
            pass
    return sum(weight.numel() for weight in model.parameters())


def _regularizer(name: str, value: float | str) -> AnyRegularizer:
    if name in _MOVING:
        return _MOVING[name](float(value))
    return _PRICED[name](weight_of(value))
