"""The Langevin SDE: drift without time, noise without state.

Oh, Lim, Kim, *Stable Neural Stochastic Differential Equations in Analyzing Irregular
Time Series Data*, ICLR 2024; `nde.models.sde` tells what the two forms are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nde.layers import PotentialDrift
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
    solver_for,
)
from nde.models.settings import SolverSettings
from nde.models.stability import Equation, StabilityReport, check_data, report
from nde.regularizers import AnyRegularizer
from nde.solvers import SDETerm
from nde.solvers.brownian import Seed
from nde.solvers.path import Path
from nde.solvers.term import Interpretation


class LangevinSDE(nn.Module):
    """dz = gamma(zeta(z, X(t))) dt + sigma(t) dW, a neural Langevin equation.

    The drift has no time of its own and the noise does not see the state, so two
    solutions under one Brownian motion differ by a solution of an ODE. Ito and
    Stratonovich coincide; the Euler method has strong order 1.

    Args:
        channels: channels of the control path.
        hidden: size of the state.
        width: size of the hidden layers; None is `hidden`.
        layers: hidden layers of the drift.
        form: "paper" or "runtime" (drift tanh(r), diffusion tanh(sigma)).
        noise: "diagonal" (a Brownian motion per dimension) or "scalar" (one for all,
            along the vector sigma(t)).
        sigma: "softplus" or "signed"; paper form only.
        bounded: end the drift in a scaled tanh; an unbounded drift can be dissipative.
        potential: let the drift be -grad_z U(z, X) of a learned potential, which is
            `layer.gamma.energy`; dissipative, never bounded, paper form only. With X
            and sigma at rest the state then has a Gibbs law (`PotentialDrift`).
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
        noise: SharedNoise = "diagonal",
        sigma: Sigma = "softplus",
        bounded: bool = True,
        potential: bool = False,
        solver: SolverSettings | None = None,
        regularizers: Sequence[AnyRegularizer] = (),
    ) -> None:
        super().__init__()
        check_form(form, noise)
        width = hidden if width is None else width
        self.channels = channels
        self.hidden, self.form, self.noise = hidden, form, noise
        self.solver = solver_for(solver, linear=False)
        self.regularizers = tuple(regularizers)
        self.initial = nn.Linear(channels, hidden)
        if potential and form != "paper":
            raise ValueError("potential=True is for form='paper', got form='runtime'")
        self.gamma = (
            PotentialDrift(hidden, channels, width=width, layers=layers)
            if potential
            else make_drift(
                form,
                hidden,
                channels,
                width=width,
                layers=layers,
                timed=False,
                bounded=bounded,
            )
        )
        self.sigma = make_noise(form, hidden, width=width, sigma=sigma)

    def drift(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Drift `(batch, hidden)` at state z and control value x."""
        out: Tensor = self.gamma(t, z, x)
        return out

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Noise size `(batch, hidden)`, the same for every z."""
        size: Tensor = self.sigma(t)
        return (size if self.form == "paper" else torch.tanh(size)).expand_as(z)

    def term(self, path: Path, interpretation: Interpretation = "ito") -> SDETerm:
        """The equation driven by `path`."""
        return controlled_term(
            self.drift,
            self.diffusion,
            None,
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

        Distances of z under one Brownian motion; the bound is the drift's alone.
        Arguments and errors are those of `nde.models.stability.report`, and errors of
        data that do not fit those of its `check_data`.
        """
        check_data(path, ts, self.initial)
        sizes: Tensor = self.sigma(ts.to(self.initial.weight.dtype))
        equation = Equation(
            name=f"LangevinSDE, {self.form} form, {self.noise} noise",
            space="z",
            kind="additive",
            ito=self.term(path),
            solved=self.term(path, interpretation_of(self.solver)),
            start=self.initial(path.evaluate(ts[..., 0])),
            sizes=sizes if self.form == "paper" else torch.tanh(sizes),
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
