"""`check_gradients`: adjoints beside direct gradients and finite differences."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from nde.audit.differences import Slope, slope
from nde.audit.memory import measured
from nde.audit.report import AdjointCheck, DirectionCheck, GradientReport
from nde.audit.subject import Loss, Subject, subject_of_model, subject_of_solve
from nde.data import Batch
from nde.solvers import Backsolve, Direct, Recompute, Reversible
from nde.solvers.adjoint import Adjoint
from nde.solvers.adjoint.frozen import Frozen

# Of the norm of all gradients together: less counts as this much, so that tensors
# whose gradient is rounding alone are not compared digit by digit.
_LEAST = 1e-3
# Losses of one solve, by whatever adjoint, differ by rounding.
_ALIKE = 1e-10
# What finite differences in float64 resolve where nothing is rough.
_DIFFERENCES = 1e-6


def check_gradients(
    model_or_solve: nn.Module | Callable[[Adjoint], Tensor],
    batch: Batch | Sequence[Tensor] | Mapping[str, Tensor] | nn.Module,
    *,
    adjoint: Adjoint | None = None,
    loss: Loss | None = None,
    samples: int = 8,
    penalties: bool = True,
    directions: int = 3,
    seed: int = 0,
    tolerance: float = 1e-8,
    approximate: float = 0.05,
) -> GradientReport:
    """Audit the gradients of a model or of a solve, in float64.

    The gradient of the chosen adjoint, and of every other that the method allows, is
    compared with that of `Direct`, tensor by tensor; that of `Direct` with central
    differences of the loss along random directions, in which every tensor moves in
    proportion to its root mean square. `Direct` takes step sizes for constants, as all
    adjoints do, so the differences that count are along the steps of the unmoved solve.
    Where the steps adapt, differences of the solve itself, whose steps then move too,
    are reported beside them: they differ by about the tolerance of the solve, and by
    anything if its decisions change, without the gradient being wrong. Where a solve
    has events, or the ends of its interval move, only the latter exist and count.

    Penalties of local regularizers hold constant what they step from, so that their
    gradient is not that of their value: adjoints are compared with them, finite
    differences taken without.

    A model is audited on a float64 copy, on the same Brownian paths in every run, in
    evaluation mode (no dropout, no noise on inputs), but with its regularizers. It is
    left as it was, and so are torch's random numbers.

    Args:
        model_or_solve: a module with layers of `nde.models`; or a function that solves
            with the adjoint it is given and returns a 0-dim tensor.
        batch: for a `SeriesClassifier`, labelled series as the training has them. For
            another module whatever `loss` takes: floating point tensors in tuples,
            lists and dicts become float64, those that require grad are inputs whose
            gradients are audited beside the parameters'. For a function the tensors
            that it reads and whose gradients are audited, float64 leaves in a list, a
            dict or a module; they are moved in place and put back.
        adjoint: the one in question; None is that of the model's settings, and for a
            function `Recompute()`.
        loss: called as loss(model, batch), gives a 0-dim tensor; None is the
            cross-entropy of a classifier plus its penalty.
        samples: so many series of a `Batch` are used, from its first.
        penalties: whether the regularizers of a model's layers are part of the loss.
            Leave them out if one of your own detaches what its value depends on.
        directions: random directions of finite differences. Each takes 16 solves, or 32
            where steps adapt.
        seed: of the Brownian motion, the directions, and torch's generator in each run.
        tolerance: relative error allowed to `Recompute` and `Reversible`.
        approximate: relative error allowed to `Backsolve`, which is not exact.

    Returns:
        `GradientReport`; its `passed` is about the chosen adjoint and `Direct`. Peak
        memory is counted as `nde.audit.memory.measured` says.

    Raises:
        TypeError, ValueError: a model without layers of `nde.models`, a missing loss,
            tensors that are no float64 leaves, a loss that is not 0-dim or does not
            depend on any tensor.
        Whatever the loss raises under `Direct` or the chosen adjoint, as where that
        does not suit the method. Others that refuse are reported as refused.
    """
    if samples < 1 or directions < 0:
        raise ValueError(
            f"samples must be at least 1 and directions at least 0, received {samples} "
            f"and {directions}"
        )
    with _own_random_numbers(model_or_solve, batch):
        if isinstance(model_or_solve, nn.Module):
            subject = subject_of_model(
                model_or_solve,
                batch,
                loss=loss,
                samples=samples,
                penalties=penalties,
                seed=seed,
            )
        else:
            if isinstance(batch, Batch):
                raise TypeError(
                    "batch must hold the tensors that the function reads, got a Batch; "
                    "pass its values and the parameters, as a list"
                )
            subject = subject_of_solve(model_or_solve, batch)
        if not subject.tensors:
            raise ValueError("there is no parameter or input that requires grad")
        chosen = adjoint or subject.chosen
        if chosen is None:
            if isinstance(model_or_solve, nn.Module):
                raise ValueError(
                    "the layers of the model use different adjoints; pass adjoint=..."
                )
            chosen = Recompute()
        return _report(subject, chosen, directions, seed, tolerance, approximate)


def _own_random_numbers(*values: object) -> AbstractContextManager[None]:
    devices = {
        tensor.device.index
        for value in values
        if isinstance(value, nn.Module)
        for tensor in value.parameters()
        if tensor.device.type == "cuda"
    }
    return torch.random.fork_rng(devices=list(devices))


def _report(
    subject: Subject,
    chosen: Adjoint,
    directions: int,
    seed: int,
    tolerance: float,
    approximate: float,
) -> GradientReport:
    tried: dict[type, Adjoint] = {
        type(one): one for one in (Direct(), Recompute(), Reversible(), Backsolve())
    }
    tried[type(chosen)] = chosen
    value, reference, direct = _direct(subject, seed, isinstance(chosen, Direct))
    wanted = value, reference
    slopes = reference
    if subject.left_out and directions:
        slopes = _gradients(subject.slope, subject.tensors, Direct(), seed)[1]
    checks = [direct]
    for kind, one in tried.items():
        if kind is not Direct:
            allowed = approximate if kind is Backsolve else tolerance
            checks.append(_compared(subject, one, seed, wanted, allowed, one is chosen))
    return GradientReport(
        value=value,
        tensors=len(subject.tensors),
        numbers=sum(tensor.numel() for tensor in subject.tensors.values()),
        adjoints=tuple(checks),
        directions=tuple(_directions(subject, slopes, directions, seed)),
        left_out=subject.left_out,
    )


Gradients = dict[str, Tensor]


def _gradients(
    loss: Callable[[Adjoint], Tensor],
    tensors: dict[str, Tensor],
    adjoint: Adjoint,
    seed: int,
) -> tuple[float, Gradients]:
    """Value and gradients; zero where a tensor gets none."""
    torch.manual_seed(seed)
    with torch.enable_grad():
        value = loss(adjoint)
    if value.ndim != 0:
        raise ValueError(
            f"the loss must be 0-dim, received shape {tuple(value.shape)}; reduce it, "
            "as by .mean()"
        )
    if not value.requires_grad:
        raise ValueError("the loss does not depend on any tensor that requires grad")
    found = torch.autograd.grad(value, list(tensors.values()), allow_unused=True)
    return value.item(), {
        name: torch.zeros_like(tensor) if grad is None else grad.detach()
        for (name, tensor), grad in zip(tensors.items(), found, strict=True)
    }


def _direct(
    subject: Subject, seed: int, chosen: bool
) -> tuple[float, Gradients, AdjointCheck]:
    run = measured(
        lambda: _gradients(subject.loss, subject.tensors, Direct(), seed),
        subject.device,
    )
    value, reference = run.result
    norms = _norms(reference)
    wrong = [name for name, norm in norms.items() if not math.isfinite(norm)]
    check = AdjointCheck(
        name="direct",
        chosen=chosen,
        error=math.nan if wrong else 0.0,
        worst=wrong[0] if wrong else "",
        tolerance=0.0,
        seconds=run.seconds,
        peak_bytes=run.peak_bytes,
        note=f"its gradient of {wrong[0]} is not finite" if wrong else "",
    )
    return value, reference, check


def _compared(
    subject: Subject,
    adjoint: Adjoint,
    seed: int,
    wanted: tuple[float, Gradients],
    tolerance: float,
    chosen: bool,
) -> AdjointCheck:
    value, reference = wanted
    name = type(adjoint).__name__.lower()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            run = measured(
                lambda: _gradients(subject.loss, subject.tensors, adjoint, seed),
                subject.device,
            )
        except (TypeError, ValueError, RuntimeError) as error:
            if chosen:
                raise
            return AdjointCheck(
                name=name,
                chosen=False,
                error=math.nan,
                worst="",
                tolerance=tolerance,
                seconds=math.nan,
                peak_bytes=0,
                note=str(error),
                refused=True,
            )
    found = run.result[1]
    notes = [str(warning.message) for warning in told]
    apart = abs(run.result[0] - value) / (abs(value) or 1.0)
    if apart > _ALIKE:
        notes.append(
            f"its solve gives another loss, {apart:.0e} away, by other steps, which is "
            "part of its error"
        )
    norms = _norms(reference)
    floor = _LEAST * math.hypot(*norms.values())
    errors = {
        key: float((found[key] - direct).norm()) / (max(norms[key], floor) or 1.0)
        for key, direct in reference.items()
    }
    # nan is the worst of all.
    worst = max(errors, key=lambda key: (math.isnan(errors[key]), errors[key]))
    return AdjointCheck(
        name=name,
        chosen=chosen,
        error=errors[worst],
        worst=worst,
        tolerance=tolerance,
        seconds=run.seconds,
        peak_bytes=run.peak_bytes,
        note="; ".join(dict.fromkeys(notes)),
    )


def _norms(gradients: Gradients) -> dict[str, float]:
    return {name: float(gradient.norm()) for name, gradient in gradients.items()}


def _directions(
    subject: Subject, reference: Gradients, count: int, seed: int
) -> list[DirectionCheck]:
    generator = torch.Generator().manual_seed(seed)
    frozen = Frozen()
    _value(subject, frozen, seed)
    checks = []
    for _ in range(count):
        moves = {
            name: _size(tensor) * _normal(tensor, generator)
            for name, tensor in subject.tensors.items()
        }
        parts = [reference[name] * move for name, move in moves.items()]
        gradient = float(torch.stack([part.sum() for part in parts]).sum())
        size = math.hypot(*(float(part.norm()) for part in parts)) or 1.0
        still = _slope_along(subject, frozen, moves, seed)
        moving = Slope(math.nan, math.nan)
        if frozen.adaptive:
            moving = _slope_along(subject, Direct(), moves, seed)
        checks.append(
            DirectionCheck(
                error=abs(still.value - gradient) / size,
                uncertainty=still.error / size,
                moving_steps=abs(moving.value - gradient) / size,
                moving_uncertainty=moving.error / size,
                tolerance=_DIFFERENCES,
            )
        )
    return checks


def _slope_along(
    subject: Subject, adjoint: Adjoint, moves: Gradients, seed: int
) -> Slope:
    kept = {name: tensor.detach().clone() for name, tensor in subject.tensors.items()}

    def put(length: float) -> None:
        with torch.no_grad():
            for name, tensor in subject.tensors.items():
                tensor.copy_(kept[name] + length * moves[name])

    def value(length: float) -> float:
        put(length)
        return _value(subject, adjoint, seed)

    try:
        return slope(value)
    finally:
        with torch.no_grad():
            for name, tensor in subject.tensors.items():
                tensor.copy_(kept[name])


def _value(subject: Subject, adjoint: Adjoint, seed: int) -> float:
    torch.manual_seed(seed)
    if not isinstance(adjoint, Frozen):
        with torch.no_grad():
            return subject.slope(adjoint).item()
    adjoint.again()
    # An adjoint is asked only where gradients are.
    with torch.enable_grad():
        return subject.slope(adjoint).item()


def _size(tensor: Tensor) -> float:
    """Root mean square of what is not NaN, 1 where that is 0."""
    known = tensor.detach().square()
    return math.sqrt(float(known.nanmean())) if bool((known > 0).any()) else 1.0


def _normal(tensor: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn on the CPU: the same directions on every device.
    drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return drawn.to(tensor.device)
