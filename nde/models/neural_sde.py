"""The plain neural SDE, without the structure of the stable ones: a baseline."""

from collections.abc import Sequence

from torch import Tensor, nn

from nde.layers import RuntimeStateNoise, StateNoise
from nde.models.output import LayerOutput, integrate
from nde.models.sde import (
    Form,
    check_form,
    controlled_term,
    interpretation_of,
    make_drift,
    solver_for,
)
from nde.models.settings import SolverSettings
from nde.regularizers import AnyRegularizer
from nde.solvers import SDETerm
from nde.solvers.brownian import Seed
from nde.solvers.path import Path
from nde.solvers.term import Interpretation


class NeuralSDE(nn.Module):
    """dz = f(t, z) dt + g(t, z) dW with diagonal noise and free networks f and g.

    By default it sees the control path only at the first time, through its initial
    state, as the baseline of Oh, Lim, Kim (2024) does: what comes later in a series
    cannot reach it. `controlled=True` lets the drift be f(t, z, X(t)), which is the
    fair comparison with the stable forms.

    Args:
        channels: channels of the control path.
        hidden: size of the state.
        width: size of the hidden layers; None is `hidden`.
        layers: hidden layers of the drift.
        form: "paper" (smooth networks, softplus noise) or "runtime" (relu networks,
            tanh around both, sin and cos of time).
        controlled: whether the drift sees the control path.
        bounded: end the drift in a scaled tanh; "runtime" always bounds it.
        solver: "euler" or "heun" and a step.
        regularizers: penalties on the solve, computed in training mode.

    Raises:
        ValueError: a size below 1 or an unknown option.
    """

    stochastic = True

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        width: int | None = None,
        layers: int = 2,
        form: Form = "paper",
        controlled: bool = False,
        bounded: bool = True,
        solver: SolverSettings | None = None,
        regularizers: Sequence[AnyRegularizer] = (),
    ) -> None:
        super().__init__()
        check_form(form, "diagonal")
        width = hidden if width is None else width
        self.channels = channels
        self.hidden, self.form, self.controlled = hidden, form, controlled
        # Others adapt steps only if a dimension's noise depends on that alone.
        self.solver = solver_for(solver, linear=False, adaptive="lamba_em")
        self.regularizers = tuple(regularizers)
        self.initial = nn.Linear(channels, hidden)
        self.f = make_drift(
            form,
            hidden,
            channels if controlled else 0,
            width=width,
            layers=layers,
            timed=True,
            bounded=bounded,
        )
        noise = StateNoise if form == "paper" else RuntimeStateNoise
        self.g = noise(hidden, width=width)

    def drift(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Ito drift `(batch, hidden)`; x is not looked at unless controlled."""
        out: Tensor = self.f(t, z, x if self.controlled else None)
        return out

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Noise size `(batch, hidden)`."""
        out: Tensor = self.g(t, z)
        return out

    def half_slope(self, t: Tensor, z: Tensor) -> Tensor:
        """Ito less Stratonovich drift, `(batch, hidden)`."""
        return self.g.half_slope(t, z)

    def term(self, path: Path, interpretation: Interpretation = "ito") -> SDETerm:
        """The equation driven by `path`."""
        return controlled_term(
            self.drift,
            self.diffusion,
            self.half_slope,
            path,
            noise="diagonal",
            interpretation=interpretation,
        )

    def forward(
        self, path: Path, ts: Tensor, *, seed: Seed | None = None, progress: float = 0.0
    ) -> LayerOutput:
        """Solve along `path` at times `ts`, `(T,)` or `(batch, T)`."""
        return integrate(
            self.term(path, interpretation_of(self.solver)),
            self.initial(path.evaluate(ts[..., 0])),
            ts,
            settings=self.solver,
            regularizers=self.regularizers if self.training else (),
            seed=seed,
            progress=progress,
        )
