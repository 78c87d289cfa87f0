"""`sdeint`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from nde.compat.torchsde.derived import BrownianPath, BrownianTree
from nde.compat.torchsde.divergence import WithSilence, with_divergence
from nde.compat.torchsde.equation import Equation, equation_of
from nde.compat.torchsde.extra import Carried, carried
from nde.compat.torchsde.interval import BrownianInterval
from nde.compat.torchsde.methods import chosen_method
from nde.solvers import PID, Direct, FixedSteps, SolveError, solve
from nde.solvers.additive import DependentOnState
from nde.solvers.adjoint import Adjoint
from nde.solvers.brownian import BrownianMotion, FromTorchsde
from nde.solvers.failure import CAUSE, FIX_ALONG_PATHS
from nde.solvers.own_noise import DependentNoise
from nde.solvers.stochastic import StochasticMethod
from nde.solvers.stochastic.euler import EULER, LAMBA_EM

# Steps of a solve.
MAX_STEPS = 10_000_000


def sdeint(
    sde: Any,
    y0: Tensor,
    ts: Any,
    bm: Any = None,
    method: str | None = None,
    dt: Any = 1e-3,
    adaptive: bool = False,
    rtol: Any = 1e-5,
    atol: Any = 1e-4,
    dt_min: Any = 1e-5,
    options: dict[str, Any] | None = None,
    names: dict[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: Sequence[Tensor] | None = None,
    **unused_kwargs: Any,
) -> Any:
    """Solve an SDE, differentiable through the steps.

    Args:
        sde: has `noise_type` ("diagonal", "scalar", "additive", "general") and
            `sde_type` ("ito", "stratonovich"); a drift `f(t, y)`, `(batch, d)`, or
            `f_and_g`; a diffusion `g(t, y)`, `(batch, d)` if diagonal, else
            `(batch, d, m)`, or products with it, `g_prod(t, y, v)` or `f_and_g_prod`.
        y0: `(batch, d)`.
        ts: `(T,)` or a list, strictly increasing.
        bm: a Brownian motion of size (batch, m), of this package or torchsde's; by
            default one seeded from torch's generator.
        method: "srk" for Ito, "euler" if noise is general, else "midpoint" by default.
        dt: no step is longer; with `adaptive` the first one.
        rtol, atol: of adaptive steps, one step for the whole batch, judged by what the
            method neglects, not by halving it; for "euler" as `lamba_em` does.
        dt_min: an adaptive step of this length that errs too much ends the solve.
        options: `{"grad_free": True}` for milstein.
        names: what the methods are called, under the keys of `equation.ROLES`.
        logqp: also compare with the drift `h` of a prior.
        extra: also return what the method carries from step to step.
        extra_solver_state: that to begin with; reversible_heun only.

    Returns:
        States `(T, batch, d)`; with logqp also the divergence from the prior between
        times `(T - 1, batch)`; with extra also a tuple, (f, g, z) at the last time for
        reversible_heun, else ().

    Raises:
        TypeError, ValueError: bad input, naming the argument.
        SolveError: the end was not reached.
    """
    refuse_unknown("sdeint", unused_kwargs)
    job = prepare(
        sde,
        y0,
        ts,
        bm,
        method,
        {"dt": dt, "rtol": rtol, "atol": atol, "dt_min": dt_min},
        adaptive,
        options,
        names,
        logqp,
        extra_solver_state,
    )
    return job.run(Direct(), extra)


@dataclass(frozen=True)
class Job:
    """A solve as it was asked for, checked.

    `y0 (batch, d)`, with a channel more for logqp; `ts (T,)`.
    """

    equation: Equation
    y0: Tensor
    ts: Tensor
    noise: BrownianMotion | None
    method: StochasticMethod
    controller: PID | FixedSteps
    carried: Carried | None
    logqp: bool

    def run(self, adjoint: Adjoint, extra: bool) -> Any:
        """What `sdeint` returns."""
        carried = self.carried
        method = self.method if carried is None else carried.on(self.method)
        try:
            solution = solve(
                self.equation.term(),
                self.y0,
                self.ts,
                method=method,
                controller=self.controller,
                adjoint=adjoint,
                # One time for all, as the functions of torchsde take it.
                batch="shared" if isinstance(self.controller, PID) else "per_sample",
                noise=self.noise,
                max_steps=MAX_STEPS,
            )
        except SolveError as error:
            raise _failed(error) from None
        except DependentOnState:
            raise ValueError(
                "noise_type is 'additive', but g of this sde depends on y, which "
                "methods for additive noise leave out; use noise_type='general'"
            ) from None
        except DependentNoise:
            raise ValueError(
                f"method {self.method.name} cannot adapt the steps of this sde: "
                "entries of its diagonal noise depend on each other, and steps chosen "
                "so would converge to another equation's solution; use "
                + (
                    "method='euler'"
                    if self.equation.interpretation == "ito"
                    else "method='midpoint'"
                )
                + ", or adaptive=False"
            ) from None
        ys = solution.ys.transpose(0, 1).contiguous()
        out: list[Any] = [ys]
        if self.logqp:
            out = [ys[:, :, :-1].contiguous(), ys[:, :, -1].diff(dim=0)]
        if extra:
            out.append(() if carried is None else self._end(carried))
        return out[0] if len(out) == 1 else tuple(out)

    def _end(self, carried: Carried) -> tuple[Tensor, ...]:
        shape = tuple(self.y0.shape)
        shapes = (shape, diffusion_shape(self.equation, self.y0), shape)
        return tuple(
            part.reshape(wanted).contiguous()
            for part, wanted in zip(carried.end, shapes, strict=True)
        )


def prepare(
    sde: Any,
    y0: object,
    ts: Any,
    bm: Any,
    method: str | None,
    numbers: dict[str, Any],
    adaptive: bool,
    options: dict[str, Any] | None,
    names: dict[str, str] | None,
    logqp: bool,
    extra_solver_state: Sequence[Tensor] | None,
) -> Job:
    """Check what is asked. Raises ValueError or TypeError naming the argument."""
    if not isinstance(y0, Tensor):
        raise ValueError(f"y0 must be a torch.Tensor, got {type(y0).__name__}")
    if y0.ndim != 2:
        raise ValueError(f"y0 must have shape (batch, d), got {tuple(y0.shape)}")
    if not y0.is_floating_point():
        raise TypeError(f"y0 must be floating, got {y0.dtype}; use y0.float()")
    times = _times(ts, y0.device)
    step, rtol, atol, least = (_number(name, v) for name, v in numbers.items())
    noise = None if bm is None else motion_of(bm)
    given = None if noise is None else noise.size[1]
    now = times[0].to(y0.dtype)
    equation = equation_of(sde, names, now, y0.detach(), given)
    if logqp:
        equation = with_divergence(equation)
        y0 = torch.cat([y0, y0.new_zeros(len(y0), 1)], dim=1)
    found = chosen_method(method, equation.noise, equation.interpretation, options)
    if adaptive and found is EULER:
        found = LAMBA_EM
    if noise is not None:
        noise = _fitting(noise, bm, equation, found, y0, times, logqp)
        times = times.double().clamp(noise.t0, noise.t1)
    span = float(times[-1] - times[0])
    if not step > 0.0:
        raise ValueError(f"dt must be > 0, got {step}")
    if not least >= 0.0:
        raise ValueError(f"dt_min must be >= 0, got {least}")
    controller: PID | FixedSteps
    if adaptive:
        controller = PID(
            rtol=rtol, atol=atol, min_step=min(least, step), first_step=step
        )
    else:
        controller = FixedSteps(min(step, span or 1.0))
    g_shape = diffusion_shape(equation, y0)
    state = carried(found, extra_solver_state, y0, g_shape)
    return Job(equation, y0, times, noise, found, controller, state, logqp)


def refuse_unknown(name: str, given: dict[str, Any]) -> None:
    """Raises TypeError if there are arguments that a function does not have."""
    if given:
        raise TypeError(f"{name}() has no argument {', '.join(map(repr, given))}")


def diffusion_shape(equation: Equation, y0: Tensor) -> tuple[int, ...]:
    """Shape of what the diffusion returns."""
    shape = tuple(y0.shape)
    return shape if equation.noise == "diagonal" else (*shape, equation.m)


def motion_of(bm: Any) -> BrownianMotion:
    """A Brownian motion that was passed, as a solve asks it."""
    shape = getattr(bm, "shape", None)
    if not callable(bm) or shape is None:
        raise TypeError(
            f"bm must be a BrownianInterval, BrownianTree or BrownianPath, or called "
            f"and shaped as one, got {type(bm).__name__}"
        )
    if len(shape) != 2:
        raise ValueError(f"bm must have shape (batch, m), got {tuple(shape)}")
    if isinstance(bm, (BrownianInterval, BrownianPath, BrownianTree)):
        return bm.motion
    # torchsde tells its ends nowhere else.
    inner = getattr(bm, "_interval", bm)
    ends = getattr(inner, "_start", -math.inf), getattr(inner, "_end", math.inf)
    return FromTorchsde(bm, float(ends[0]), float(ends[1]))


def _fitting(
    noise: BrownianMotion,
    bm: Any,
    equation: Equation,
    method: StochasticMethod,
    y0: Tensor,
    ts: Tensor,
    logqp: bool,
) -> BrownianMotion:
    """A motion that is checked against the equation, times and method."""
    batch, m = noise.size
    if batch != len(y0):
        raise ValueError(f"bm has batch size {batch}, y0 has {len(y0)}")
    if logqp and equation.noise == "diagonal" and m == equation.m - 1:
        noise, m = WithSilence(noise), m + 1
    if m != equation.m:
        raise ValueError(
            f"bm has {m} motions for each sample, the SDE has {equation.m}"
        )
    begin, end = float(ts[0]), float(ts[-1])
    # What a time may have lost on its way through float32.
    slack = 4 * torch.finfo(torch.float32).eps * max(abs(begin), abs(end))
    if noise.t0 > begin + slack or noise.t1 < end - slack:
        raise ValueError(
            f"bm covers [{noise.t0}, {noise.t1}], ts goes from {begin} to {end}; give "
            "bm a wider interval"
        )
    asked = method.asks(equation.noise)
    approximation = getattr(bm, "levy_area_approximation", "none")
    gives = {"none": 0, "space-time": 1, "davie": 2, "foster": 2}
    needs = {"none": 0, "space-time": 1, "area": 2}
    if gives.get(approximation, 0) < needs[asked]:
        wanted = "'space-time'" if asked == "space-time" else "'foster'"
        raise ValueError(
            f"method {method.name} needs Levy areas, but bm has "
            f"levy_area_approximation={approximation!r}; make it with {wanted}"
        )
    return noise


def _times(given: Any, device: torch.device) -> Tensor:
    """`ts` as a floating tensor on the device."""
    numbers = isinstance(given, (tuple, list)) and all(
        isinstance(t, (int, float)) for t in given
    )
    if not (numbers or isinstance(given, Tensor)):
        raise ValueError("ts must be a tensor (T,), or a list or tuple of numbers")
    # float64: a list says 0.1, not the float32 beside it.
    ts = torch.tensor(given, dtype=torch.float64) if numbers else cast(Tensor, given)
    if ts.requires_grad:
        raise ValueError("ts must not require grad; pass ts.detach()")
    ts = ts.to(device)
    if not ts.is_floating_point():
        ts = ts.double()
    if ts.ndim != 1 or not len(ts):
        raise ValueError(f"ts must have shape (T,), got {tuple(ts.shape)}")
    order = ts.diff() > 0
    if not bool(order.all()):
        index = int((~order).nonzero()[0]) + 1
        raise ValueError(
            f"ts must be strictly increasing; index {index} breaks the order (or is "
            "NaN). To go back in time, solve for -t"
        )
    return ts


def _failed(error: SolveError) -> SolveError:
    """The error of a solve in words of this interface."""
    status, t = error.status, error.times[0]
    return SolveError(
        f"sdeint stopped at t={t:.6g}, because {CAUSE[status]}. "
        f"{FIX_ALONG_PATHS[status]}",
        status=status,
        samples=error.samples,
        times=error.times,
        evaluations=error.evaluations,
    )


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float, Tensor)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(f"{name} must not require grad; pass {name}.detach()")
    return float(value)
