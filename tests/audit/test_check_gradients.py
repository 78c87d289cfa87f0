"""The audit of gradients finds what is wrong, and nothing else."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from problems import normal
from torch import Tensor, nn

import nde
from nde.data import Batch
from nde.models import NeuralODE, SeriesClassifier, SolverSettings, build_classifier
from nde.regularizers import ErrorEstimate, LocalError
from nde.regularizers.local import LocalSampling
from nde.solvers import (
    PID,
    Backsolve,
    Direct,
    Event,
    FixedSteps,
    McCallumFoster,
    ODETerm,
    Recompute,
    Reversible,
    SDETerm,
    solve,
)
from nde.solvers.adjoint import Adjoint


def series(count: int = 6) -> Batch:
    """Labelled series with a hole, another length and three classes."""
    times = normal((count, 5), 1).abs().cumsum(1)
    times[1, 3:] = times[1, 2]
    values = normal((count, 5, 2), 2)
    values[0, 2, 1] = torch.nan
    values[1, 3:] = torch.nan
    return Batch(times.float() / 5, values.float(), torch.arange(count) % 3)


def classifier(name: Any = "neural-ode", **options: Any) -> SeriesClassifier:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden": 4, "width": 4, "layers": 1}
    return build_classifier(name, channels=2, classes=3, **sizes, **options)


@pytest.mark.parametrize(
    ("name", "options", "refused"),
    [
        ("neural-ode", {"solver": SolverSettings(rtol=1e-6, atol=1e-8)}, {"backsolve"}),
        ("lnsde", {}, {"reversible", "backsolve"}),
        (
            "neural-sde",
            {"solver": SolverSettings(method="reversible_heun", step=0.2)},
            set(),
        ),
        (
            "neural-sde",
            {
                "solver": SolverSettings(
                    method="reversible_heun", step="adaptive", adjoint="reversible"
                )
            },
            set(),
        ),
    ],
)
def test_right_gradients(name: str, options: dict[str, Any], refused: set[str]) -> None:
    model = classifier(name, **options)
    report = nde.check_gradients(model, series(), samples=3, directions=1)
    assert report.passed, str(report)
    assert report.chosen.name == options.get("solver", SolverSettings()).adjoint
    assert {c.name for c in report.adjoints if c.refused} <= refused | {"reversible"}
    for check in report.adjoints:
        exact = check.name in ("direct", "recompute", "reversible")
        if not check.refused:
            assert check.error <= (1e-10 if exact else 0.05), check
            assert check.seconds > 0 and check.peak_bytes > 0
    for direction in report.directions:
        assert direction.verdict == "right"
        assert direction.error < 1e-6


@dataclass(frozen=True)
class Bent(Recompute):
    """Gradients that are a thousandth too large."""

    def run(self, *arguments: Any) -> Any:
        outcome = super().run(*arguments)
        outcome.y_end.register_hook(lambda grad: 1.001 * grad)
        return outcome


def test_a_wrong_adjoint_is_found() -> None:
    model = classifier(readout="end")
    report = nde.check_gradients(model, series(), adjoint=Bent(), directions=1)
    assert not report.passed
    assert report.chosen.name == "bent"
    assert report.chosen.error == pytest.approx(1e-3, rel=0.01)
    assert report.chosen.verdict == "WRONG" and "WRONG: bent" in str(report)
    assert report.chosen.worst in str(report)
    # The others are not to blame.
    assert [c.passed for c in report.adjoints if c.name == "recompute"] == [True]
    assert all(check.passed for check in report.directions)


class Crooked(torch.autograd.Function):
    """tanh with a backward pass that is a little off."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.tanh()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (out,) = ctx.saved_tensors
        return grad * (1 - 0.9 * out * out)


def test_a_wrong_field_is_found_by_finite_differences() -> None:
    y0 = normal((3, 2), 5)
    report = nde.check_gradients(_layer_with(Crooked.apply), y0, loss=_square)
    assert report.chosen.passed
    assert not report.passed
    assert "finite differences" in report.summary
    assert nde.check_gradients(_layer_with(torch.tanh), y0, loss=_square).passed


class _Field(nn.Module):
    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.activation = activation

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.activation(self.net(y))
        return out


def _layer_with(activation: Any) -> NeuralODE:
    torch.manual_seed(3)
    return NeuralODE(_Field(activation))


def _square(layer: NeuralODE, y0: Tensor) -> Tensor:
    ts = torch.linspace(0, 1, 3, dtype=torch.float64)
    out: Tensor = layer(y0, ts).final.square().sum()
    return out


@dataclass(frozen=True)
class Coarse(Recompute):
    """Another solve, a thousandth away."""

    def run(self, *arguments: Any) -> Any:
        outcome = super().run(*arguments)
        return replace(outcome, y_end=1.001 * outcome.y_end)


