"""torchsde's functions and Brownian motions, on the solvers of this package.

`sdeint`, `sdeint_adjoint`, `BrownianInterval`, `BrownianPath`, `BrownianTree` and the
base classes take what those of torchsde 0.2.6 take and return what they return, so that
code goes over with its import changed. Brownian motions go both ways: those of torchsde
drive solves here, and those here drive solves there. They differ where this is better:

- Steps end at the times in `ts`; each interval between two is cut into equal steps,
  none longer than `dt`. There, states between steps are interpolated linearly, which
  takes variance from them. Where `ts` are multiples of `dt` the steps are the same.
- A path depends on `entropy` alone, not on the times or the order of the questions, and
  is the same on all devices, to rounding. No path is that of torchsde for the same
  entropy. Seeds that are not given come from torch's generator, not from numpy's.
  `entropy` may be a list with a seed for each entry of the first axis. A motion asked
  at a single time does not warn, nor at its ends.
- `srk` is another of Rossler's methods of order 1.5, with fewer evaluations; with
  additive noise it is the same. `milstein` also takes general noise; its `grad_free`
  form for Stratonovich equations looks along the noise, g W. `log_ode` asks for Levy
  areas with general noise alone.
- Derivatives of the diffusion are taken in forward mode, or for Milstein's method with
  diagonal noise of an Ito equation from the graph of its call. An SDE may define any of
  `g`, `f_and_g`, `g_prod` and `f_and_g_prod` with any method; a matrix that is known by
  its products alone is asked for column by column.
- `logqp` is finite where the diffusion is zero and the drifts agree. With diagonal
  noise `bm` may have as many channels as the state, or one more.
- `sdeint_adjoint` solves no equation backward. It repeats the steps of the solve, last
  one first, and gives the exact gradient of what was computed, for every method; of
  `adjoint_method` only "adjoint_reversible_heun" has an effect, to keep no states, and
  the other `adjoint_*` have none. It has no second derivatives; use `sdeint`.
- Adaptive steps are those of `nde.solvers.solve`, by an estimate of one step, not by
  three; a step of `dt_min` that is too inaccurate is an error. With diagonal noise
  whose entries depend on each other, "euler", "midpoint" and their like adapt; "srk"
  and "milstein" are refused, which would converge to another equation's solution.
- What is not finite ends a solve with `nde.solvers.SolveError`, which names the time.
  Unknown arguments are a TypeError, a `bm` that ends before `ts` and a `dt` that is not
  positive a ValueError, a missing `h` one that is an AttributeError too, and additive
  noise that depends on y a ValueError.
"""

from nde.compat.torchsde.adjoint import sdeint_adjoint
from nde.compat.torchsde.base import BaseSDE, SDEIto, SDEStratonovich
from nde.compat.torchsde.brownian import BaseBrownian, ReverseBrownian
from nde.compat.torchsde.derived import BrownianPath, BrownianTree
from nde.compat.torchsde.integrate import sdeint
from nde.compat.torchsde.interval import BrownianInterval, brownian_interval_like

__all__ = [
    "BaseBrownian",
    "BaseSDE",
    "BrownianInterval",
    "BrownianPath",
    "BrownianTree",
    "ReverseBrownian",
    "SDEIto",
    "SDEStratonovich",
    "brownian_interval_like",
    "sdeint",
    "sdeint_adjoint",
]
