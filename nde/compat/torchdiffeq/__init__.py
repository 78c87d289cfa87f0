"""torchdiffeq's functions, on the solvers of this package.

`odeint`, `odeint_adjoint`, `odeint_event` and `odeint_dense` take what those of
torchdiffeq 0.2.5 take and return what they return, so that code goes over with its
import changed. They differ where this is better:

- The last time is a step's end, not read off an interpolant that passes it; times
  between are read from the method's own interpolant. A step may also shrink after one
  that was accepted, and those of `dopri5` are judged by Dormand and Prince's own
  embedded solution.
- `adaptive_heun` and `fehlberg2` take every step from the derivative at its start,
  which costs one evaluation more per step; there they take a later stage of the step
  before, which is a derivative elsewhere.
- `explicit_adams`, `implicit_adams` and `fixed_adams` are of order 4, with weights for
  the grid as it lies, and evaluate after correcting once. `max_order` and `max_iters`
  are accepted and have no effect. `tsit5` exists, and is of order 5.
- `max_num_steps` counts steps attempted over the whole solve, and is a million where
  it is not given, and 100,000 until an event. `dtype` is accepted; time is float64.
- float32 resolves relative errors of 5e-7, and of 3e-6 with `dopri8`, which magnifies
  rounding: a smaller `rtol` is taken as that, silently.
- `odeint_adjoint` solves no equation backward. It repeats the steps of the solve, last
  one first, and gives the exact gradient of what was computed; the adjoint's
  tolerances, method and norm have no effect. Tensors outside `adjoint_params` get
  none. `callback_step_adjoint` and `callback_accept_step_adjoint` hear of each step
  repeated, by start, state and length. Under it `scipy_solver` has no gradient, and
  says so.
- Gradients to `t` are those of the solution, under fixed steps too, not of the grid.
- Fixed steps raise where the state stops being finite, and refuse a grid of more than
  ten million steps.
- An event is looked for over ever longer intervals until the steps are used up, or time
  is past any scale (10^12 times where it began, or 1), and its absence is an error that
  says so. Its time is found to rounding, on the method's interpolant also under fixed
  steps. Parameters of `event_fn` get gradients under `odeint_event`.
- `odeint_dense` takes any adaptive method, tuples, and several times at once.
- Where an assertion would fail there, the error here is an AssertionError and also says
  what it is: `InvalidInput` a ValueError, `SolveFailed` a `nde.solvers.SolveError`.
  Wrong shapes or types from `func` are a ValueError or TypeError that names it; a
  negative `rtol` and states of half precision are refused.
"""

from nde.compat.torchdiffeq.adjoint import odeint_adjoint
from nde.compat.torchdiffeq.events import odeint_event
from nde.compat.torchdiffeq.failure import InvalidInput, SolveFailed
from nde.compat.torchdiffeq.integrate import odeint, odeint_dense

__all__ = [
    "InvalidInput",
    "SolveFailed",
    "odeint",
    "odeint_adjoint",
    "odeint_dense",
    "odeint_event",
]
