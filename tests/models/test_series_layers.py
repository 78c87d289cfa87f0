"""What every series layer promises: gradients, determinism, independence, errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.series import ragged_batch, random_path
from torch import Tensor, nn

from nde.models import (
    ControlledODE,
    GeometricSDE,
    LangevinSDE,
    LinearNoiseSDE,
    NeuralSDE,
    SolverSettings,
    control_path,
)
from nde.regularizers import ErrorEstimate, Exponential, LocalError, Stiffness
from nde.solvers.control import HermiteCubic

HEUN = SolverSettings(method="heun", step=0.1)
LAYERS: dict[str, Callable[..., Any]] = {
    "lsde": lambda **o: LangevinSDE(3, 5, **o),
    "lsde-runtime": lambda **o: LangevinSDE(3, 5, form="runtime", **o),
    "lsde-scalar": lambda **o: LangevinSDE(3, 5, noise="scalar", **o),
    "lsde-signed": lambda **o: LangevinSDE(3, 5, sigma="signed", **o),
    "lnsde": lambda **o: LinearNoiseSDE(3, 5, **o),
    "lnsde-runtime": lambda **o: LinearNoiseSDE(3, 5, form="runtime", **o),
    "lnsde-scalar": lambda **o: LinearNoiseSDE(3, 5, noise="scalar", **o),
    "lnsde-unbounded": lambda **o: LinearNoiseSDE(3, 5, bounded=False, **o),
    "gsde": lambda **o: GeometricSDE(3, 5, **o),
    "gsde-runtime": lambda **o: GeometricSDE(3, 5, form="runtime", **o),
    "gsde-scalar": lambda **o: GeometricSDE(3, 5, noise="scalar", **o),
    "neural-sde": lambda **o: NeuralSDE(3, 5, **o),
    "neural-sde-runtime": lambda **o: NeuralSDE(3, 5, form="runtime", **o),
    "neural-sde-controlled": lambda **o: NeuralSDE(3, 5, controlled=True, **o),
    "neural-sde-runtime-controlled": lambda **o: NeuralSDE(
        3, 5, controlled=True, form="runtime", **o
    ),
    "neural-ode": lambda **o: ControlledODE(3, 5, **o),
}
NOISY = [name for name in LAYERS if name != "neural-ode"]
every_layer = pytest.mark.parametrize("name", LAYERS)


def make(name: str, device: torch.device, **options: Any) -> Any:
    torch.manual_seed(1)
    layer: nn.Module = LAYERS[name](**options)
    return layer.double().to(device)


def grid(device: torch.device) -> Tensor:
    return torch.tensor([0.0, 0.35, 1.0], dtype=torch.float64, device=device)


@every_layer
@pytest.mark.parametrize("method", ["first", "second"])
@pytest.mark.parametrize("adjoint", ["recompute", "direct"])
def test_every_parameter_gets_a_gradient(
    name: str, method: str, adjoint: str, device: torch.device
) -> None:
    noisy = {"first": "euler", "second": "heun"}
    smooth = {"first": "tsit5", "second": "midpoint"}
    solver = SolverSettings(
        method=(smooth if name == "neural-ode" else noisy)[method],
        step=None if (name, method) == ("neural-ode", "first") else 0.1,
        adjoint=adjoint,  # type: ignore[arg-type]
    )
    layer = make(name, device, solver=solver)
    path = random_path(16, 3, device=device)
    out = layer(path, grid(device), seed=0)
    out.final.square().sum().backward()
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(torch.isfinite(parameter.grad).all()), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@every_layer
def test_gradients_match_finite_differences(name: str, device: torch.device) -> None:
    layer = make(name, device, solver=SolverSettings(step=0.25))
    path = random_path(3, 3, device=device)

    def loss() -> Tensor:
        out: Tensor = layer(path, grid(device), seed=2).ys.square().mean()
        return out

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for parameter_name, parameter in layer.named_parameters():
        direction = torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        ).to(device)
        slope, step = (parameter.grad * direction).sum(), 1e-6
        with torch.no_grad():
            parameter += step * direction
            above = loss()
            parameter -= 2 * step * direction
            below = loss()
            parameter += step * direction
        torch.testing.assert_close(
            (above - below) / (2 * step),
            slope,
            rtol=1e-4,
            atol=1e-8,
            msg=lambda text, at=parameter_name: f"{at}: {text}",
        )


@every_layer
def test_gradients_reach_the_observations(name: str, device: torch.device) -> None:
    layer = make(name, device)
    path = random_path(2, 3, device=device)
    values = path.values.clone().requires_grad_()
    layer(HermiteCubic(path.times, values), grid(device), seed=0).final.sum().backward()
    assert values.grad is not None
    sees_all = name not in ("neural-sde", "neural-sde-runtime")
    assert bool(values.grad[:, 0].abs().max() > 0)
    assert bool(values.grad[:, 3].abs().max() > 0) == sees_all


@every_layer
def test_shapes(name: str, device: torch.device) -> None:
    layer = make(name, device)
    path = random_path(4, 3, device=device)
    out = layer(path, grid(device), seed=0)
    assert out.ys.shape == (4, 3, 5)
    assert out.final.shape == (4, 5)
    assert torch.equal(out.final, out.ys[:, -1])
    assert out.ys.dtype == torch.float64
    assert (out.penalty.ndim, out.penalty.item(), out.penalties) == (0, 0.0, {})
    z0 = layer.initial(path.evaluate(grid(device)[0]))
    torch.testing.assert_close(out.ys[:, 0], z0)
    each = grid(device).expand(4, 3)
    assert layer(path, each, seed=0).ys.shape == (4, 3, 5)


@pytest.mark.parametrize("name", NOISY)
def test_the_seed_decides_the_noise(name: str, device: torch.device) -> None:
    layer, path = make(name, device), random_path(2, 3, device=device)

    def final(seed: int | None) -> Tensor:
        out: Tensor = layer(path, grid(device), seed=seed).final
        return out

    torch.manual_seed(0)
    one = final(7)
    torch.manual_seed(1)
    assert torch.equal(one, final(7))
    assert not torch.equal(one, final(8))
    torch.manual_seed(5)
    drawn = final(None)
    assert not torch.equal(drawn, final(None))
    torch.manual_seed(5)
    assert torch.equal(drawn, final(None))


def test_an_ode_layer_draws_nothing(device: torch.device) -> None:
    layer, path = make("neural-ode", device), random_path(2, 3, device=device)
    before = torch.get_rng_state()
    one, other = (layer(path, grid(device), seed=seed).final for seed in (1, None))
    assert torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


@every_layer
def test_series_do_not_see_each_other(name: str, device: torch.device) -> None:
    """Same times: other values in the batch change nothing, bit for bit."""
    layer = make(name, device)
    times, values = (a.double() for a in ragged_batch(device))
    ts = torch.stack([times[:, 0], times[:, -1]], dim=1)

    def final(x: Tensor) -> Tensor:
        path = HermiteCubic(times, x)
        out: Tensor = layer(path, ts, seed=0).final
        return out

    changed = values.clone()
    changed[1] = 3 * changed[1] - 1
    one, other = final(values), final(changed)
    keep = [0, 2, 3]
    assert torch.equal(one[keep], other[keep])
    assert not torch.equal(one[1], other[1])


@every_layer
def test_padding_changes_nothing(name: str, device: torch.device) -> None:
    layer = make(name, device)
    times, values = (a.double() for a in ragged_batch(device))
    longer = torch.cat([times, times[:, -1:].expand(-1, 4)], dim=1)
    junk = torch.full((4, 4, 3), 100.0, dtype=torch.float64, device=device)
    ts = torch.stack([times[:, 0], times[:, -1]], dim=1)
    finals = [
        layer(HermiteCubic(t, x), ts, seed=0).final
        for t, x in ((times, values), (longer, torch.cat([values, junk], dim=1)))
    ]
    torch.testing.assert_close(finals[0], finals[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["lnsde", "gsde"])
def test_each_series_ends_at_its_own_time(name: str, device: torch.device) -> None:
    """A short series in a batch with longer ones ends where it ends alone."""
    layer = make(name, device, solver=SolverSettings(step=0.02))
    with torch.no_grad():
        layer.sigma.outer.bias.fill_(-40.0)
        layer.sigma.outer.weight.zero_()
    times, values = (a.double() for a in ragged_batch(device))
    ts = torch.stack([times[:, 0], times[:, -1]], dim=1)
    together = layer(HermiteCubic(times, values), ts, seed=0).final
    for i in range(4):
        alone = layer(
            HermiteCubic(times[i : i + 1], values[i : i + 1]), ts[i : i + 1], seed=0
        ).final
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("name", ["lsde", "lnsde", "gsde", "neural-sde"])
def test_regularizers_in_training_only(name: str, device: torch.device) -> None:
    weight = Exponential(2.0, 0.5)
    layer = make(
        name, device, solver=HEUN, regularizers=(ErrorEstimate(weight), LocalError(0.1))
    )
    path = random_path(4, 3, device=device)
    for ts in (grid(device), grid(device).expand(4, 3)):
        out = layer(path, ts, seed=0, progress=1.0)
        assert sorted(out.penalties) == ["error", "local-error"]
        assert not any(value.requires_grad for value in out.penalties.values())
        total = 0.5 * out.penalties["error"] + 0.1 * out.penalties["local-error"]
        torch.testing.assert_close(out.penalty.detach(), total)
        assert out.penalty > 0
        (gradient,) = torch.autograd.grad(out.penalty, layer.initial.weight)
        assert gradient.abs().max() > 0
        layer.eval()
        plain = layer(path, ts, seed=0)
        layer.train()
        assert (plain.penalty.item(), plain.penalties) == (0.0, {})


@pytest.mark.parametrize("name", LAYERS)
def test_a_global_regularizer_leaves_the_solution_alone(
    name: str, device: torch.device
) -> None:
    solver = SolverSettings() if name == "neural-ode" else HEUN
    layer = make(name, device, solver=solver, regularizers=(ErrorEstimate(1.0),))
    path = random_path(4, 3, device=device)
    trained = layer(path, grid(device), seed=0)
    assert trained.penalty > 0
    layer.eval()
    assert torch.equal(trained.ys, layer(path, grid(device), seed=0).ys)


def test_ode_regularizers(device: torch.device) -> None:
    layer = make("neural-ode", device, regularizers=(Stiffness(1.0), LocalError(1.0)))
    out = layer(random_path(4, 3, device=device), grid(device))
    torch.testing.assert_close(
        out.penalty.detach(), torch.stack(list(out.penalties.values())).sum()
    )
    out.penalty.backward()
    assert layer.ode.field.zeta.weight.grad.abs().max() > 0


def test_a_method_without_an_estimate_cannot_be_regularized() -> None:
    layer = make("lnsde", torch.device("cpu"), regularizers=(ErrorEstimate(1.0),))
    path = random_path(2, 3, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="heun"):
        layer(path, grid(torch.device("cpu")))


def test_settings_are_completed_and_checked() -> None:
    assert LinearNoiseSDE(3, 5).solver.method == "linear_splitting"
    assert LinearNoiseSDE(3, 5).solver.step == 0.1
    assert LinearNoiseSDE(3, 5, form="runtime").solver.method == "euler"
    assert LangevinSDE(3, 5).solver.method == "euler"
    assert ControlledODE(3, 5).ode.solver.method == "tsit5"
    with pytest.raises(ValueError, match="does not solve SDEs"):
        LangevinSDE(3, 5, solver=SolverSettings(method="tsit5"))
    splitting = SolverSettings(method="linear_splitting")
    for kind in (LangevinSDE, GeometricSDE, NeuralSDE):
        with pytest.raises(ValueError, match="in proportion to the solved state"):
            kind(3, 5, solver=splitting)
    with pytest.raises(ValueError, match="in proportion to the solved state"):
        LinearNoiseSDE(3, 5, form="runtime", solver=splitting)
    with pytest.raises(ValueError, match="does not solve ODEs"):
        ControlledODE(3, 5, solver=SolverSettings(method="milstein"))
    with pytest.raises(ValueError, match="give step"):
        ControlledODE(3, 5, solver=SolverSettings(method="rk4"))
    adaptive = SolverSettings(step="adaptive")
    assert LinearNoiseSDE(3, 5, solver=adaptive).solver.method == "sosri2"
    assert NeuralSDE(3, 5, solver=adaptive).solver.method == "lamba_em"
    with pytest.raises(ValueError, match="'euler' cannot choose its step.*lamba_em"):
        LangevinSDE(3, 5, solver=SolverSettings(method="euler", step="adaptive"))
    for step in ("adaptve", 0.0, -1, True, float("nan")):
        with pytest.raises(ValueError, match="step is .*'adaptive'"):
            SolverSettings(step=step)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="adjoint is 'backward'.*'reversible'"):
        SolverSettings(adjoint="backward")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NOISY)
def test_adaptive_steps(name: str, device: torch.device) -> None:
    """Each sample has its own; trainable, and the same again for a seed."""
    settings = SolverSettings(step="adaptive", rtol=1e-2, atol=1e-2)
    layer = make(name, device, solver=settings)
    path = random_path(4, 3, device=device)
    out = layer(path, grid(device), seed=3)
    assert out.ys.isfinite().all()
    assert (out.solution.stats.accepted >= 2).all()
    out.ys.square().sum().backward()
    slopes = [p.grad for p in layer.parameters() if p.grad is not None]
    assert slopes and all(slope.isfinite().all() for slope in slopes)
    again = layer(path, grid(device), seed=3)
    assert torch.equal(out.ys, again.ys)


@pytest.mark.parametrize("name", ["lsde", "gsde", "neural-sde-controlled"])
def test_gradients_do_not_depend_on_the_adjoint(
    name: str, device: torch.device
) -> None:
    gradients = []
    for adjoint in ("recompute", "direct", "reversible"):
        layer = make(
            name,
            device,
            solver=SolverSettings(method="reversible_heun", adjoint=adjoint),  # type: ignore[arg-type]
        )
        layer(
            random_path(4, 3, device=device), grid(device), seed=0
        ).ys.square().sum().backward()
        gradients.append([p.grad for p in layer.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])


def test_control_path_holds_time_values_and_intensity() -> None:
    times, values = ragged_batch(torch.device("cpu"))
    t = times[:, 1]
    plain = control_path(times, values, "none")
    counts = control_path(times, values, "counts")
    mask = control_path(times, values, "mask")
    assert [p.channels for p in (plain, counts, mask)] == [4, 7, 7]
    torch.testing.assert_close(plain.evaluate(t)[:, 0], t)
    torch.testing.assert_close(counts.evaluate(t)[:, :4], plain.evaluate(t))
    seen = (~values.isnan()).float()
    torch.testing.assert_close(
        counts.evaluate(times[:, -1])[:, 4:], torch.log(1 + seen.sum(1))
    )
    torch.testing.assert_close(mask.evaluate(t)[:, 4:], seen[:, 1])
