"""`torch.func` and forward mode through solves with `Direct`."""

from typing import Any

import pytest
import torch
from problems import KIND, normal
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jvp, stack_module_state, vmap

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
    Solution,
    solve,
)

# What torch says of itself where forward mode is used for the first time.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

Weights = dict[str, Tensor]
FIXED, TIGHT = FixedSteps(0.125), PID(1e-7, 1e-8)
KINDS: dict[str, dict[str, Any]] = {
    "rk4": {"method": "rk4", "controller": FIXED},
    "tsit5": {"controller": TIGHT},
    "one row": {"controller": TIGHT, "batch": "shared"},
    # Its interpolant needs stages of its own.
    "dop853": {"method": "dop853", "controller": TIGHT},
    "pair": {"method": McCallumFoster("bosh3"), "controller": FIXED},
    "adaptive pair": {"method": McCallumFoster("tsit5"), "controller": TIGHT},
    "implicit_adams": {"method": "implicit_adams", "controller": FIXED},
    "reversible_heun": {"method": "reversible_heun", "controller": FIXED},
    "linear_splitting": {"method": "linear_splitting", "controller": FIXED},
    "milstein": {"method": "milstein", "controller": FIXED},
    "sosri2": {"method": "sosri2", "controller": PID(1e-2, 1e-2)},
}
# Steps are chosen for all members of an ensemble, so paths differ by the tolerance.
NEAR = {
    "tsit5": 1e-5,
    "one row": 1e-5,
    "dop853": 1e-5,
    "adaptive pair": 1e-5,
    "sosri2": 0.1,
}


class Problem:
    """An ODE or SDE whose drift is a network with weights from outside."""

    def __init__(self, kind: str, f64: KIND) -> None:
        torch.manual_seed(0)
        self.options, self.f64 = KINDS[kind], f64
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).to(**f64)
        # Transforms bring their own weights; nothing else requires grad.
        self.net.requires_grad_(False)
        self.weights = {k: w.clone() for k, w in self.net.state_dict().items()}
        self.y0 = normal((3, 2), 1, **f64)
        self.noisy = kind in list(KINDS)[7:]

    def solve(
        self, weights: Weights, y0: Tensor, adjoint: Any = None, **more: Any
    ) -> Solution:
        def drift(t: Tensor, y: Tensor) -> Tensor:
            out: Tensor = functional_call(self.net, weights, (y,))
            return out

        heun = self.options.get("method") == "reversible_heun"
        term = (
            SDETerm(
                drift,
                lambda t, y: 0.3 * y,
                interpretation="stratonovich" if heun else "ito",
            )
            if self.noisy
            else ODETerm(drift)
        )
        noise = {"noise": 4} if self.noisy else {}
        ts = torch.tensor([0.0, 0.4, 1.0], **self.f64)
        adjoint = adjoint or Direct()
        return solve(term, y0, ts, adjoint=adjoint, **self.options, **noise, **more)

    def loss(self, weights: Weights, y0: Tensor) -> Tensor:
        solution = self.solve(weights, y0)
        return solution.ys.sin().sum() + solution.final.square().sum()

    def slope(self, move: Weights, move_y: Tensor) -> float:
        """Directional derivative of the loss, by reverse mode."""
        leaves = {k: w.clone().requires_grad_() for k, w in self.weights.items()}
        y0 = self.y0.clone().requires_grad_()
        found = torch.autograd.grad(self.loss(leaves, y0), [*leaves.values(), y0])
        moves = [*move.values(), move_y]
        return float(sum((g * m).sum() for g, m in zip(found, moves, strict=True)))

    def moves(self) -> tuple[Weights, Tensor]:
        some = enumerate(self.weights.items())
        moves = {k: normal(tuple(w.shape), 20 + i, **self.f64) for i, (k, w) in some}
        return moves, normal((3, 2), 9, **self.f64)