def test_another_solve_is_told_apart_from_a_wrong_gradient() -> None:
    model = classifier(readout="end")
    report = nde.check_gradients(model, series(), adjoint=Coarse(), directions=0)
    assert not report.passed
    assert "coarse: its solve gives another loss" in str(report)
    right = nde.check_gradients(model, series(), directions=0)
    assert right.chosen.note == ""


def test_everything_is_left_as_it_was() -> None:
    model = classifier(regularizers=[ErrorEstimate(weight=1.0)]).train()
    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    batch = series()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    values, state = batch.values.clone(), torch.get_rng_state()
    settings = [m.solver for m in model.modules() if hasattr(m, "solver")]
    random.seed(1)
    other = random.getstate()
    nde.check_gradients(model, batch, directions=1)
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == other
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[key])
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(m.training for m in model.modules())
    assert [m.solver for m in model.modules() if hasattr(m, "solver")] == settings
    assert torch.equal(batch.values.nan_to_num(7.0), values.nan_to_num(7.0))
    assert not batch.values.requires_grad


def test_one_seed_gives_one_report() -> None:
    model = classifier("lsde")
    first, again, other = (
        nde.check_gradients(model, series(), directions=1, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first.value == again.value != other.value
    assert str(first.directions) == str(again.directions) != str(other.directions)


def test_penalties_are_part_of_the_loss_where_wanted() -> None:
    model = classifier(regularizers=[ErrorEstimate(weight=1e3)])
    with_them, without = (
        nde.check_gradients(model, series(), directions=1, penalties=wanted)
        for wanted in (True, False)
    )
    assert with_them.passed and without.passed
    assert with_them.value > without.value


def test_penalties_that_hold_their_state_are_left_out_of_differences() -> None:
    attached = LocalSampling(state="attached")
    for options, left_out in ((LocalSampling(), ("local-error",)), (attached, ())):
        penalty = LocalError(weight=1e3, options=options)
        model = classifier(regularizers=[penalty, ErrorEstimate()])
        report = nde.check_gradients(model, series(), directions=1)
        assert report.passed, str(report)
        assert report.left_out == left_out
        assert ("without local-error" in str(report)) == bool(left_out)


def test_inputs_of_any_module() -> None:
    """Those that require grad, in whatever holds them; weights that do not are out."""
    layer = _layer_with(torch.tanh)
    layer.field.net.bias.requires_grad_(False)  # type: ignore[union-attr]
    given = {"y0": normal((3, 2), 5).float().requires_grad_(), "scale": [torch.ones(2)]}

    def loss(layer: NeuralODE, batch: Any) -> Tensor:
        assert batch["scale"][0].dtype == torch.float64
        return _square(layer, batch["y0"] * batch["scale"][0])

    report = nde.check_gradients(layer, given, loss=loss, directions=1)
    assert report.passed
    assert (report.tensors, report.numbers) == (2, 10)
    assert given["y0"].dtype == torch.float32 and given["y0"].grad is None


def test_layers_with_different_adjoints() -> None:
    layers = nn.ModuleList([_layer_with(torch.tanh), _layer_with(torch.tanh)])
    layers[1].solver = SolverSettings(adjoint="direct").for_ode()

    def loss(layers: Any, y0: Tensor) -> Tensor:
        return _square(layers[0], y0) + _square(layers[1], y0)

    y0 = normal((3, 2), 5)
    with pytest.raises(ValueError, match="different adjoints; pass adjoint="):
        nde.check_gradients(layers, y0, loss=loss)
    report = nde.check_gradients(layers, y0, loss=loss, adjoint=Direct(), directions=1)
    assert report.passed and report.chosen.name == "direct"
    # A loss with two solves keeps the steps of both.
    assert report.directions[0].error < 1e-6


TS = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [normal(shape, 20 + i).requires_grad_() for i, shape in enumerate(shapes)]


def test_a_function_of_the_adjoint() -> None:
    weight, y0 = leaves((2, 2), (3, 2))
    kept = [weight.detach().clone(), y0.detach().clone()]
    term = SDETerm(
        lambda t, y: (y @ weight).tanh(),
        lambda t, y: 0.3 * y.sin(),
        interpretation="stratonovich",
    )

    def solve_with(adjoint: Adjoint) -> Tensor:
        options: Any = {"method": "reversible_heun", "controller": FixedSteps(0.05)}
        return solve(term, y0, TS, adjoint=adjoint, noise=1, **options).ys.sin().sum()

    report = nde.check_gradients(
        solve_with, {"weight": weight, "y0": y0}, adjoint=Reversible()
    )
    assert report.passed and report.chosen.name == "reversible"
    assert (report.tensors, report.numbers) == (2, 10)
    by_name = {check.name: check for check in report.adjoints}
    assert 1e-8 < by_name["backsolve"].error < 0.05
    assert by_name["reversible"].error < 1e-10
    for tensor, before in zip((weight, y0), kept, strict=True):
        assert torch.equal(tensor, before) and tensor.grad is None
    tight = nde.check_gradients(
        solve_with, [weight, y0], adjoint=Backsolve(), approximate=1e-9, directions=0
    )
    assert not tight.passed and tight.directions == ()


def test_a_reversible_pair() -> None:
    rate, y0 = leaves((2,), (2, 2))
    term = ODETerm(lambda t, y: (rate * y * (1 + t[:, None])).sin())

    def solve_with(adjoint: Adjoint) -> Tensor:
        options: Any = {"method": McCallumFoster("tsit5"), "adjoint": adjoint}
        return solve(term, y0, TS, controller=PID(1e-4, 1e-6), **options).ys.sum()

    report = nde.check_gradients(solve_with, [rate, y0], adjoint=Reversible())
    assert report.passed and report.chosen.error < 1e-10
    assert all(check.error < 1e-6 for check in report.directions)


def test_steps_that_move_are_no_error() -> None:
    """At a loose tolerance a difference of solves is far from the gradient."""
    rate, y0 = leaves((2,), (2, 2))
    term = ODETerm(lambda t, y: (rate * y * (1 + 5 * t[:, None])).sin())

    def solve_with(adjoint: Adjoint) -> Tensor:
        found = solve(term, y0, TS, controller=PID(0.1, 0.1), adjoint=adjoint)
        return found.ys.square().sum()

    report = nde.check_gradients(solve_with, [rate, y0])
    assert report.passed
    for check in report.directions:
        assert check.error < 1e-6 < check.moving_steps


def test_events_move_and_count() -> None:
    """Their steps cannot be held fixed: differences are those of the solve."""
    (gravity,) = leaves((1,))
    y0 = torch.tensor([[1.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
    term = ODETerm(
        lambda t, y: torch.stack([y[:, 1], -(1 + gravity.square()).expand(2)], dim=1)
    )

    def solve_with(adjoint: Adjoint) -> Tensor:
        sol = solve(
            term,
            y0,
            torch.tensor([0.0, 9.0], dtype=torch.float64),
            controller=PID(1e-9, 1e-9),
            events=[Event(lambda t, y: y[:, 0], direction=-1)],
            adjoint=adjoint,
        )
        return sol.events.time.sum()

    report = nde.check_gradients(solve_with, [gravity], directions=1)
    assert report.passed, str(report)
    assert report.directions[0].tells


@pytest.mark.parametrize(
    ("tensors", "error", "words"),
    [
        ([torch.ones(2, requires_grad=True)], TypeError, ["batch[0]", "float64"]),
        ([torch.ones(2).double()], ValueError, ["batch[0]", "requires_grad_"]),
        ([1.0], TypeError, ["batch[0]", "float"]),
        (3, TypeError, ["a list, a dict or a module", "int"]),
        ([], ValueError, ["no parameter or input"]),
        (series(), TypeError, ["got a Batch"]),
    ],
)
def test_refused_tensors(
    tensors: Any, error: type[Exception], words: Sequence[str]
) -> None:
    with pytest.raises(error) as told:
        nde.check_gradients(lambda adjoint: torch.ones(()), tensors)
    for word in words:
        assert word in str(told.value)


def test_refused_losses() -> None:
    (weight,) = leaves((2,))
    with pytest.raises(ValueError, match=r"0-dim, received shape \(2,\)"):
        nde.check_gradients(lambda adjoint: 2 * weight, [weight])
    with pytest.raises(ValueError, match="does not depend"):
        nde.check_gradients(lambda adjoint: torch.ones(()), [weight])
    with pytest.raises(ValueError, match="without any layer of nde.models"):
        nde.check_gradients(nn.Linear(2, 2), weight)
    with pytest.raises(ValueError, match="loss is needed"):
        nde.check_gradients(_layer_with(torch.tanh), weight)
    with pytest.raises(ValueError, match="no labels"):
        batch = series()
        nde.check_gradients(classifier(), Batch(batch.times, batch.values, None))
    with pytest.raises(ValueError, match="samples must be at least 1"):
        nde.check_gradients(classifier(), series(), samples=0)
    with pytest.raises(ValueError, match="converges to|Stratonovich|Ito"):
        nde.check_gradients(classifier("lnsde"), series(), adjoint=Backsolve())


def test_a_gradient_that_is_not_finite_is_wrong() -> None:
    (weight,) = leaves((2,))
    report = nde.check_gradients(
        lambda adjoint: (weight * 0).abs().sqrt().sum(),
        [weight],
        adjoint=Direct(),
        directions=0,
    )
    assert not report.passed
    assert "not finite" in str(report)
