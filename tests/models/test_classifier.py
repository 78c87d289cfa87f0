"""SeriesClassifier and build_classifier."""

import math
from typing import Any, get_args

import pytest
import torch
from models.series import ragged_batch
from torch import Tensor, nn
from torch.nn import functional

from nde.models import (
    LayerOutput,
    ModelName,
    SeriesClassifier,
    SolverSettings,
    build_classifier,
    control_path,
)
from nde.models.output import integrate
from nde.regularizers import ErrorEstimate
from nde.solvers import ODETerm
from nde.solvers.path import Path

NAMES = get_args(ModelName)
every_model = pytest.mark.parametrize("name", NAMES)


def build(name: str, device: torch.device, **options: Any) -> SeriesClassifier:
    torch.manual_seed(0)
    options = {"hidden": 8, "width": 8} | options
    model = build_classifier(
        name,  # type: ignore[arg-type]
        channels=3,
        classes=5,
        **options,
    )
    return model.to(device)


@every_model
@pytest.mark.parametrize("intensity", ["none", "counts", "mask"])
@pytest.mark.parametrize("readout", ["end", "mean"])
def test_output_and_gradients(
    name: str, intensity: str, readout: str, device: torch.device
) -> None:
    model = build(name, device, intensity=intensity, readout=readout)
    times, values = ragged_batch(device)
    out = model(times, values, seed=0, progress=0.5)
    assert out.logits.shape == (4, 5)
    assert out.logits.dtype == torch.float32
    assert (out.evaluations.shape, out.evaluations.dtype) == ((4,), torch.int64)
    assert (out.penalty.item(), out.penalties) == (0.0, {})
    labels = torch.arange(4, device=device)
    functional.cross_entropy(out.logits, labels).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(torch.isfinite(parameter.grad).all()), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@every_model
def test_padding_and_neighbours_change_nothing(name: str, device: torch.device) -> None:
    model = build(name, device).eval()
    times, values = ragged_batch(device)
    with torch.no_grad():
        base = model(times, values, seed=3).logits
        longer = model(
            torch.cat([times, times[:, -1:].expand(-1, 3)], dim=1),
            functional.pad(values, (0, 0, 0, 3), value=math.nan),
            seed=3,
        ).logits
        changed = values.clone()
        changed[0] = changed[0] + 1
        other = model(times, changed, seed=3).logits
    torch.testing.assert_close(longer, base)
    assert torch.equal(other[1:], base[1:])
    assert not torch.equal(other[0], base[0])


@every_model
def test_the_seed_decides(name: str, device: torch.device) -> None:
    model = build(name, device).eval()
    times, values = ragged_batch(device)
    one = model(times, values, seed=1).logits
    assert torch.equal(one, model(times, values, seed=1).logits)
    assert torch.equal(one, model(times, values, seed=2).logits) == (
        not model.stochastic
    )
    assert model.stochastic == (name != "neural-ode")


@every_model
def test_a_series_without_anything_to_see(name: str, device: torch.device) -> None:
    """One time, no observation at all: still a finite answer with finite gradients."""
    model = build(name, device, intensity="counts")
    times, values = ragged_batch(device)
    times, values = times.clone(), values.clone()
    times[0] = 0.4
    values[0] = math.nan
    out = model(times, values, seed=0)
    assert bool(torch.isfinite(out.logits).all())
    out.logits.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    only = model(times[:1, :1], values[:1, :1], seed=0)
    assert bool(torch.isfinite(only.logits).all())


@every_model
def test_a_model_can_overfit_a_batch(name: str, device: torch.device) -> None:
    method = "midpoint" if name == "neural-ode" else "euler"
    solver = SolverSettings(method=method, step=0.25, adjoint="direct")
    model = build(name, device, solver=solver, dropout=0.0, input_noise=0.0)
    times, values = ragged_batch(device)
    labels = torch.arange(4, device=device)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for step in range(50):
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(times, values, seed=step).logits, labels)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3