@pytest.mark.parametrize("kind", KINDS)
def test_jvp(kind: str, f64: KIND) -> None:
    problem = Problem(kind, f64)
    moves = problem.moves()
    _, found = jvp(problem.loss, (problem.weights, problem.y0), moves)
    assert float(found) == pytest.approx(problem.slope(*moves), rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_dual_numbers(kind: str, f64: KIND) -> None:
    """Steps are constants here too, where no transform says that they are looked at."""
    problem = Problem(kind, f64)
    move, move_y = problem.moves()
    with forward_ad.dual_level():
        weights = {
            k: forward_ad.make_dual(w, move[k]) for k, w in problem.weights.items()
        }
        y0 = forward_ad.make_dual(problem.y0, move_y)
        found = forward_ad.unpack_dual(problem.loss(weights, y0)).tangent
    assert float(found) == pytest.approx(problem.slope(move, move_y), rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_ensembles_of_weights(kind: str, f64: KIND) -> None:
    problem = Problem(kind, f64)
    nets = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).to(**f64)
        nets.append(net.requires_grad_(False))
    stacked, _ = stack_module_state(nets)
    randomness = "same" if problem.noisy else "error"

    def ys(weights: Weights) -> Tensor:
        return problem.solve(weights, problem.y0).ys

    def slopes(weights: Weights) -> Weights:
        found: Weights = grad(lambda w: problem.loss(w, problem.y0))(weights)
        return found

    near = NEAR.get(kind, 1e-12)
    together = vmap(ys, randomness=randomness)(stacked)
    together_slopes = vmap(slopes, randomness=randomness)(stacked)
    with torch.no_grad():
        again = vmap(ys, randomness=randomness)(stacked)
    torch.testing.assert_close(again, together, rtol=1e-12, atol=1e-12)
    assert together.shape == (3, 3, 3, 2)
    for i, net in enumerate(nets):
        alone = dict(net.named_parameters())
        torch.testing.assert_close(together[i], ys(alone), rtol=near, atol=near)
        for name, slope in slopes(alone).items():
            size = float(slope.abs().max())
            assert size > 0
            distance = float((together_slopes[name][i] - slope).abs().max())
            assert distance <= 2 * near * size


@pytest.mark.parametrize("kind", KINDS)
def test_ensembles_of_initial_states(kind: str, f64: KIND) -> None:
    problem = Problem(kind, f64)
    starts = torch.stack([problem.y0, 0.5 * problem.y0, -problem.y0])

    def ys(y0: Tensor) -> Tensor:
        return problem.solve(problem.weights, y0).ys

    randomness = "same" if problem.noisy else "error"
    together, near = vmap(ys, randomness=randomness)(starts), NEAR.get(kind, 1e-12)
    for found, y0 in zip(together, starts, strict=True):
        torch.testing.assert_close(found, ys(y0), rtol=near, atol=near)


def test_members_share_the_steps_of_the_worst(f64: KIND) -> None:
    term = ODETerm(lambda t, y, rate: (rate * t[:, None]).sin() + 0 * y)
    y0, ts = torch.zeros(2, 1, **f64), torch.tensor([0.0, 1.0], **f64)

    def steps(rate: Tensor) -> Tensor:
        sol = solve(
            term, y0, ts, controller=PID(1e-6, 1e-6), adjoint=Direct(), args=rate
        )
        return sol.stats.accepted + 0 * rate.long()

    rates = torch.tensor([1.0, 60.0], **f64)
    slow, fast = (steps(rate) for rate in rates)
    together = vmap(steps)(rates)
    assert int(slow[0]) < int(fast[0])
    assert torch.equal(together[0], together[1])
    assert int(fast[0]) <= int(together[0, 0]) <= int(fast[0]) + 2


def test_jacobians_forward_and_reverse(f64: KIND) -> None:
    problem = Problem("tsit5", f64)

    def final(y0: Tensor) -> Tensor:
        return problem.solve(problem.weights, y0).final

    forward = jacfwd(final)(problem.y0)
    reverse = torch.func.jacrev(final)(problem.y0)
    torch.testing.assert_close(forward, reverse, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("adjoint", [Recompute(), Reversible(), Backsolve()])
def test_other_adjoints_refuse(adjoint: Any, f64: KIND) -> None:
    problem = Problem("reversible_heun", f64)

    def ys(y0: Tensor) -> Tensor:
        return problem.solve(problem.weights, y0, adjoint).ys.sum()

    words = f"adjoint={type(adjoint).__name__}.*adjoint=Direct"
    with pytest.raises(RuntimeError, match=words):
        grad(ys)(problem.y0)
    with pytest.raises(RuntimeError, match=words):
        jvp(ys, (problem.y0,), (problem.y0,))
    with pytest.raises(RuntimeError, match=words):
        vmap(ys, randomness="same")(problem.y0.expand(2, 3, 2))


@pytest.mark.parametrize("controller", [TIGHT, FIXED], ids=["pid", "fixed"])
def test_derivatives_in_times_are_refused(controller: Any, f64: KIND) -> None:
    y0, ts = torch.ones(2, 1, **f64), torch.tensor([0.0, 1.0], **f64)

    def final(ts: Tensor, **more: Any) -> Tensor:
        options = {"controller": controller, "adjoint": Direct(), **more}
        return solve(ODETerm(lambda t, y: -y), y0, ts, **options).final.sum()

    with pytest.raises(ValueError, match="ts carries derivatives"):
        jvp(final, (ts,), (torch.ones_like(ts),))
    with pytest.raises(ValueError, match="ts carries derivatives"):
        grad(final)(ts)
    with pytest.raises(ValueError, match="ts is another one in each member .*batch, T"):
        vmap(final)(torch.stack([ts, 2.0 * ts]))
    with pytest.raises(ValueError, match="probe_times is another one in each member"):
        vmap(lambda t: final(ts, probe_times=t))(torch.full((2, 1), 0.5, **f64))
    with pytest.raises(ValueError, match="ts_mask is another one in each member"):
        both = torch.ones(3, 2, 2, dtype=torch.bool, device=ts.device)
        vmap(lambda mask: final(ts.expand(2, 2), ts_mask=mask))(both)


@pytest.mark.parametrize("kind", ["rk4", "tsit5"])
@pytest.mark.parametrize("factor", [float("nan"), 1e200])
def test_a_member_that_fails(kind: str, factor: float, f64: KIND) -> None:
    problem = Problem(kind, f64)
    stacked = {k: torch.stack([w, factor * w]) for k, w in problem.weights.items()}
    with pytest.raises(RuntimeError, match="did not reach the end in some member"):
        vmap(lambda w: problem.solve(w, problem.y0).ys)(stacked)


@pytest.mark.parametrize("reset", [None, lambda t, y: y + 1.0], ids=["ends", "resets"])
@pytest.mark.parametrize("controller", [TIGHT, FIXED], ids=["pid", "fixed"])
def test_events_are_refused(controller: Any, reset: Any, f64: KIND) -> None:
    y0, ts = torch.tensor([[1.0], [2.0]], **f64), torch.tensor([0.0, 9.0], **f64)

    def time(y0: Tensor) -> Tensor:
        options = {"controller": controller, "adjoint": Direct()}
        event = Event(lambda t, y: y[:, 0], reset=reset)
        falls = ODETerm(lambda t, y: -torch.ones_like(y))
        return solve(falls, y0, ts, events=[event], **options).events.time.sum()

    assert time(y0) > 0.0
    with pytest.raises(RuntimeError, match="events .* torch.func"):
        grad(time)(y0)
    with pytest.raises(RuntimeError, match="events .* torch.func"):
        jvp(time, (y0,), (y0,))
    with pytest.raises(RuntimeError, match="events .* torch.func"):
        vmap(time)(y0.expand(3, 2, 1))


@pytest.mark.parametrize("seed", [3, None, torch.arange(3)])
@pytest.mark.parametrize("controller", [FIXED, PID(1e-2, 1e-2)])
def test_members_share_their_noise(
    seed: int | Tensor | None, controller: object, f64: KIND
) -> None:
    """Of a seed as each alone; without one, one is drawn for all."""
    y0, ts = torch.ones(3, 2, **f64), torch.tensor([0.0, 1.0], **f64)

    def final(rate: Tensor) -> Tensor:
        term = SDETerm(lambda t, y: -rate * y, lambda t, y: 0.1 * y)
        options = {"method": "srk", "controller": controller, "adjoint": Direct()}
        return solve(term, y0, ts, noise=seed, **options).final

    rates = torch.tensor([0.4, 0.4], **f64)
    one, other = vmap(final)(rates)
    assert torch.equal(one, other)
    if seed is not None:
        torch.testing.assert_close(one, final(rates[0]), rtol=1e-9, atol=1e-9)
