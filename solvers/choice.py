"""Which options of a solve go together: method, term, controller, noise, events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor

from nde.solvers.adjoint import Backsolve, Direct, Recompute, Reversible
from nde.solvers.brownian import (
    BrownianBridge,
    BrownianGrid,
    BrownianTree,
    NoiseSource,
)
from nde.solvers.brownian.seed import check_seed
from nde.solvers.controller import PID, Controller, FixedSteps, StepTo
from nde.solvers.methods import (
    MULTISTEP_METHODS,
    ODE_METHODS,
    SDE_METHODS,
    SYMPLECTIC_METHODS,
    method_named,
    methods_for,
)
from nde.solvers.reversible_pair import McCallumFoster
from nde.solvers.state import Structure
from nde.solvers.stepper import Stepper
from nde.solvers.stochastic import StochasticMethod
from nde.solvers.tableaus import EXPLICIT
from nde.solvers.term import ODETerm, SDETerm, Term
from nde.solvers.transforms import transformed
from nde.solvers.watch import Event


def check_options(
    controller: object,
    adjoint: object,
    batch: object,
    max_steps: object,
    max_events: object,
) -> None:
    """Refuse options that are none. Raises TypeError or ValueError naming one."""
    if not isinstance(controller, (PID, FixedSteps, StepTo)):
        raise TypeError(
            "controller must be PID(...), FixedSteps(step) or StepTo(times), got "
            f"{controller!r}"
        )
    if not isinstance(adjoint, (Direct, Recompute, Reversible, Backsolve)):
        raise TypeError(
            "adjoint must be Recompute(), Direct(), Reversible() or Backsolve(), got "
            f"{adjoint!r}"
        )
    if batch not in ("per_sample", "shared"):
        raise ValueError(f"batch must be 'per_sample' or 'shared', got {batch!r}")
    for name, value in (("max_steps", max_steps), ("max_events", max_events)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}")


def check_dense(term: Term, stepper: Stepper, noise: NoiseSource | None) -> None:
    """Raises ValueError if a solve could not be read between its steps."""
    between = isinstance(stepper, StochasticMethod) and stepper.reads_between
    if not (stepper.has_interpolant or between):
        raise ValueError(
            f"dense=True is to read inside of steps, which method {stepper.name!r} has "
            "no way to; put the times in ts or probe_times"
        )
    if isinstance(stepper, StochasticMethod) and isinstance(term, SDETerm):
        if stepper.asks(term.noise) == "area":
            raise ValueError(
                f"dense=True reads a path inside of steps, where method "
                f"{stepper.name!r} would draw Levy areas that do not add up to those "
                "of the steps; put the times in ts or probe_times, or use method "
                "'general_shark', 'spark' or 'heun'"
            )
    known = (int, Tensor, BrownianTree, BrownianBridge)
    if noise is not None and not isinstance(noise, known):
        raise ValueError(
            f"dense=True asks the Brownian motion about any time, which noise "
            f"({type(noise).__name__}) does not tell; pass a seed or a BrownianTree"
        )


def check_restarts(stepper: Stepper, controller: Controller) -> None:
    """Raises ValueError for jumps under a method that cannot begin anew after them."""
    if controller.jump_t is not None and isinstance(stepper, McCallumFoster):
        raise ValueError(
            f"method {stepper.name!r} calls f at both ends of a step, and cannot tell "
            "the two sides of a jump; use a Runge-Kutta method with jump_t, or step_t "
            "where f does not jump"
        )
    if controller.jump_t is not None and stepper.name in MULTISTEP_METHODS:
        raise ValueError(
            f"method {stepper.name!r} goes on from steps before a jump; use a "
            "Runge-Kutta method with jump_t"
        )


def checked_events(stepper: Stepper, events: object) -> tuple[Event, ...]:
    """The events, where they are some.

    Raises TypeError or ValueError; RuntimeError inside of transforms.
    """
    if isinstance(events, Event) or not isinstance(events, Sequence):
        raise TypeError(f"events must be a list of Event(...), got {events!r}")
    for number, event in enumerate(events):
        if not isinstance(event, Event):
            raise TypeError(f"events[{number}] must be Event(...), got {event!r}")
    if events and isinstance(stepper, StochasticMethod):
        raise ValueError(
            "events are for an ODETerm: a path of an SDETerm may cross zero any number "
            "of times within a step; read it at closer ts, and look for signs there"
        )
    if events and not stepper.has_interpolant:
        base = stepper.base if isinstance(stepper, McCallumFoster) else "tsit5"
        raise ValueError(
            f"events are located on interpolants, and method {stepper.name!r} has "
            f"none; use method {base!r} with adjoint=Recompute() or Direct()"
        )
    if events and transformed():
        raise RuntimeError(
            "events are located by looking at numbers, and their derivatives taken by "
            "torch.autograd, which torch.func transforms and forward mode hide from; "
            "solve with events outside of them"
        )
    return tuple(events)


def check_integrand(stepper: Stepper, events: Sequence[Event]) -> None:
    """Raises ValueError where an integral has no place beside the state."""
    if stepper.name in SYMPLECTIC_METHODS:
        raise ValueError(
            f"method {stepper.name!r} moves halves of the state by turns, and has no "
            "place for an integral beside them; use a Runge-Kutta or multistep method "
            "with an integrand"
        )
    if any(event.reset for event in events):
        raise ValueError(
            "an integrand goes on from run to run, and a reset would begin it anew; "
            "use events without resets, or make the integral part of the state"
        )


def chosen_stepper(
    term: Term,
    method: object,
    controller: Controller,
    noise: NoiseSource | None,
) -> Stepper:
    """The method asked for, fit for its term, controller and noise.

    Raises TypeError or ValueError where it is not.
    """
    if isinstance(term, ODETerm):
        if noise is not None:
            raise ValueError("noise is for an SDETerm; an ODETerm has none")
        stepper = (
            cast(Stepper, method)
            if hasattr(method, "step")
            else method_named(method, ODE_METHODS, "an ODETerm")
        )
        if isinstance(controller, PID):
            _check_adaptive(stepper, ODE_METHODS)
        return stepper
    if isinstance(method, str) and method in ODE_METHODS and method not in SDE_METHODS:
        raise ValueError(
            f"method {method!r} solves ODEs; for this SDETerm pass method as one of "
            f"{', '.join(methods_for(term))}"
        )
    sde_stepper = (
        method
        if isinstance(method, StochasticMethod)
        else SDE_METHODS[method_named(method, SDE_METHODS, "an SDETerm").name]
    )
    _check_fit(sde_stepper, term)
    if isinstance(controller, PID):
        _check_adaptive(sde_stepper, methods_for(term))
    _check_noise(noise, controller)
    adaptive = isinstance(controller, PID)
    return sde_stepper.adapted(term.noise) if adaptive else sde_stepper


def _check_adaptive(stepper: Stepper, methods: Mapping[str, Stepper]) -> None:
    if stepper.error_order is None:
        adaptive = [name for name, m in methods.items() if m.error_order is not None]
        if isinstance(stepper, McCallumFoster):
            raise ValueError(
                f"McCallumFoster({stepper.base!r}) has no error estimate to adapt by; "
                "pass controller=FixedSteps(step), or a base of "
                f"{', '.join(n for n in adaptive if n in EXPLICIT)}"
            )
        raise ValueError(
            f"method {stepper.name!r} has no error estimate to adapt steps by; pass "
            f"controller=FixedSteps(step), or a method of {', '.join(adaptive)}"
        )


def _check_noise(noise: object, controller: Controller) -> None:
    if noise is None:
        return
    if isinstance(noise, (int, Tensor)):
        try:
            check_seed(noise)
        except (TypeError, ValueError) as error:
            raise type(error)(f"noise is no seed: {error}") from None
        return
    if isinstance(noise, BrownianGrid):
        if isinstance(controller, PID):
            raise ValueError(
                "noise is a BrownianGrid, which needs steps that are known beforehand, "
                "but PID finds them; pass noise=seed or BrownianTree(...), or "
                "controller=FixedSteps(step)"
            )
        return
    if not all(hasattr(noise, name) for name in ("increment", "size", "t0", "t1")):
        raise TypeError(
            "noise must be a seed, BrownianGrid(seed), BrownianTree(...) or another "
            f"motion with increment(ta, tb, levy), size, t0 and t1, got {noise!r}"
        )


def check_mixing(term: SDETerm, structure: Structure) -> None:
    """Raises ValueError for a mixing of other rows than the state has entries."""
    mixing = term.mixing
    if mixing is None or term.matrix or mixing.shape[0] == structure.width:
        return
    raise ValueError(
        f"mixing has {mixing.shape[0]} rows for a state of {structure.width} entries; "
        "diagonal noise has a Brownian motion, and so a row, for each"
    )


def _check_fit(method: StochasticMethod, term: SDETerm) -> None:
    """Refuse a method that does not converge to the solution of a term."""
    same = term.interpretation in method.interpretations or term.noise == "additive"
    if same and term.noise in method.noises:
        return
    fits = methods_for(term)
    if not same:
        raise ValueError(
            f"method {method.name!r} converges to the "
            f"{' or '.join(method.interpretations)} solution, the term is "
            f"{term.interpretation}; use method {', '.join(fits)}, or convert the term "
            f"by term.to({method.interpretations[0]!r})"
        )
    raise ValueError(
        f"method {method.name!r} is for noise that is {' or '.join(method.noises)}, "
        f"the term has {term.noise} noise; use method {', '.join(fits)}"
    )
