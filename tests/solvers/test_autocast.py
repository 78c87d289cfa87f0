"""Under autocast fields run in low precision, and solves in the state's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gradients import assert_same
from problems import normal
from torch import Tensor, nn
from torch.nn import functional

from nde.models import SolverSettings, build_classifier
from nde.regularizers import ErrorEstimate, LocalError
from nde.solvers import (
    PID,
    Backsolve,
    Direct,
    FixedSteps,
    McCallumFoster,
    ODETerm,
    Recompute,
    Reversible,
    SDETerm,
    Solution,
    solve,
)

LOW = torch.bfloat16
KINDS: dict[str, dict[str, Any]] = {
    "adaptive": {"controller": PID(1e-2, 1e-2)},
    "fixed": {"method": "rk4", "controller": FixedSteps(0.125)},
    "sde": {"method": "reversible_heun", "controller": FixedSteps(0.125), "noise": 1},
}
ADJOINTS = [
    *((kind, adjoint) for kind in KINDS for adjoint in (Direct(), Recompute())),
    ("sde", Reversible()),
    ("sde", Backsolve()),
]


class Fields(nn.Module):
    """Drift and diffusion that note the dtypes they compute in."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        self.to(device)
        self.seen: set[torch.dtype] = set()

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        assert t.dtype == y.dtype == torch.float32
        out: Tensor = self.net(y)
        self.seen.add(out.dtype)
        return out

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.3 * self.drift(t, y).tanh()

    def solve(self, kind: str, adjoint: Any, y0: Tensor, **options: Any) -> Solution:
        term = (
            SDETerm(self.drift, self.diffusion, interpretation="stratonovich")
            if kind == "sde"
            else ODETerm(self.drift)
        )
        ts = torch.linspace(0, 1, 4, device=y0.device)
        return solve(term, y0, ts, adjoint=adjoint, **(KINDS[kind] | options))


def start(device: torch.device) -> Tensor:
    return normal((3, 2), 1).float().to(device)


