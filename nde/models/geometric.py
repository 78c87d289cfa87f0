"""The geometric SDE: drift and noise in proportion to the state.

Oh, Lim, Kim, *Stable Neural Stochastic Differential Equations in Analyzing Irregular
Time Series Data*, ICLR 2024; `nde.models.sde` tells what the two forms are.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from nde.layers.diffusion import Sigma
from nde.layers.drift import GeometricDrift
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

# Below this size a geometric state would start, and then stay, numerically at zero.
SMALLEST_START = 1e-4


class GeometricSDE(nn.Module):
    """dz / z = gamma(t, zeta(z, X(t))) dt + sigma(t) dW, elementwise.

    No entry ever changes sign and 0 absorbs. The paper form is integrated as
    u = log |z|, du = (gamma - sigma^2 / 2) dt + sigma dW: the sign is exact at any
    step, the noise additive, the Euler method of strong order 1, and Ito and
    Stratonovich coincide. gamma is bounded, without which z gamma may explode, and the
    start is moved to |z| >= 1e-4.

    The runtime form keeps neither sign nor, with `gsde_drift="one_minus_sigmoid"`, the
    zero.

    Args:
        channels: channels of the control path.
        hidden: size of the state.
        width: size of the hidden layers; None is `hidden`.
        layers: hidden layers of the drift.
        form: "paper" or "runtime" (drift tanh(r tanh z) or tanh(r (1 - sigmoid z)),
            diffusion tanh(sigma z)).
        noise: "diagonal" (a Brownian motion and a size per dimension) or "scalar" (one
            Brownian motion for the whole state; in the paper form one size too).
        sigma: "softplus" or "signed"; paper form only.
        gsde_drift: "tanh" (None is this) or "one_minus_sigmoid"; runtime form only.
        solver: "euler" or "heun" and a step.
        regularizers: penalties on the solve, computed in training mode; in the paper
            form of u.

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
        gsde_drift: GeometricDrift | None = None,
        solver: SolverSettings | None = None,
        regularizers: Sequence[AnyRegularizer] = (),
    ) -> None:
        super().__init__()
        check_form(form, noise)
        if form == "runtime" and gsde_drift is None:
            gsde_drift = "tanh"
        width = hidden if width is None else width
        self.channels = channels
        self.hidden, self.form, self.noise = hidden, form, noise
        self.solver = solver_for(solver, linear=False)
        self.regularizers = tuple(regularizers)
        self.initial = nn.Linear(channels, hidden)
        self.gamma = make_drift(
            form,
            hidden,
            channels,
            width=width,
            layers=layers,
            timed=True,
            bounded=True,
            geometric=gsde_drift,
        )
        sizes = 1 if (form, noise) == ("paper", "scalar") else hidden
        self.sigma = make_noise(form, sizes, width=width, sigma=sigma)

    def drift(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Ito drift of z, `(batch, hidden)`, at state z and control value x."""
        out: Tensor = self.gamma(t, z, x)
        return z * out if self.form == "paper" else out

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Noise size of z, `(batch, hidden)`, zero at z = 0."""
        return proportional_noise(self.form, self.sigma(t), z)

    def half_slope(self, t: Tensor, z: Tensor) -> Tensor:
        """Ito less Stratonovich drift of z, `(batch, hidden)`."""
        return proportional_half_slope(self.form, self.sigma(t), z)

    def term(self, path: Path, interpretation: Interpretation = "ito") -> SDETerm:
        """The equation of z driven by `path`."""
        return controlled_term(
            self.drift,
            self.diffusion,
            self.half_slope,
            path,
            noise=self.noise,
            interpretation=interpretation,
        )

    def log_term(
        self, path: Path, sign: Tensor, interpretation: Interpretation = "ito"
    ) -> SDETerm:
        """The equation of u = log |z| for z of the given sign; paper form only.

        Ito's formula with d(log z)/dz = 1/z, second derivative -1/z^2 and
        (sigma z)^2 gives the drift gamma - sigma^2 / 2. The noise does not depend on
        u, so the equation is the same in both interpretations.
        """

        def drift(t: Tensor, u: Tensor, x: Tensor) -> Tensor:
            gamma: Tensor = self.gamma(t, sign * torch.exp(u), x)
            size: Tensor = self.sigma(t)
            return gamma - 0.5 * size**2

        def diffusion(t: Tensor, u: Tensor) -> Tensor:
            size: Tensor = self.sigma(t)
            return size.expand_as(u)

        return controlled_term(
            drift,
            diffusion,
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

        In the paper form distances of log |z|, where the noise is additive: z itself
        comes nearer only as far as |z| does not grow. In the runtime form of z.
        Arguments and errors are those of `nde.models.stability.report`, and errors of
        data that do not fit those of its `check_data`.
        """
        check_data(path, ts, self.initial)
        interpretation = interpretation_of(self.solver)
        start, sign = self._start(path, ts)
        logs = self.form == "paper"
        equation = Equation(
            name=f"GeometricSDE, {self.form} form, {self.noise} noise",
            space="log |z|" if logs else "z",
            kind="additive" if logs else "other",
            ito=self.log_term(path, sign) if logs else self.term(path),
            solved=(
                self.log_term(path, sign, interpretation)
                if logs
                else self.term(path, interpretation)
            ),
            start=start,
            sizes=self.sigma(ts.to(start.dtype)),
        )
        return report(equation, ts, self.solver, seed=seed, pairs=pairs, delta=delta)

    def _start(self, path: Path, ts: Tensor) -> tuple[Tensor, Tensor]:
        """Start of what is solved, log |z| or z, and the sign of z."""
        z: Tensor = self.initial(path.evaluate(ts[..., 0]))
        sign = torch.where(z < 0, -1.0, 1.0).to(z.dtype)
        if self.form == "paper":
            return z.abs().clamp(min=SMALLEST_START).log(), sign
        return z, sign

    def forward(
        self, path: Path, ts: Tensor, *, seed: Seed | None = None, progress: float = 0.0
    ) -> LayerOutput:
        """Solve along `path` at times `ts`, `(T,)` or `(batch, T)`."""
        interpretation = interpretation_of(self.solver)
        start, sign = self._start(path, ts)
        logs = self.form == "paper"
        term = (
            self.log_term(path, sign, interpretation)
            if logs
            else self.term(path, interpretation)
        )
        out = integrate(
            term,
            start,
            ts,
            settings=self.solver,
            regularizers=self.regularizers if self.training else (),
            seed=seed,
            progress=progress,
        )
        if not logs:
            return out
        ys = sign.unsqueeze(1) * torch.exp(out.ys)
        return replace(out, ys=ys, final=sign * torch.exp(out.final))
