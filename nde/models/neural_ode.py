"""Neural ODEs: a layer around any vector field, and one that follows a control path."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from nde.layers import Drift
from nde.models.output import LayerOutput, integrate
from nde.models.settings import SolverSettings
from nde.regularizers import AnyRegularizer
from nde.solvers import ODETerm
from nde.solvers.brownian import Seed
from nde.solvers.path import Path
from nde.solvers.state import State


class NeuralODE(nn.Module):
    """dy/dt = field(t, y), or field(t, y, X(t)) along a control path.

    Args:
        field: module or function; t is 0-dim or `(batch,)`, y and the result share
            structure and shapes, X(t) is `(batch, channels)`.
        solver: ODE method, step or tolerances, adjoint.
        regularizers: penalties on the solve, computed in training mode, and movers of
            its end.

    Raises:
        TypeError: a field that cannot be called.
        ValueError: settings that do not solve an ODE.
    """

    def __init__(
        self,
        field: Callable[..., State],
        *,
        solver: SolverSettings | None = None,
        regularizers: Sequence[AnyRegularizer] = (),
    ) -> None:
        super().__init__()
        if not callable(field):
            raise TypeError(
                f"field must be callable as field(t, y), got {type(field).__name__}"
            )
        self.field = field
        self.solver = (solver or SolverSettings()).for_ode()
        self.regularizers = tuple(regularizers)
        # Known as parts of this module where they have parameters.
        self.learned_regularizers = nn.ModuleList(
            one for one in self.regularizers if isinstance(one, nn.Module)
        )

    def forward(
        self, y0: State, ts: Tensor, *, path: Path | None = None, progress: float = 0.0
    ) -> LayerOutput:
        """Solve from `y0` at times `ts`.

        Args:
            y0: initial state, leaves `(batch, ...)`.
            ts: output times `(T,)` or `(batch, T)`, the first where `y0` holds.
            path: control path; with it the field is called as field(t, y, X(t)).
            progress: done part of the training, for the regularizers' weights.

        Returns:
            `LayerOutput`, `ys` with leaves `(batch, T, ...)`.
        """

        def along(t: Tensor, y: State) -> State:
            assert path is not None
            return self.field(t, y, path.evaluate(t))

        return integrate(
            ODETerm(self.field if path is None else along),
            y0,
            ts,
            settings=self.solver,
            regularizers=self.regularizers if self.training else (),
            progress=progress,
        )


class ControlledODE(nn.Module):
    """dz/dt = f(t, z, X(t)) from an affine map of X(t0).

    The neural ODE that reads a series: the stable SDE layers without noise.

    Args:
        channels: channels of the control path.
        hidden: size of the state.
        width: size of the hidden layers; None is `hidden`.
        layers: hidden layers of the field.
        bounded: end the field in a scaled tanh.
        solver: ODE method, step or tolerances, adjoint.
        regularizers: penalties on the solve, computed in training mode.

    Raises:
        ValueError: a size below 1 or settings that do not solve an ODE.
    """

    stochastic = False

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        width: int | None = None,
        layers: int = 2,
        bounded: bool = True,
        solver: SolverSettings | None = None,
        regularizers: Sequence[AnyRegularizer] = (),
    ) -> None:
        super().__init__()
        width = hidden if width is None else width
        self.channels, self.hidden = channels, hidden
        self.initial = nn.Linear(channels, hidden)
        self.ode = NeuralODE(
            Drift(hidden, channels, width=width, layers=layers, bounded=bounded),
            solver=solver,
            regularizers=regularizers,
        )

    def forward(
        self, path: Path, ts: Tensor, *, seed: Seed | None = None, progress: float = 0.0
    ) -> LayerOutput:
        """Solve along `path` at times `ts`, `(T,)` or `(batch, T)`.

        `seed` is taken, as by every series layer, and has no effect: nothing is drawn.
        """
        out: LayerOutput = self.ode(
            self.initial(path.evaluate(ts[..., 0])), ts, path=path, progress=progress
        )
        return out