@pytest.mark.parametrize(("kind", "adjoint"), ADJOINTS)
def test_stages_are_low_and_the_solve_is_not(
    kind: str, adjoint: Any, device: torch.device
) -> None:
    fields = Fields(device)

    def found(region: bool) -> tuple[Solution, list[Tensor]]:
        fields.seen.clear()
        y0 = start(device).requires_grad_()
        with torch.autocast(device.type, dtype=LOW, enabled=region):
            solution = fields.solve(kind, adjoint, y0)
            loss = solution.ys.square().sum()
        assert fields.seen == {LOW if region else torch.float32}
        # Outside of the region, where a replay must go back into it.
        fields.seen.clear()
        return solution, list(torch.autograd.grad(loss, [y0, *fields.parameters()]))

    wanted, full = found(False)
    assert LOW not in fields.seen
    solution, low = found(True)
    assert fields.seen <= {LOW}
    assert solution.ys.dtype == solution.stats.error_estimate.dtype == torch.float32
    # Three digits are low; four of the state's would not survive in bfloat16.
    distance = float((solution.ys - wanted.ys).detach().abs().max())
    assert 1e-5 < distance < 2e-2
    assert_same(low, full, rtol=5e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_recompute_repeats_what_was_computed(kind: str, device: torch.device) -> None:
    fields = Fields(device)

    def gradients(adjoint: Any) -> list[Tensor]:
        y0 = start(device).requires_grad_()
        with torch.autocast(device.type, dtype=LOW):
            loss = fields.solve(kind, adjoint, y0).ys.square().sum()
        return list(torch.autograd.grad(loss, [y0, *fields.parameters()]))

    assert_same(gradients(Recompute()), gradients(Direct()), rtol=1e-4)


PAIR: dict[str, Any] = {
    "method": McCallumFoster("midpoint"),
    "controller": FixedSteps(0.125),
}


@pytest.mark.parametrize("ahead", [True, False], ids=["region", "none"])
@pytest.mark.parametrize(
    ("kind", "adjoint", "options"),
    [
        *(
            (kind, adjoint, {})
            for kind in KINDS
            for adjoint in (Recompute(), Recompute(states="sqrt"), Backsolve())
        ),
        ("fixed", Reversible(), PAIR),
        ("sde", Reversible(), {}),
    ],
)
def test_backward_inside_of_a_region(
    kind: str, adjoint: Any, options: dict[str, Any], ahead: bool, device: torch.device
) -> None:
    """It gives the bits that it gives outside, whatever region the solve ran in."""
    fields = Fields(device)

    def gradients(region: bool) -> list[Tensor]:
        y0 = start(device).requires_grad_()
        with torch.autocast(device.type, dtype=LOW, enabled=ahead):
            ys = fields.solve(kind, adjoint, y0, **options).ys
        fields.seen.clear()
        with torch.autocast(device.type, dtype=LOW, enabled=region):
            found = torch.autograd.grad(
                ys, [y0, *fields.parameters()], torch.ones_like(ys)
            )
        assert fields.seen == {LOW if ahead else torch.float32}
        return list(found)

    for inside, outside in zip(gradients(True), gradients(False), strict=True):
        assert bool(outside.any()) and torch.equal(inside, outside)


def test_sums_of_a_solve_are_not_lowered(device: torch.device) -> None:
    """A field without matrix products is the same inside a region and outside."""
    y0 = start(device)

    def ys(region: bool) -> Tensor:
        with torch.autocast(device.type, dtype=LOW, enabled=region):
            term = ODETerm(lambda t, y: (y + t[:, None]).sin())
            ts = torch.linspace(0, 1, 9, device=device).expand(3, 9)
            solution = solve(term, y0, ts, controller=PID(1e-5, 1e-7), dense=True)
            return torch.cat([solution.ys, solution.evaluate(ts[:, :-1] + 0.01)], 1)

    assert torch.equal(ys(True), ys(False))


def test_weights_used_around_a_solve_keep_their_gradients(
    device: torch.device,
) -> None:
    """The cache of autocast would hand out what was cast without a graph."""
    layer = nn.Linear(2, 2).to(device)
    y0 = start(device)

    def gradient(region: bool, around: bool) -> Tensor:
        with torch.autocast(device.type, dtype=LOW, enabled=region):
            first = layer(y0) if around else y0
            ts = torch.linspace(0, 1, 2, device=device)
            end = solve(ODETerm(lambda t, y: layer(y)), first, ts).final
            loss = (layer(end) if around else end).float().square().sum()
        (found,) = torch.autograd.grad(loss, layer.weight)
        return found

    for around in (False, True):
        assert_same([gradient(True, around)], [gradient(False, around)], rtol=0.1)


def test_low_states_are_raised_in_a_region_and_refused_outside() -> None:
    y0 = start(torch.device("cpu")).to(LOW)
    ts = torch.linspace(0, 1, 2)
    nested = {"a": y0, "b": (y0[:, :1],)}
    with torch.autocast("cpu", dtype=LOW):
        assert solve(ODETerm(lambda t, y: -y), y0, ts).ys.dtype == torch.float32
        halves = solve(ODETerm(lambda t, y: nested), nested, ts)
        assert halves.ys["b"][0].dtype == torch.float32
        with pytest.raises(TypeError, match="f returned None"):
            solve(ODETerm(lambda t, y: None), y0, ts)  # type: ignore[arg-type,return-value]
        with pytest.raises(TypeError, match="float64 for a state of torch.float32"):
            solve(ODETerm(lambda t, y: y.double()), y0, ts)
    with pytest.raises(TypeError, match="too coarse"):
        solve(ODETerm(lambda t, y: -y), y0, ts)


MODELS: list[tuple[Any, Callable[[], dict[str, Any]]]] = [
    ("lsde", dict),
    ("lnsde", dict),
    ("gsde", dict),
    ("neural-sde", dict),
    ("neural-ode", lambda: {"regularizers": [ErrorEstimate(), LocalError()]}),
    ("lsde", lambda: {"solver": SolverSettings(step="adaptive", rtol=0.1)}),
]


# Errors of a field in bfloat16 hold rounding, of which regularizers warn.
@pytest.mark.filterwarnings("ignore:about .* of the error estimates")
@pytest.mark.parametrize(("name", "options"), MODELS)
def test_models_train_under_autocast(
    name: Any, options: Callable[[], dict[str, Any]], device: torch.device
) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden": 4, "width": 4, "dropout": 0.0}
    model = build_classifier(
        name, channels=2, classes=3, input_noise=0.0, **sizes, **options()
    ).to(device)
    times = normal((4, 5), 1).abs().cumsum(1).float().to(device) / 4
    values = normal((4, 5, 2), 2).float().to(device)

    def gradients(region: bool) -> list[Tensor]:
        torch.manual_seed(1)
        with torch.autocast(device.type, dtype=LOW, enabled=region):
            out = model(times, values, seed=3)
            assert out.solution.ys.dtype == torch.float32
            labels = torch.tensor([0, 1, 2, 0], device=device)
            loss = functional.cross_entropy(out.logits, labels)
        return list(
            torch.autograd.grad(loss + out.penalty * 1e-3, list(model.parameters()))
        )

    low, full = (torch.cat([g.flatten() for g in gradients(r)]) for r in (True, False))
    assert low.isfinite().all()
    assert (low - full).norm() < 0.2 * full.norm()
