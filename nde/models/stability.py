"""How stable a solved SDE layer is: what the theory promises, and what happens."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nde.models.output import integrate
from nde.models.settings import SolverSettings
from nde.solvers import SDETerm
from nde.solvers.control import HermiteCubic
from nde.solvers.path import Path

# Times of a solve at which the drift is differentiated, at most.
_TIMES = 16
# Distances below so many units of rounding of the state are noise.
_ROUNDING = 8.0
# A measured exponent within so much of the predicted one, per unit of time, agrees.
_SLACK = 0.05


@dataclass(frozen=True)
class Equation:
    """An equation as a layer solves it, and what is known of its noise.

    `ito` is the equation in its Ito form, `solved` in the form the method takes;
    `start (batch, hidden)`; `space` names the variable; `sizes` `(..., hidden or 1)`
    are noise sizes at the output times. `kind` says how the noise depends on the
    state: "additive", "linear" (in proportion to it) or "other".
    """

    name: str
    space: str
    kind: Literal["additive", "linear", "other"]
    ito: SDETerm
    solved: SDETerm
    start: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class StabilityReport:
    """What `stability_report` found; `print` it.

    `lipschitz` is the largest, `lipschitz_mean` the mean one-sided Lipschitz number of
    the drift (largest eigenvalue of the symmetric part of its Jacobian) at the states
    of one solve along the data. Both are estimates: between and beyond these states
    the number may be larger. `sigma_least`, `sigma_most` bound |sigma| at the output
    times. `predicted` bounds the exponent of the distance of two solutions under one
    Brownian motion (of its logarithm on average, and almost surely in the long run), in
    exact time and if `lipschitz` holds everywhere; None where no bound is known.
    `measured` is the median over `pairs` of log(|D_T| / |D_0|) / T for
    the layer's own method and step, between `quartiles`; an estimate. `floored` tells
    that distances reached rounding, so that the true exponent is less.
    """

    equation: str
    space: str
    solver: str
    lipschitz: float
    lipschitz_mean: float
    sigma_least: float
    sigma_most: float
    predicted: float | None
    prediction: str
    measured: float
    quartiles: tuple[float, float]
    pairs: int
    delta: float
    floored: bool

    @property
    def sampling_error(self) -> float:
        """Standard error of `measured` from its quartiles, as for a normal sample."""
        low, high = self.quartiles
        return 0.93 * (high - low) / math.sqrt(self.pairs)

    @property
    def verdict(self) -> str:
        """One sentence."""
        measured, error = self.measured, 3.0 * self.sampling_error
        if abs(measured) <= max(_SLACK, error):
            seen = "keep their distance"
        else:
            seen = "approach" if measured < 0 else "part"
        if self.predicted is None:
            return f"No rate is promised; nearby solutions {seen} here."
        if measured > self.predicted + error + _SLACK * (1 + abs(self.predicted)):
            return (
                f"Nearby solutions {seen}, at a worse rate than predicted: the step is "
                "too long, or the sampled Lipschitz number too small."
            )
        if self.predicted < 0:
            return (
                "Contracting, if the sampled Lipschitz number holds everywhere; nearby "
                f"solutions {seen} here."
            )
        return f"Contraction is not guaranteed; nearby solutions {seen} here."

    def __str__(self) -> str:
        low, high = self.quartiles
        predicted = "none" if self.predicted is None else f"{self.predicted:+.4g}"
        floor = ", or less: distances reached rounding" if self.floored else ""
        return "\n".join(
            [
                f"{self.equation}, solved for {self.space} by {self.solver}",
                f"  one-sided Lipschitz   max {self.lipschitz:+.4g}, mean "
                f"{self.lipschitz_mean:+.4g} at sampled states (an estimate)",
                f"  |sigma|               {self.sigma_least:.4g} to "
                f"{self.sigma_most:.4g} at the output times",
                f"  exponent, predicted   {predicted} ({self.prediction})",
                f"  exponent, measured    {self.measured:+.4g}{floor} (median of "
                f"{self.pairs} pairs {self.delta:.3g} apart, half of them {low:+.4g} "
                f"to {high:+.4g}; an estimate)",
                f"  {self.verdict}",
            ]
        )


def report(
    equation: Equation,
    ts: Tensor,
    settings: SolverSettings,
    *,
    seed: int = 0,
    pairs: int = 64,
    delta: float = 1e-3,
) -> StabilityReport:
    """Measure an equation along its data.

    Args:
        equation: what the layer solves.
        ts: output times, `(T,)` or `(batch, T)`; NaN marks places without a time.
        settings: of the layer.
        seed: of the Brownian motions and of the directions of the pairs.
        pairs: at least so many pairs of solutions; a solve has one per sample, and is
            repeated under other Brownian motions until there are enough.
        delta: first distance of a pair.

    Raises:
        TypeError: seed or pairs that are no integers, delta that is no number.
        ValueError: pairs below 1, delta not positive or below rounding, no sample, or
            an interval without length.
        SolveError: as the layer itself.
    """
    start, ts = equation.start.detach(), ts.detach()
    span = _span(ts).to(start.dtype).expand(len(start))
    _check(start, span, pairs, delta, seed)
    generator = torch.Generator().manual_seed(seed)
    exponents, floors = [], []
    with torch.no_grad():
        states = _solve(equation, start, ts, settings, seed)
        for run in range(-(-pairs // len(start))):
            away = torch.randn(start.shape, generator=generator, dtype=start.dtype)
            away = away * (delta / torch.linalg.vector_norm(away, dim=1, keepdim=True))
            near = start + away.to(start.device)
            one = _solve(equation, start, ts, settings, seed + run)[:, -1]
            other = _solve(equation, near, ts, settings, seed + run)[:, -1]
            began = torch.linalg.vector_norm(near - start, dim=1)
            ended = torch.linalg.vector_norm(other - one, dim=1)
            floor = _floor(one)
            exponents.append((ended.maximum(floor) / began).log() / span)
            floors.append(ended < floor)
    used = span > 0
    rates = torch.stack(exponents)[:, used].double().flatten()
    marks = rates.new_tensor([0.25, 0.5, 0.75])
    low, middle, high = torch.quantile(rates, marks).tolist()
    lipschitz = _lipschitz(equation.ito, states, ts)
    sizes = equation.sizes.detach().abs()
    sizes = sizes[sizes.isfinite()]
    least, most = sizes.min().item(), sizes.max().item()
    largest = lipschitz.max().item()
    predicted, why = _predict(equation, largest, least, most)
    return StabilityReport(
        equation=equation.name,
        space=equation.space,
        solver=f"{settings.method}, {settings.steps}",
        lipschitz=largest,
        lipschitz_mean=lipschitz.mean().item(),
        sigma_least=least,
        sigma_most=most,
        predicted=predicted,
        prediction=why,
        measured=middle,
        quartiles=(low, high),
        pairs=len(rates),
        delta=delta,
        floored=bool(torch.stack(floors)[:, used].double().mean() >= 0.5),
    )


def _solve(
    equation: Equation,
    start: Tensor,
    ts: Tensor,
    settings: SolverSettings,
    seed: int,
) -> Tensor:
    """States at the output times, `(batch, T, hidden)`."""
    ys = integrate(
        equation.solved, start, ts, settings=settings, regularizers=(), seed=seed
    ).ys
    assert isinstance(ys, Tensor)
    return ys


def _span(ts: Tensor) -> Tensor:
    """From the first to the last time, `()` or `(batch,)`."""
    real = ts.isfinite()
    last = ts.masked_fill(~real, -torch.inf).amax(-1)
    return last - ts.masked_fill(~real, torch.inf).amin(-1)


def _floor(z: Tensor) -> Tensor:
    """The distance from z that is rounding alone, `(batch,)`."""
    size: Tensor = torch.linalg.vector_norm(z, dim=1)
    return _ROUNDING * torch.finfo(z.dtype).eps * size


def check_data(path: Path, ts: Tensor, initial: nn.Linear) -> None:
    """Refuse a path and times that do not fit each other, or a layer by its `initial`.

    Raises:
        TypeError: ts that is no floating tensor, a path that is none, or of another
            dtype than the layer.
        ValueError: shapes or channels that do not fit, or times outside of the data.
    """
    if not isinstance(ts, Tensor) or not ts.is_floating_point():
        shown = ts.dtype if isinstance(ts, Tensor) else type(ts).__name__
        raise TypeError(
            f"ts must be a floating tensor (T,) or (batch, T), got {shown}; use "
            "torch.tensor(ts, dtype=...) of the path's dtype"
        )
    if ts.ndim not in (1, 2) or not ts.numel():
        raise ValueError(
            f"ts must be (T,) or (batch, T) with a time at least, got {tuple(ts.shape)}"
        )
    if not hasattr(path, "evaluate"):
        raise TypeError(
            f"path must be a control path as HermiteCubic, got {type(path).__name__}"
        )
    x, weight = path.evaluate(ts.flatten()[0]), initial.weight
    if x.shape[-1] != initial.in_features:
        raise ValueError(
            f"path has {x.shape[-1]} channels, the layer was made for "
            f"{initial.in_features}; give it data of as many"
        )
    if x.dtype != weight.dtype:
        raise TypeError(
            f"path is {x.dtype}, the layer {weight.dtype}; convert one of them, as by "
            "layer.to(dtype)"
        )
    if ts.ndim == 2 and len(ts) != len(x):
        raise ValueError(
            f"ts has {len(ts)} rows, the path {len(x)} samples; pass (T,), or a row "
            "for each sample"
        )
    if isinstance(path, HermiteCubic):
        _check_inside(path.knots, ts.detach())


def _check_inside(knots: Tensor, ts: Tensor) -> None:
    first, last = knots[..., :1], knots[..., -1:]
    slack = _ROUNDING * torch.finfo(ts.dtype).eps * knots.abs().amax(-1, keepdim=True)
    outside = (ts < first - slack) | (ts > last + slack)
    if not bool(outside.any()):
        return
    place = outside.nonzero()[0].tolist()
    where = f" for sample {place[0]}" if len(place) == 2 else ""
    row = place[0] if knots.ndim == 2 else ...
    t = ts.expand(outside.shape)[tuple(place)]
    raise ValueError(
        f"ts has the time {float(t):.6g}{where}, but the data of the path go from "
        f"{float(first[row]):.6g} to {float(last[row]):.6g}; beyond, nothing would be "
        "measured along them. Give times inside, with NaN where a sample has none"
    )


def _check(
    start: Tensor, span: Tensor, pairs: object, delta: object, seed: object
) -> None:
    for name, value in (("pairs", pairs), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, got {value!r}")
    if isinstance(delta, bool) or not isinstance(delta, (int, float)):
        raise TypeError(f"delta must be a number, got {delta!r}")
    assert isinstance(pairs, int)
    if pairs < 1:
        raise ValueError(f"pairs is {pairs}; a measurement needs at least 1")
    if not bool((span > 0).any()):
        raise ValueError(
            "ts has no sample with two different times; give an interval to solve over"
        )
    least = _floor(start).max().item()
    if not delta > least:
        raise ValueError(
            f"delta is {delta}, and distances below {least:.1e} are rounding at this "
            f"start in {str(start.dtype).removeprefix('torch.')}; give a larger one"
        )


def _lipschitz(term: SDETerm, states: Tensor, ts: Tensor) -> Tensor:
    """One-sided Lipschitz numbers of the drift at states along their solve, `(n,)`."""
    count = ts.shape[-1]
    found = []
    for k in torch.linspace(0, count - 1, min(count, _TIMES)).round().int().tolist():
        t = ts[..., k]
        real = t.isfinite().expand(len(states))
        t = torch.where(t.isfinite(), t, ts[..., 0])
        with torch.enable_grad():
            z = states[:, k].clone().requires_grad_()
            drift = term.drift(t.to(z.dtype), z)
            assert isinstance(drift, Tensor)
            rows = [_slope(part.sum(), z) for part in drift.unbind(1)]
        jacobian = torch.stack(rows, dim=1)[real]
        symmetric = 0.5 * (jacobian + jacobian.mT)
        found.append(torch.linalg.eigvalsh(symmetric)[:, -1])
    return torch.cat(found)


def _slope(value: Tensor, z: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(z)
    slope: Tensor = torch.autograd.grad(
        value, z, retain_graph=True, materialize_grads=True
    )[0]
    return slope


def _predict(
    equation: Equation, m: float, least: float, most: float
) -> tuple[float | None, str]:
    """The bound on the exponent, and in words where it comes from.

    With D the difference of two solutions and p_i = D_i^2 / |D|^2, Ito's formula for
    log |D| gives the drift D.(f - f') / |D|^2 + sum_i (sigma_i^2 / 2 - sigma_i^2 p_i)
    p_i for linear diagonal noise, and sum_i p_i^2 >= 1 / hidden; for linear scalar
    noise of one size -sigma^2 / 2; and for additive noise D solves an ODE.
    """
    if equation.kind == "additive":
        return m, "the Lipschitz number: additive noise cancels in differences"
    if equation.kind == "other":
        return None, "no bound is known for noise inside a tanh"
    if equation.solved.noise == "scalar":
        return m - 0.5 * least**2, "Lipschitz number less sigma^2 / 2: scalar noise"
    bound = m + 0.5 * most**2 - least**2 / equation.start.shape[1]
    return bound, (
        "Lipschitz number + sigma^2 / 2 - sigma^2 / hidden: with a Brownian motion per "
        "dimension the damping fades as dimensions are added, and the noise can even "
        "drive solutions apart"
    )
