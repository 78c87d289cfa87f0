"""A classifier by the name of its equation."""

import difflib
from collections.abc import Sequence
from typing import Literal, get_args

from nde.models.classifier import (
    Intensity,
    ReadOut,
    SeriesClassifier,
    control_channels,
)
from nde.models.geometric import GeometricSDE
from nde.models.langevin import LangevinSDE
from nde.models.linear_noise import LinearNoiseSDE
from nde.models.neural_ode import ControlledODE
from nde.models.neural_sde import NeuralSDE
from nde.models.sde import Form, SharedNoise
from nde.models.series_layer import SeriesLayer
from nde.models.settings import SolverSettings
from nde.regularizers import AnyRegularizer

ModelName = Literal["lsde", "lnsde", "gsde", "neural-sde", "neural-ode"]


def build_classifier(
    name: ModelName,
    *,
    channels: int,
    classes: int,
    hidden: int = 64,
    width: int = 64,
    layers: int = 2,
    form: Form = "paper",
    noise: SharedNoise = "diagonal",
    controlled: bool = False,
    intensity: Intensity = "none",
    readout: ReadOut = "mean",
    outputs: int = 4,
    dropout: float = 0.1,
    input_noise: float = 0.7,
    solver: SolverSettings | None = None,
    regularizers: Sequence[AnyRegularizer] = (),
) -> SeriesClassifier:
    """A `SeriesClassifier` with the equation of that name.

    Args:
        name: "lsde", "lnsde", "gsde", "neural-sde" or "neural-ode".
        channels: channels of the series, time not counted.
        classes: number of classes.
        hidden: size of the state.
        width: size of the hidden layers, of the read-out too.
        layers: hidden layers of the drift.
        form: "paper" or "runtime", for the SDEs.
        noise: "diagonal" or "scalar", for the stable SDEs.
        controlled: whether the drift of "neural-sde" sees the series after its start.
        intensity: see `SeriesClassifier`.
        readout: see `SeriesClassifier`.
        outputs: see `SeriesClassifier`.
        dropout: see `SeriesClassifier`.
        input_noise: see `SeriesClassifier`; the default supposes scaled channels.
        solver: settings; None is each equation's own.
        regularizers: penalties on the solve.

    Raises:
        ValueError: an unknown name, or an option that the equation does not have.
    """
    if name not in get_args(ModelName):
        near = difflib.get_close_matches(str(name), get_args(ModelName), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"model {name!r} is not known{hint} (models: "
            f"{', '.join(get_args(ModelName))})"
        )
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    _refuse(name, "noise", noise != "diagonal", ("lsde", "lnsde", "gsde"))
    _refuse(name, "controlled", controlled, ("neural-sde",))
    _refuse(name, "form", form != "paper", ("lsde", "lnsde", "gsde", "neural-sde"))
    inputs = control_channels(channels, intensity)
    layer: SeriesLayer
    if name == "neural-ode":
        layer = ControlledODE(
            inputs,
            hidden,
            width=width,
            layers=layers,
            solver=solver,
            regularizers=regularizers,
        )
    elif name == "neural-sde":
        layer = NeuralSDE(
            inputs,
            hidden,
            width=width,
            layers=layers,
            form=form,
            controlled=controlled,
            solver=solver,
            regularizers=regularizers,
        )
    else:
        stable = {"lsde": LangevinSDE, "lnsde": LinearNoiseSDE, "gsde": GeometricSDE}
        layer = stable[name](
            inputs,
            hidden,
            width=width,
            layers=layers,
            form=form,
            noise=noise,
            solver=solver,
            regularizers=regularizers,
        )
    return SeriesClassifier(
        layer,
        classes,
        intensity=intensity,
        readout=readout,
        outputs=outputs,
        width=width,
        dropout=dropout,
        input_noise=input_noise,
    )


def _refuse(name: str, option: str, given: bool, models: tuple[str, ...]) -> None:
    if given and name not in models:
        raise ValueError(
            f"{name} has no choice of {option}; {option} is for {', '.join(models)}"
        )
