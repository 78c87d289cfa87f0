"""Stability reports against equations whose exponents are known."""

import math
from typing import Any

import pytest
import torch
from models.series import Constant, Flat, Matrix, Pull, constant_path, random_path
from torch import Tensor, nn

from nde.models import (
    GeometricSDE,
    LangevinSDE,
    LinearNoiseSDE,
    SolverSettings,
    StabilityReport,
)
from nde.solvers.control import HermiteCubic

CPU = torch.device("cpu")


def reported(
    layer: Any, end: float, batch: int = 64, times: int = 3, **to: Any
) -> StabilityReport:
    """A report in double precision from starts scattered by the identity."""
    layer = layer.double()
    with torch.no_grad():
        layer.initial.weight.copy_(torch.eye(layer.hidden))
        layer.initial.bias.fill_(1.0)
    generator = torch.Generator().manual_seed(3)
    z0 = torch.randn(batch, layer.hidden, generator=generator, dtype=torch.float64)
    ts = torch.linspace(0, end, times, dtype=torch.float64)
    report: StabilityReport = layer.stability_report(constant_path(z0, end), ts, **to)
    return report


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_langevin_distance_is_eulers_power(noise: str) -> None:
    """One-sided Lipschitz number m = -a, measured log(1 - a h) / h."""
    layer = LangevinSDE(4, 4, noise=noise, solver=SolverSettings(step=0.1))  # type: ignore[arg-type]
    layer.gamma, layer.sigma = Pull(-1.3), Constant(0.4, 4)
    report = reported(layer, 2.0)
    for number in (report.lipschitz, report.lipschitz_mean, report.predicted):
        assert number == pytest.approx(-1.3, abs=1e-9)
    assert report.measured == pytest.approx(math.log(1 - 0.13) / 0.1, abs=1e-6)
    assert (report.sigma_least, report.sigma_most) == (0.4, 0.4)
    assert report.pairs == 64 and not report.floored
    assert report.verdict.startswith("Contracting")
    assert "nearby solutions approach" in report.verdict


def test_the_lipschitz_number_is_one_sided() -> None:
    """A rotation is as large as it likes; its symmetric part counts."""
    matrix = torch.tensor([[-0.5, 9.0], [-9.0, -0.2]])
    layer = LangevinSDE(2, 2, solver=SolverSettings(step=0.01))
    layer.gamma, layer.sigma = Matrix(matrix), Constant(0.1, 2)
    report = reported(layer, 1.0)
    assert report.lipschitz == pytest.approx(-0.2, abs=1e-6)


def test_the_lipschitz_number_is_taken_along_the_data() -> None:
    """Against the Jacobian of the layer's drift, taken another way, at the states."""
    torch.manual_seed(0)
    layer = LangevinSDE(3, 4).double()
    path = random_path(5, 3, device=CPU)
    ts = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    report = layer.stability_report(path, ts, seed=2)
    states = layer(path, ts, seed=2).ys.detach()
    values = []
    for k, t in enumerate(ts):
        x = path.evaluate(t)
        for i in range(5):

            def one(z: Tensor, t: Tensor = t, row: Tensor = x[i : i + 1]) -> Tensor:
                return layer.drift(t, z[None], row)[0]

            jacobian = torch.autograd.functional.jacobian(one, states[i, k])
            values.append(torch.linalg.eigvalsh((jacobian + jacobian.T) / 2)[-1])
    assert report.lipschitz == pytest.approx(max(v.item() for v in values))
    assert report.lipschitz_mean == pytest.approx(torch.stack(values).mean().item())
    sizes = layer.sigma(ts)
    assert report.sigma_least == pytest.approx(sizes.min().item())
    assert report.sigma_most == pytest.approx(sizes.max().item())


def linear(
    matrix: Tensor, noise: str, step: float = 0.02, method: str | None = None
) -> LinearNoiseSDE:
    hidden = len(matrix)
    settings = SolverSettings(step=step, method=method)
    layer = LinearNoiseSDE(hidden, hidden, noise=noise, solver=settings)  # type: ignore[arg-type]
    layer.gamma = Matrix(matrix)
    layer.sigma = Constant(1.5, 1 if noise == "scalar" else hidden)
    return layer


def test_scalar_noise_contracts_at_the_predicted_rate() -> None:
    """a = 1/2, sigma = 3/2: -0.625."""
    report = reported(linear(0.5 * torch.eye(3), "scalar"), 8.0, batch=400)
    assert report.predicted == pytest.approx(-0.625, abs=1e-9)
    assert report.pairs == 400
    # The median of 400 numbers of deviation 1.5 / sqrt(8).
    assert report.sampling_error == pytest.approx(1.253 * 0.53 / 20, rel=0.25)
    assert report.measured == pytest.approx(-0.625, abs=4 * 0.0333)
    assert report.verdict.startswith("Contracting")


def test_a_long_euler_step_is_found_out() -> None:
    layer = linear(0.5 * torch.eye(1), "scalar", step=1.0, method="euler")
    report = reported(layer, 8.0, batch=400)
    assert report.predicted == pytest.approx(-0.625, abs=1e-9)
    assert 0.1 < report.measured < 0.35
    assert "part, at a worse rate than predicted: the step is too long" in str(report)


