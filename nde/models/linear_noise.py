"""The linear-noise SDE: noise in proportion to the state.

Oh, Lim, Kim, *Stable Neural Stochastic Differential Equations in Analyzing Irregular
Time Series Data*, ICLR 2024; `nde.models.sde` tells what the two forms are.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from nde.layers.diffusion import Sigma
from nde.models.output import LayerOutput, integrate
from nde.models.sde import (
    Form,
    SharedNoise,
    check_form,
    controlled_term,
    interpretation_of,
    make_drift,
    make_noise,
    proportional_half_slope,
    proportional_noise,
    solver_for,
)
from nde.models.settings import SolverSettings
from nde.models.stability import Equation, StabilityReport, check_data, report
from nde.regularizers import AnyRegularizer
from nde.solvers import SDETerm
from nde.solvers.brownian import Seed
from nde.solvers.path import Path
from nde.solvers.term import Interpretation


class LinearNoiseSDE(nn.Module):
    """dz = gamma(t, zeta(z, X(t))) dt + sigma(t) z dW, elementwise.

    With scalar noise, and gamma Lipschitz in z with constant L, two solutions under one
    Brownian motion approach almost surely, at the rate sigma^2 / 2 - L or faster. With
    a Brownian motion per dimension that no longer holds: the effect fades as dimensions
    are added, and where the drift turns the state the noise can drive solutions apart.
    Mean distances do not shrink either way. `stability_report` measures it.

    Args:
        channels: channels of the control path.
        hidden: size of the state.
        width: size of the hidden layers; None is `hidden`.
        layers: hidden layers of the drift.
        form: "paper" or "runtime" (drift tanh(r), diffusion tanh(sigma z)).
        noise: "diagonal" (a Brownian motion and a size per dimension) or "scalar" (one
            Brownian motion for the whole state; in the paper form one size too).
        sigma: "softplus" or "signed"; paper form only.
        bounded: end the drift in a scaled tanh.
        solver: method and step. The paper form is by default solved by
            "linear_splitting", whose noise part is exact at any step; "euler" and
            "heun" lose the stability at large steps. The runtime form takes "euler"
            (its default) or "heun".
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
        noise: SharedNoise = "diagonal",
        sigma: Sigma = "softplus",
        bounded: bool = True,
        solver: SolverSettings | None = None,
        regularizers: Sequence[AnyRegularizer] = (),
    ) -> None:
        super().__init__()
        check_form(form, noise)
        width = hidden if width is None else width
        self.channels = channels
        self.hidden, self.form, self.noise = hidden, form, noise
        self.solver = solver_for(solver, linear=form == "paper")
        self.regularizers = tuple(regularizers)
        self.initial = nn.Linear(channels, hidden)
        self.gamma = make_drift(
            form,
            hidden,
            channels,
            width=width,
            layers=layers,
            timed=True,
            bounded=bounded,
        )
        sizes = 1 if (form, noise) == ("paper", "scalar") else hidden
        self.sigma = make_noise(form, sizes, width=width, sigma=sigma)

    def drift(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Ito drift `(batch, hidden)` at state z and control value x."""
        out: Tensor = self.gamma(t, z, x)
        return out

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Noise size `(batch, hidden)`, zero at z = 0."""
        return proportional_noise(self.form, self.sigma(t), z)

    def half_slope(self, t: Tensor, z: Tensor) -> Tensor:
        """Ito less Stratonovich drift, `(batch, hidden)`."""
        return proportional_half_slope(self.form, self.sigma(t), z)

    def term(self, path: Path, interpretation: Interpretation = "ito") -> SDETerm:
        """The equation driven by `path`."""
        return controlled_term(
            self.drift,
            self.diffusion,
            self.half_slope,
            path,
            noise=self.noise,
            interpretation=interpretation,
        )

    def stability_report(
        self,
        path: Path,
        ts: Tensor,
        *,
        seed: int = 0,
        pairs: int = 64,
        delta: float = 1e-3,
    ) -> StabilityReport:
        """Predicted and measured contraction along `path` at times `ts`.

        Distances of z under one Brownian motion, in the median, not in the mean.
        Arguments and errors are those of `nde.models.stability.report`, and errors of
        data that do not fit those of its `check_data`.
        """
        check_data(path, ts, self.initial)
        equation = Equation(
            name=f"LinearNoiseSDE, {self.form} form, {self.noise} noise",
            space="z",
            kind="linear" if self.form == "paper" else "other",
            ito=self.term(path),
            solved=self.term(path, interpretation_of(self.solver)),
            start=self.initial(path.evaluate(ts[..., 0])),
            sizes=self.sigma(ts.to(self.initial.weight.dtype)),
        )
        return report(equation, ts, self.solver, seed=seed, pairs=pairs, delta=delta)

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