def test_input_noise_is_for_training_only(device: torch.device) -> None:
    model = build("neural-ode", device, dropout=0.0, input_noise=0.5)
    times, values = ragged_batch(device)
    torch.manual_seed(0)
    one = model(times, values).logits
    assert not torch.equal(one, model(times, values).logits)
    torch.manual_seed(0)
    assert torch.equal(one, model(times, values).logits)
    model.eval()
    calm = model(times, values).logits
    assert torch.equal(calm, model(times, values).logits)
    twin = build("neural-ode", device, dropout=0.0, input_noise=0.0)
    assert torch.equal(calm, twin(times, values).logits)


def test_penalties_are_handed_on(device: torch.device) -> None:
    model = build("neural-ode", device, regularizers=(ErrorEstimate(2.0),))
    times, values = ragged_batch(device)
    out = model(times, values)
    torch.testing.assert_close(out.penalty.detach(), 2.0 * out.penalties["error"])
    assert out.penalty > 0
    model.eval()
    assert model(times, values).penalty.item() == 0


def test_evaluations_follow_the_length_of_each_series(device: torch.device) -> None:
    """Euler takes ceil(span / step) steps for the one output interval of 'end'."""
    model = build(
        "lnsde", device, solver=SolverSettings(step=0.1), readout="end"
    ).eval()
    times, values = ragged_batch(device)
    span = times[:, -1] - times[:, 0]
    steps = model(times, values, seed=0).solution.stats.accepted
    assert torch.equal(steps, torch.ceil(span / 0.1).long())


class Area(nn.Module):
    """A layer of one's own: the integral of the time channel."""

    channels = 4
    hidden = 1
    stochastic = False

    def forward(
        self, path: Path, ts: Tensor, *, seed: int | None = None, progress: float = 0.0
    ) -> LayerOutput:
        return integrate(
            ODETerm(lambda t, z: path.evaluate(t)[:, :1]),
            torch.zeros(len(ts), 1),
            ts,
            settings=SolverSettings().for_ode(),
            regularizers=(),
        )


def test_a_layer_of_ones_own() -> None:
    times, values = ragged_batch(torch.device("cpu"))
    layer = Area()
    out = SeriesClassifier(layer, 2)(times, values)
    assert out.logits.shape == (4, 2)
    final = layer(
        control_path(times, values, "none"),
        torch.stack([times[:, 0], times[:, -1]], dim=1),
    ).final
    want = (times[:, -1:] ** 2 - times[:, :1] ** 2) / 2
    torch.testing.assert_close(final, want, rtol=1e-3, atol=1e-4)


def test_bad_options_are_named() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match="did you mean 'lnsde'"):
        build("lnsd", cpu)
    with pytest.raises(ValueError, match="neural-ode has no choice of form"):
        build("neural-ode", cpu, form="runtime")
    with pytest.raises(ValueError, match="lnsde has no choice of controlled"):
        build("lnsde", cpu, controlled=True)
    with pytest.raises(ValueError, match="neural-sde has no choice of noise"):
        build("neural-sde", cpu, noise="scalar")
    with pytest.raises(ValueError, match="readout is 'last'"):
        build("lnsde", cpu, readout="last")
    with pytest.raises(ValueError, match="intensity is 'on'"):
        build("lnsde", cpu, intensity="on")
    with pytest.raises(ValueError, match="does not solve SDEs"):
        build("lnsde", cpu, solver=SolverSettings(method="rk4", step=0.1))
    with pytest.raises(ValueError, match="input_noise"):
        build("lnsde", cpu, input_noise=-1.0)
    with pytest.raises(ValueError, match="classes >= 2"):
        build_classifier("lnsde", channels=3, classes=1)
    model = build("lnsde", cpu)
    times, values = ragged_batch(cpu)
    with pytest.raises(ValueError, match=r"\(4, 9\) and \(4, 8, 3\)"):
        model(times, values[:, :8])


def test_series_that_do_not_fit_are_refused(device: torch.device) -> None:
    model = build("lnsde", device)
    times, values = ragged_batch(device)
    with pytest.raises(ValueError, match="values have 4 channels.*built for one of 4"):
        model(times, torch.cat([values, values[..., :1]], dim=-1))
    with pytest.raises(TypeError, match="float64.*float32; cast"):
        model(times.double(), values.double())
    with pytest.raises(ValueError, match="channels must be at least 1"):
        build_classifier("lnsde", channels=0, classes=2)