@pytest.mark.parametrize(("hidden", "sign"), [(2, -1), (8, 1)])
def test_diagonal_noise_can_drive_solutions_apart(hidden: int, sign: int) -> None:
    """A fast rotation, m = 0: about sigma^2 (1 - 6 / (d + 2)) / 2, bound by 1 - 2 / d.

    The rotation mixes the entries of D over the sphere, where sum p_i^2 has the mean
    3 / (d + 2).
    """
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(hidden, hidden, generator=generator, dtype=torch.float64)
    turn = 20 * (matrix - matrix.T) / hidden**0.5
    layer = linear(turn, "diagonal", step=0.001, method="heun")
    report = reported(layer, 4.0, batch=100, pairs=100, delta=1e-6)
    assert report.lipschitz == pytest.approx(0.0, abs=1e-9)
    assert report.predicted == pytest.approx(1.125 * (1 - 2 / hidden), abs=1e-9)
    about = 1.125 * (1 - 6 / (hidden + 2))
    assert sign * report.measured > 0.1
    assert report.measured == pytest.approx(about, abs=0.3)
    assert "drive solutions apart" in str(report)


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_geometric_distances_are_those_of_the_logarithm(noise: str) -> None:
    """A constant gamma: no pull in log |z|, whatever |z| does."""
    layer = GeometricSDE(3, 3, noise=noise)  # type: ignore[arg-type]
    layer.gamma = Flat(0.5)
    layer.sigma = Constant(1.5, 1 if noise == "scalar" else 3)
    report = reported(layer, 2.0)
    assert report.space == "log |z|"
    assert report.predicted == 0.0
    assert report.measured == pytest.approx(0.0, abs=1e-6)
    assert "not guaranteed; nearby solutions keep their distance" in report.verdict


class Towards(nn.Module):
    """gamma = -rate log |z|: an Ornstein-Uhlenbeck equation for log |z|."""

    def forward(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return -0.8 * z.abs().log()


def test_geometric_contraction_in_the_logarithm() -> None:
    layer = GeometricSDE(3, 3, solver=SolverSettings(step=0.05))
    layer.gamma, layer.sigma = Towards(), Constant(1.0, 3)
    report = reported(layer, 2.0)
    assert report.predicted == pytest.approx(-0.8, abs=1e-9)
    assert report.measured == pytest.approx(math.log(0.96) / 0.05, abs=1e-6)


@pytest.mark.parametrize("kind", [LinearNoiseSDE, GeometricSDE])
def test_no_bound_is_claimed_for_the_runtime_form(kind: Any) -> None:
    torch.manual_seed(0)
    layer = kind(3, 4, form="runtime").double()
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    report = layer.stability_report(random_path(4, 3, device=CPU), ts, pairs=4)
    assert report.predicted is None and report.space == "z"
    assert "No rate is promised" in str(report)
    assert math.isfinite(report.measured)


def test_runtime_langevin_noise_is_what_the_solver_sees() -> None:
    layer = LangevinSDE(3, 3, form="runtime")
    layer.gamma, layer.sigma = Pull(-1.0), Constant(0.9, 3)
    report = reported(layer, 1.0)
    assert report.sigma_most == pytest.approx(math.tanh(0.9))
    assert report.predicted == pytest.approx(-1.0)


def test_a_potential_is_as_convex_as_its_confinement() -> None:
    torch.manual_seed(0)
    layer = LangevinSDE(3, 3, potential=True)
    with torch.no_grad():
        for p in layer.gamma.net.parameters():
            p.zero_()
    report = reported(layer, 1.0)
    assert report.predicted == pytest.approx(-1.0, abs=1e-6)
    assert report.measured == pytest.approx(math.log(0.9) / 0.1, abs=1e-4)


def test_series_of_different_length() -> None:
    """Padding counts for nothing: not in the rates, not in the Lipschitz numbers."""
    torch.manual_seed(0)
    layer = LangevinSDE(3, 2, solver=SolverSettings(step=0.05)).double()
    layer.gamma = Pull(-2.0)
    path = random_path(3, 3, device=CPU)
    nan = math.nan
    ts = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.7, nan], [0.1, nan, nan]]).double()
    report = layer.stability_report(path, ts, pairs=5)
    assert report.pairs == 4  # Two runs of the two series with an interval.
    assert report.measured == pytest.approx(math.log(0.9) / 0.05, abs=1e-3)
    assert math.isfinite(report.lipschitz)


def test_padding_is_no_sample_of_the_drift() -> None:
    torch.manual_seed(0)
    layer = LangevinSDE(3, 2, solver=SolverSettings(step=0.05)).double()
    path = random_path(2, 3, device=CPU)
    ts = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.7, math.nan]]).double()
    padded = layer.stability_report(path, ts, pairs=1, seed=4)
    states = layer(path, ts, seed=4).ys.detach()
    values = []
    for i, k in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
        x = path.evaluate(ts[:, k].nan_to_num())[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda z, x=x: layer.drift(ts[:1, 0], z[None], x)[0], states[i, k]
        )
        values.append(torch.linalg.eigvalsh((jacobian + jacobian.T) / 2)[-1].item())
    assert padded.lipschitz == pytest.approx(max(values))
    assert padded.lipschitz_mean == pytest.approx(sum(values) / 5)


