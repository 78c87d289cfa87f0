"""The methods that are compared, by name, and the weights they have in each task.

As published are the weights, means and maxima over steps of the papers' programs: Pal
and others 2021 (er, sr, sr+er, and their settings of STEER and TayNODE), 2023 (local),
Finlay and others 2020 (rnode). They belong to trainings that were 4 to 25 times as long
as those by default here. The weights of our own were chosen on seed 100, which is in no
table; those of the latent ODE were not chosen but carried over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nde.regularizers import (
    AdaptiveJacobian,
    AnyRegularizer,
    AutoEvaluations,
    AutoShare,
    ErrorEstimate,
    Exponential,
    JacobianNorm,
    KineticEnergy,
    LocalError,
    LocalPredictedSteps,
    LocalSampling,
    Measure,
    PredictedSteps,
    Stiffness,
    TaylorDerivative,
    UniformEnd,
    Weight,
)

# Makes the regularizers of one training: weights that learn belong to one model.
Make = Callable[[], list[AnyRegularizer]]

_LOG = Measure(log=True, with_h=False)
# By how much "-strong" methods weigh more, for another point of the front.
_STRONG = 3.0
_BIASED = LocalSampling(sampling="biased")


@dataclass(frozen=True)
class Published:
    """Weights of one task as published; None where a method has none."""

    error: Weight
    stiffness: float
    stiffness_reduce: Literal["mean", "max"]
    both: float
    local: Weight
    steer: float
    taylor: tuple[Literal[2, 3], float] | None
    # Of the programs: an automatic first step whose first stage is a constant. Of SDEs
    # no such step is made here, and their first stage is none.
    local_step: Literal["initial", "accepted"]
    local_k1: Literal["frozen", "attached"]


@dataclass(frozen=True)
class Own:
    """Weights of one task, chosen for trainings as short as these."""

    error: Weight
    log: float
    steps: float


@dataclass(frozen=True)
class Weights:
    """All weights of one task."""

    published: Published
    own: Own


# 10 mean(E h + 0.1 S / s) is how the programs of 2021 weigh both together.
NODE = Weights(
    Published(
        error=Exponential(100.0, 10.0),
        stiffness=0.1,
        stiffness_reduce="max",
        both=10.0,
        local=Exponential(2.5, 1.0),
        steer=0.5,
        taylor=(3, 3.02e-3),
        local_step="initial",
        local_k1="frozen",
    ),
    Own(error=Exponential(1.0, 0.1), log=0.03, steps=0.03),
)
LATENT_ODE = Weights(
    Published(
        error=Exponential(1000.0, 100.0),
        stiffness=1.0,
        stiffness_reduce="max",
        both=10.0,
        local=Exponential(100.0, 10.0),
        steer=0.5,
        taylor=(2, 0.01),
        local_step="initial",
        local_k1="frozen",
    ),
    Own(error=Exponential(1000.0, 100.0), log=0.03, steps=0.1),
)
NSDE = Weights(
    Published(
        error=10.0,
        stiffness=0.1,
        stiffness_reduce="mean",
        both=10.0,
        local=1000.0,
        steer=0.5,
        taylor=None,
        local_step="accepted",
        local_k1="attached",
    ),
    Own(error=Exponential(100.0, 10.0), log=0.1, steps=0.1),
)


def methods(weights: Weights) -> dict[str, Make]:
    """Makers of the regularizers of each method, vanilla first.

    Names that end in "-own" are published methods with our weights; "local-published"
    has the gradients and, for ODEs, the steps of the authors' program.
    """
    return {
        "vanilla": list,
        **_published(weights.published),
        **_local(weights.own),
        **_new(weights.own),
        **(_along_odes() if weights.published.taylor else {}),
    }


def _published(weights: Published) -> dict[str, Make]:
    def both() -> list[AnyRegularizer]:
        return [
            ErrorEstimate(weights.both),
            Stiffness(0.1 * weights.both, reduce="mean"),
        ]

    def local(sampling: Literal["unbiased", "biased"]) -> Make:
        options = LocalSampling(sampling, step=weights.local_step, k1=weights.local_k1)
        return lambda: [LocalError(weights.local, options)]

    found: dict[str, Make] = {
        "steer": lambda: [UniformEnd(weights.steer)],
        "er": lambda: [ErrorEstimate(weights.error)],
        "sr": lambda: [Stiffness(weights.stiffness, reduce=weights.stiffness_reduce)],
        "sr+er": both,
        "local-published-unbiased": local("unbiased"),
        "local-published-biased": local("biased"),
    }
    if weights.taylor is not None:
        order, size = weights.taylor
        found["taynode"] = lambda: [TaylorDerivative(order, size)]
        found["rnode"] = lambda: [KineticEnergy(0.01), JacobianNorm(0.01)]
    return found


def _local(weights: Own) -> dict[str, Make]:
    return {
        "er-own": lambda: [ErrorEstimate(weights.error)],
        "local-unbiased": lambda: [LocalError(weights.error)],
        "local-biased": lambda: [LocalError(weights.error, _BIASED)],
    }


def _new(weights: Own) -> dict[str, Make]:
    return {
        "er-log": lambda: [ErrorEstimate(weights.log, measure=_LOG)],
        "local-log-unbiased": lambda: [LocalError(weights.log, measure=_LOG)],
        "local-log-biased": lambda: [LocalError(weights.log, _BIASED, measure=_LOG)],
        "steps": lambda: [PredictedSteps(weights.steps)],
        "er-log-strong": lambda: [ErrorEstimate(_STRONG * weights.log, measure=_LOG)],
        "steps-strong": lambda: [PredictedSteps(_STRONG * weights.steps)],
        "local-steps": lambda: [LocalPredictedSteps(weights.steps)],
        "local-log-share": lambda: [LocalError(AutoShare(0.1), _BIASED, measure=_LOG)],
        "local-half-nfe": lambda: [LocalError(AutoEvaluations(0.5), _BIASED)],
    }


def _along_odes() -> dict[str, Make]:
    return {"adaptive-jacobian": lambda: [AdaptiveJacobian(0.01)]}
