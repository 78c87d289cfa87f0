"""Methods by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from nde.solvers.multistep import EXPLICIT_ADAMS, IMPLICIT_ADAMS, Adams
from nde.solvers.runge_kutta import ExplicitRungeKutta
from nde.solvers.stepper import Stepper
from nde.solvers.stochastic import STOCHASTIC, StochasticMethod
from nde.solvers.symplectic import Leapfrog, SemiImplicitEuler
from nde.solvers.tableaus import EXPLICIT
from nde.solvers.term import SDETerm

# For states that are a pair.
SYMPLECTIC_METHODS: Mapping[str, SemiImplicitEuler | Leapfrog] = {
    stepper.name: stepper for stepper in (SemiImplicitEuler(), Leapfrog())
}

# They go on from several steps before.
MULTISTEP_METHODS: Mapping[str, Adams] = {
    stepper.name: stepper for stepper in (EXPLICIT_ADAMS, IMPLICIT_ADAMS)
}

ODE_METHODS: Mapping[str, Stepper] = {
    **{name: ExplicitRungeKutta(tableau) for name, tableau in EXPLICIT.items()},
    **MULTISTEP_METHODS,
    **SYMPLECTIC_METHODS,
}

SDE_METHODS: Mapping[str, StochasticMethod] = STOCHASTIC


def methods_for(term: SDETerm) -> dict[str, StochasticMethod]:
    """The methods that converge to the solution of an SDE, by name."""
    return {
        name: method
        for name, method in SDE_METHODS.items()
        if term.noise in method.noises
        and (term.interpretation in method.interpretations or term.noise == "additive")
    }


def method_named(name: object, methods: Mapping[str, Stepper], kind: str) -> Stepper:
    """The method of that name; ValueError with the nearest names if there is none."""
    if isinstance(name, str) and name in methods:
        return methods[name]
    near = difflib.get_close_matches(str(name), methods, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"method {name!r} is not known for {kind}{hint} (methods: {', '.join(methods)})"
    )