def test_a_short_batch_is_solved_under_many_motions() -> None:
    """W_T / T spreads 100 pairs of one series; quartiles are .67 deviations out."""
    layer = linear(0.5 * torch.eye(1), "scalar")
    report = reported(layer, 8.0, batch=1, pairs=100)
    assert report.pairs == 100
    spread = report.quartiles[1] - report.quartiles[0]
    assert spread == pytest.approx(1.349 * 1.5 / math.sqrt(8), rel=0.5)
    assert report.measured == pytest.approx(-0.625, abs=4 * 0.0665)


def test_distances_at_rounding_are_said_to_be() -> None:
    layer = LangevinSDE(3, 3, solver=SolverSettings(step=0.05))
    layer.gamma, layer.sigma = Pull(-10.0), Constant(0.1, 3)
    report = reported(layer, 6.0)
    assert report.floored and -14 < report.measured < -3
    assert "or less: distances reached rounding" in str(report)


def test_reports_repeat_and_leave_the_layer_alone() -> None:
    torch.manual_seed(0)
    layer = LinearNoiseSDE(3, 4, noise="scalar")
    path = constant_path(torch.randn(6, 3), 1.0)
    ts = torch.tensor([0.0, 1.0])
    state = torch.get_rng_state()
    first = layer.stability_report(path, ts, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == layer.stability_report(path, ts, seed=1)
    assert first != layer.stability_report(path, ts, seed=2)
    assert all(p.grad is None for p in layer.parameters())
    with torch.no_grad():
        assert first == layer.stability_report(path, ts, seed=1)


def test_arguments_are_checked() -> None:
    layer = LangevinSDE(3, 4)
    path = constant_path(torch.randn(6, 3), 1.0)
    ts = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="pairs is 0"):
        layer.stability_report(path, ts, pairs=0)
    with pytest.raises(ValueError, match="delta is 1e-09, and distances below"):
        layer.stability_report(path, ts, delta=1e-9)
    with pytest.raises(ValueError, match="delta is nan"):
        layer.stability_report(path, ts, delta=math.nan)
    with pytest.raises(ValueError, match="two different times"):
        layer.stability_report(path, torch.tensor([1.0]))
    empty = constant_path(torch.zeros(0, 3), 1.0)
    with pytest.raises(ValueError, match="no sample"):
        layer.stability_report(empty, ts)


PATH = constant_path(torch.randn(6, 3), 1.0)
ENDS = torch.tensor([0.0, 1.0])
RAGGED = HermiteCubic(
    torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.7, 0.7]]), torch.zeros(2, 3, 3)
)
REFUSED = {
    "list": (PATH, [0.0, 1.0], {}, TypeError, "ts must be a floating .* got list"),
    "integers": (PATH, ENDS.long(), {}, TypeError, "ts must be .* got torch.int64"),
    "no times": (PATH, ENDS[:0], {}, ValueError, r"ts must be .* got \(0,\)"),
    "no path": (ENDS, ENDS, {}, TypeError, "path must be .* got Tensor"),
    "pairs": (PATH, ENDS, {"pairs": 64.5}, TypeError, "pairs must .* got 64.5"),
    "seed": (PATH, ENDS, {"seed": "a"}, TypeError, "seed must .* got 'a'"),
    "delta": (PATH, ENDS, {"delta": "a"}, TypeError, "delta must .* got 'a'"),
    "channels": (
        constant_path(torch.randn(6, 5), 1.0),
        ENDS,
        {},
        ValueError,
        "path has 5 channels, the layer was made for 3",
    ),
    "dtype": (
        constant_path(torch.randn(6, 3).double(), 1.0),
        ENDS.double(),
        {},
        TypeError,
        "path is torch.float64, the layer torch.float32",
    ),
    "rows": (PATH, ENDS.expand(5, 2), {}, ValueError, "ts has 5 rows, the path 6"),
    "after": (PATH, 2 * ENDS, {}, ValueError, "time 2, but the data .* 0 to 1;"),
    "before": (PATH, ENDS - 0.5, {}, ValueError, "time -0.5, but the data .* 0 to 1;"),
    "ragged": (RAGGED, ENDS, {}, ValueError, "time 1 for sample 1, .* 0 to 0.7;"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("kind", [LangevinSDE, LinearNoiseSDE, GeometricSDE])
def test_data_that_do_not_fit_are_refused_by_name(name: str, kind: Any) -> None:
    path, ts, changes, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        kind(3, 4).stability_report(path, ts, **changes)
    with pytest.raises(ValueError, match="pairs is 0"):
        # So the last time of each sample counts as one of its data.
        ts = torch.tensor([[0.0, 1.0], [0.0, 0.7]])
        kind(3, 4).stability_report(RAGGED, ts, pairs=0)
