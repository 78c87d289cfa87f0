"""Backsolve: the adjoint equation, solved backward in place of the solver's steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from nde.solvers.adjoint.back_ode import BackODE, tolerances_of
from nde.solvers.adjoint.back_sde import BackSDE
from nde.solvers.adjoint.backward import ended_early
from nde.solvers.adjoint.captured import Captured
from nde.solvers.adjoint.forward import find_steps
from nde.solvers.adjoint.node import Node, outcome_of
from nde.solvers.adjoint.outcome import Outcome
from nde.solvers.adjoint.recompute import Recompute
from nde.solvers.bound import BoundSDE
from nde.solvers.controller import PID, Controller, FixedSteps, StepTo
from nde.solvers.methods import ODE_METHODS, method_named
from nde.solvers.problem import Problem
from nde.solvers.runge_kutta import ExplicitRungeKutta
from nde.solvers.schedule import Schedule, replay_of
from nde.solvers.stepper import Stepper
from nde.solvers.term import ODETerm, Term
from nde.solvers.types import Status


@dataclass(frozen=True)
class Backsolve:
    """Approximate gradients, with the memory of the outputs.

    The gradient a of the state of an ODE obeys a' = -(df/dy)^T a, that of an SDE
    da = -(df/dy)^T a dt - (dg/dy)^T a o dB. The backward pass solves this together with
    the state and the gradients of captured tensors, and sets the state to the stored
    one at each output, where it adds the output's gradient to a. What results is not
    the gradient of the computed solution, but nears it with the tolerance, or the
    step; where the equation contracts, the state solved backward leaves the one solved
    forward. Prefer `Recompute`, or where memory is short `Reversible`. Statistics of
    the solver are no part of the equation and have no gradient: RuntimeError. No double
    backward.

    For an ODE the way back has steps of its own, in each sample its own, from output to
    output. Each stage takes a call and two vector-Jacobian products, and another call
    where a sample rests or its step is rejected. Errors are judged by y and a alone,
    since the gradients of parameters feed nothing back (Kidger, Chen and Lyons, *"Hey,
    that's not an ODE": faster ODE adjoints via seminorms*, 2021). The forward steps
    land on outputs and probe times. One warning is given if the state solved backward
    misses a stored one by more than 100 tolerances; where it does not get there, within
    `max_steps` from the one before, `SolveError` is raised. Not with `dense=True` where
    gradients are on. Chen, Rubanova, Bettencourt and Duvenaud, *Neural ordinary
    differential equations* (2018), appendix B.

    For an SDE, in the Stratonovich sense or with additive noise, Heun's method goes
    back over the steps of the forward pass, their Brownian increments reversed: two
    calls of drift and diffusion and two vector-Jacobian products for each. Brownian
    increments of the steps are kept. Li, Wong, Chen and Duvenaud, *Scalable gradients
    for stochastic differential equations* (2020), section 3; Kidger, *On neural
    differential equations* (2021), chapter 5, for how it compares.

    Where samples fail (`throw=False`), which have no way back, or a grid ends at
    events, the solve is that of `Recompute`. Tensors that get gradients: as there.

    Args:
        parameters: the only tensors besides y0 and ts that get gradients; None finds
            those that the term uses.
        method: for the way back of an ODE, an explicit Runge-Kutta method by name or
            as a `Stepper`. None is the forward one.
        controller: for the way back of an ODE, with tolerances of its own, which
            measure y and a alike: an `atol` far above the gradients asks nothing of
            them. None is the forward one; one without `jump_t` takes that of the
            forward one. An adaptive one lets the field see a time for each sample also
            on a forward grid.
    """

    parameters: tuple[Tensor, ...] | None = None
    method: str | Stepper | None = None
    controller: Controller | None = None

    def check(self, term: Term, stepper: Stepper, controller: Controller) -> None:
        """Raises TypeError or ValueError for what it cannot solve backward."""
        if isinstance(term, ODETerm):
            self._way_back(stepper, controller)
            return
        if self.method is not None or self.controller is not None:
            raise ValueError(
                "adjoint=Backsolve(method=..., controller=...) is for an ODETerm; the "
                "way back of an SDETerm is Heun's method over the forward steps: "
                "leave both out"
            )
        if term.interpretation == "ito" and term.noise != "additive":
            raise ValueError(
                "adjoint=Backsolve() solves Stratonovich equations backward, got an "
                f"Ito term with {term.noise} noise; convert it by "
                "term.to('stratonovich'), or use adjoint=Recompute()"
            )

    def run(
        self,
        problem: Problem,
        plan: Schedule | None,
        carry: tuple[Tensor, ...],
        captured: Captured,
    ) -> Outcome:
        """Solve with gradients to `problem.y0` and to the captured tensors.

        Raises ValueError for an ODE that is to be kept dense, or tolerances that do
        not fit the state.
        """
        ordinary = not isinstance(problem.term, BoundSDE)
        if ordinary and problem.dense:
            raise ValueError(
                "dense=True with adjoint=Backsolve(): the adjoint equation has to know "
                "when something is read before it is solved; put the times in ts or "
                "probe_times, or use adjoint=Recompute()"
            )
        if ordinary:
            method, controller = self._way_back(problem.stepper, problem.controller)
            tolerances = tolerances_of(controller, method, problem)
        stored = Recompute(self.parameters)
        if plan is not None and ended_early(problem, plan):
            return stored.run(problem, plan, carry, captured)
        stateless = replace(problem, keep=False, keep_motion=not ordinary)
        tape = find_steps(stateless, plan, carry)
        ended = (tape.status == Status.SUCCESS) | (tape.status == Status.EVENT)
        if plan is None and not bool(ended.all()):
            return stored.run(problem, plan, carry, captured)
        back: BackODE | BackSDE
        if ordinary:
            back = BackODE(problem, tape, captured, method, controller, tolerances)
        else:
            steps = replay_of(tape) if plan is None else plan
            back = BackSDE(problem, tape, steps, captured)
        return outcome_of(_Backsolve, back)

    def _way_back(
        self, stepper: Stepper, controller: Controller
    ) -> tuple[ExplicitRungeKutta, Controller]:
        """Method and controller of an ODE's way back; TypeError or ValueError."""
        method: object = stepper if self.method is None else self.method
        own = controller if self.controller is None else self.controller
        if isinstance(method, str) and method in ODE_METHODS:
            method = ODE_METHODS[method]
        elif not hasattr(method, "step"):
            # Only what is not refused below either.
            fits: dict[str, Stepper] = {
                name: known
                for name, known in ODE_METHODS.items()
                if isinstance(known, ExplicitRungeKutta)
                and not (isinstance(own, PID) and known.error_order is None)
            }
            method = method_named(method, fits, "the way back of Backsolve")
        if not isinstance(method, ExplicitRungeKutta):
            shown = getattr(method, "name", method)
            raise ValueError(
                "adjoint=Backsolve() goes back by an explicit Runge-Kutta method, got "
                f"{shown!r}; name one, as in Backsolve(method='tsit5')"
            )
        if not isinstance(own, (PID, FixedSteps, StepTo)):
            raise TypeError(
                "the controller of adjoint=Backsolve(controller=...) must be PID(...), "
                f"FixedSteps(step) or StepTo(times), got {own!r}"
            )
        if own.jump_t is None:
            own = replace(own, jump_t=controller.jump_t)
        if isinstance(own, PID):
            if method.error_order is None:
                raise ValueError(
                    f"adjoint=Backsolve() goes back by method {method.name!r}, which "
                    "has no error estimate to adapt steps by; give it "
                    "controller=FixedSteps(step), or another method"
                )
            if own.classical:
                own = own.for_method(method.gains)
        return method, own


class _Backsolve(Node):
    """The solve as one node of the graph."""
