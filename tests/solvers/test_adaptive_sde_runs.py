"""Adaptive steps along a Brownian path: rejected ends, outputs, replays, refusals."""

import pytest
import torch
from fine_path import tree
from gradients import assert_same
from problems import KIND
from sde_problems import diagonal, drift
from torch import Tensor, nn

from nde.solvers import (
    PID,
    SDE_METHODS,
    BrownianGrid,
    BrownianTree,
    Direct,
    Recompute,
    SDETerm,
    Solution,
    SolveError,
    Status,
    StepTo,
    solve,
)
from nde.solvers.brownian import BrownianBridge, BrownianIncrement, Levy
from nde.solvers.types import Step

WALK = SDETerm(
    lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y), noise="diagonal"
)


class Ends:
    """Ends of rejected steps, per row."""

    def __init__(self) -> None:
        self.rejected: list[Tensor] = []

    def attempt(self, t: Step, y: Tensor, h: Step) -> None:
        pass

    def judge(self, t: Step, y: Tensor, h: Step, accept: bool | Tensor) -> None:
        start, length = (torch.as_tensor(x, dtype=torch.float64) for x in (t, h))
        end = start + length
        refused = ~torch.as_tensor(accept, device=end.device)
        self.rejected.append(torch.where(refused, end, torch.nan).reshape(-1))

    def replay(self, t: Step, y: Tensor, h: Step) -> None:
        pass


def rough(rows: int, kind: KIND, **options: object) -> Solution:
    y0 = torch.linspace(-1, 1, 2 * rows, **kind).view(rows, 2)
    options = {
        "term": SDETerm(drift, diagonal),
        "controller": PID(1e-2, 1e-2),
        "noise": tree(rows, 2, kind),
        "ts": torch.tensor([0.0, 0.3, 1.0], **kind),
        "method": "milstein",
    } | options
    return solve(y0=y0, **options)


@pytest.mark.parametrize("rows", [1, 4])
def test_rejected_ends_are_landed_on(rows: int, f64: KIND) -> None:
    ends = Ends()
    pid = PID(1e-3, 1e-3)
    sol = rough(rows, f64, observer=ends, controller=pid)
    times = torch.stack(ends.rejected)
    assert int(sol.stats.rejected.min()) > 5
    for row in range(rows):
        valid = sol.stats.valid[:, row]
        t, h = sol.stats.t[valid, row], sol.stats.step[valid, row]
        wanted = times[:, row]
        wanted = wanted[~wanted.isnan()]
        assert len(wanted) == int(sol.stats.rejected[row])
        gap = (wanted[:, None] - (t + h)[None]).abs().amin(dim=1)
        assert float(gap.max()) < 1e-14
        torch.testing.assert_close(t[1:], (t + h)[:-1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("rows", [1, 4])
def test_outputs_are_the_path_itself(rows: int, f64: KIND) -> None:
    """Also where each sample has its own times, and between them probes."""
    noise = tree(rows, 1, f64)
    ts = torch.linspace(0, 0.6, 4, **f64) + torch.linspace(0, 0.4, rows, **f64)[:, None]
    probes = torch.tensor([0.43, 0.41], **f64)
    sol = solve(
        WALK,
        torch.zeros(rows, 1, **f64),
        ts,
        method="srk",
        controller=PID(1e-2, 1e-2, max_step=0.11),
        noise=noise,
        probe_times=probes,
    )
    for column in range(4):
        want = noise.increment(ts[:, 0], ts[:, column]).w
        torch.testing.assert_close(sol.ys[:, column], want, rtol=0, atol=1e-12)
    for column, t in enumerate(probes.tolist()):
        want = noise.increment(ts[:, 0], t).w
        torch.testing.assert_close(sol.probes[:, column], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["milstein", "sosri2", "lamba_em"])
def test_a_sample_does_not_see_its_neighbours(name: str, f64: KIND) -> None:
    """Nor whether it has any, nor how long and how densely they are looked at."""
    seeds = torch.tensor([5, 6, 7], device=f64["device"])
    y0 = torch.tensor([[0.1, 1.0], [3.0, -2.0], [0.0, 0.5]], **f64)
    term = SDETerm(drift, diagonal)
    ts = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.5, 2.0], [0.0, 0.5, 0.50000001]], **f64)
    options = {"method": name, "controller": PID(1e-2, 1e-2)}
    together = solve(term, y0, ts, noise=seeds, **options)
    for rows in ([0], [1], [2], [0, 2], [1, 0]):
        some = solve(term, y0[rows], ts[rows], noise=seeds[rows], **options)
        torch.testing.assert_close(some.ys, together.ys[rows], rtol=1e-9, atol=1e-9)
        assert torch.equal(some.stats.accepted, together.stats.accepted[rows])
        assert torch.equal(some.stats.rejected, together.stats.rejected[rows])


def test_times_close_together(f64: KIND) -> None:
    """Variances of increments, to four standard errors."""
    samples, rest = 20_000, 4 * (2 / 20_000) ** 0.5
    ts = torch.tensor([0.0, 0.5, 0.5 + 1e-7, 0.5 + 2e-7, 0.5 + 4e-7, 1.0], **f64)
    options = {"method": "srk", "noise": 0}
    found = solve(WALK, torch.zeros(samples, 1, **f64), ts, **options).ys[..., 0]
    ratios = found.diff(dim=1).var(dim=0) / ts.diff()
    assert float((ratios - 1).abs().max()) < rest
    table = torch.linspace(0, 1, 5, **f64).repeat(samples, 1)
    table[0] *= 1e7
    found = solve(WALK, torch.zeros(samples, 1, **f64), table, **options).ys[1:, :, 0]
    assert float((4 * found.diff(dim=1).var(dim=0) - 1).abs().max()) < rest


def test_a_tree_too_coarse_for_the_steps_is_refused(f64: KIND) -> None:
    wide = BrownianTree(0, 0.0, 1e6, (2, 2), **f64)
    for controller in (StepTo(torch.linspace(0, 1, 9, **f64)), PID(1e-2, 1e-2)):
        with pytest.raises(ValueError, match=r"noise is a BrownianTree.*tol=0\.\d"):
            rough(2, f64, noise=wide, controller=controller)


@pytest.mark.parametrize("name", ["milstein", "reversible_heun", "slow_rk"])
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_steps_found_are_steps_given(name: str, batch: str, f64: KIND) -> None:
    """A grid of the accepted times along the same path gives the same states."""
    kind = SDE_METHODS[name].interpretations[0]
    term = SDETerm(drift, diagonal, interpretation=kind)
    if batch == "shared":
        term = SDETerm(
            lambda t, y: drift(t.expand(3), y),
            lambda t, y: diagonal(t.expand(3), y),
            interpretation=kind,
        )
    y0 = torch.linspace(-1, 1, 6, **f64).view(3, 2)
    ts, noise = torch.linspace(0, 1, 3, **f64), tree(3, 2, f64)
    options = {"method": name, "noise": noise, "batch": batch}
    found = solve(term, y0, ts, controller=PID(1e-2, 1e-2), **options)
    stats = found.stats
    times = torch.where(stats.valid, stats.t, torch.nan).T
    grid = times[0] if batch == "shared" else times
    given = solve(term, y0, ts, controller=StepTo(grid), **options)
    torch.testing.assert_close(found.ys, given.ys, rtol=1e-9, atol=1e-9)
    assert torch.equal(given.stats.accepted, stats.accepted)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(2, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.5 * torch.tanh(self.inner(y)) + 0.1 * t[:, None]

    def noise(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.5 * torch.sigmoid(self.inner.weight[0] * y)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["milstein", "sosri2"])
def test_gradients_of_the_steps_taken(name: str, rows: int, f64: KIND) -> None:
    """Recompute and Direct agree, also on the error estimates, with the given grid."""
    net = Net().to(**f64)
    y0 = torch.linspace(-1, 1, 2 * rows, **f64).view(rows, 2).requires_grad_()
    wrt = (y0, *net.parameters())
    noise = tree(rows, 2, f64)

    # Given steps would be judged otherwise.
    method = SDE_METHODS[name].adapted("diagonal")

    def loss(controller: object, adjoint: object) -> Tensor:
        sol = solve(
            SDETerm(net, net.noise),
            y0,
            torch.linspace(0, 1, 4, **f64),
            method=method,
            controller=controller,
            adjoint=adjoint,
            noise=noise,
        )
        weights = torch.arange(1.0, 5.0, **f64)[:, None]
        return (
            sol.ys * weights
        ).square().sum() + sol.stats.error_estimate.square().sum()

    pid = PID(1e-3, 1e-3)
    recomputed = torch.autograd.grad(loss(pid, Recompute()), wrt)
    assert_same(recomputed, torch.autograd.grad(loss(pid, Direct()), wrt), 1e-10)
    steps = solve(
        SDETerm(net, net.noise),
        y0.detach(),
        torch.linspace(0, 1, 4, **f64),
        method=name,
        controller=pid,
        noise=noise,
    ).stats
    grid = torch.where(steps.valid, steps.t, torch.nan).T
    given = StepTo(grid, 1e-3, 1e-3)
    assert_same(recomputed, torch.autograd.grad(loss(given, Direct()), wrt), 1e-8)


def test_seeds(f64: KIND) -> None:
    first, again = (rough(3, f64, noise=8).ys for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, rough(3, f64, noise=9).ys)
    torch.manual_seed(1)
    drawn = rough(3, f64, noise=None).ys
    torch.manual_seed(1)
    assert torch.equal(drawn, rough(3, f64, noise=None).ys)
    assert not torch.equal(drawn, rough(3, f64, noise=None).ys)


def test_a_seed_on_a_grid_is_that_of_a_brownian_grid(f64: KIND) -> None:
    grid = StepTo(torch.linspace(0, 1, 9, **f64))
    seeded = rough(3, f64, noise=8, controller=grid).ys
    assert torch.equal(seeded, rough(3, f64, noise=BrownianGrid(8), controller=grid).ys)


def test_the_controller_is_that_of_the_method(f64: KIND) -> None:
    usual = rough(3, f64).stats.step
    p, i, d = SDE_METHODS["milstein"].gains
    named = PID(1e-2, 1e-2, pcoeff=p, icoeff=i, dcoeff=d)
    assert torch.equal(usual, rough(3, f64, controller=named).stats.step)
    other = PID(1e-2, 1e-2, icoeff=1.0)
    assert not torch.equal(usual, rough(3, f64, controller=other).stats.step)


@pytest.mark.parametrize("rows", [1, 3])
def test_stops_are_landed_on(rows: int, f64: KIND) -> None:
    marks = torch.tensor([0.1234, 0.71], **f64)
    jumps = torch.tensor([0.5], **f64)
    sol = rough(rows, f64, controller=PID(1e-2, 1e-2, step_t=marks, jump_t=jumps))
    for row in range(rows):
        begins = sol.stats.t[sol.stats.valid[:, row], row]
        for mark in (0.1234, 0.71, 0.5, 0.3):
            assert float((begins - mark).abs().min()) < 1e-15


@pytest.mark.parametrize("rows", [1, 3])
def test_a_sample_that_fails_leaves_the_others(rows: int, f64: KIND) -> None:
    def lost(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((t[:, None] >= 0.5) & (y > 50), torch.nan, -0.1 * y)

    y0 = torch.ones(rows, 1, **f64)
    y0[0] = 100.0
    sol = solve(
        SDETerm(lost, lambda t, y: 0.1 * y),
        y0,
        torch.tensor([0.0, 0.25, 1.0], **f64),
        method="milstein",
        controller=PID(1e-2, 1e-2),
        noise=4,
        throw=False,
    )
    assert sol.status[0] == Status.NON_FINITE_FIELD
    assert sol.ys[0, 1].isfinite().all() and sol.ys[0, 2].isnan().all()
    assert (sol.status[1:] == Status.SUCCESS).all()
    assert sol.ys[1:].isfinite().all()


def test_tolerances_out_of_reach_end_the_solve(f64: KIND) -> None:
    """No step is shorter than what the motion resolves."""
    with pytest.raises(SolveError, match="at t=.*shorter|step") as caught:
        rough(2, f64, controller=PID(1e-9, 1e-9, min_step=1e-3))
    assert caught.value.status == Status.STEP_UNDERFLOW
    assert "BrownianTree(..., tol=" in str(caught.value)
    forced = PID(1e-9, 1e-9, min_step=1e-2, force_min_step=True)
    assert rough(2, f64, controller=forced).ys.isfinite().all()


class Walked:
    """A motion that knows one time for all."""

    def __init__(self, inner: BrownianTree) -> None:
        self.inner, self.t0, self.t1 = inner, inner.t0, inner.t1
        self.size = inner.size

    def increment(self, ta: float, tb: float, levy: Levy = "none") -> BrownianIncrement:
        return self.inner.increment(ta, tb, levy)


def test_one_step_for_all_asks_any_motion(f64: KIND) -> None:
    y0 = torch.zeros(3, 2, **f64)
    ts = torch.tensor([0.0, 0.4, 1.0], **f64)
    noise = tree(3, 2, f64)
    options = {"method": "srk", "controller": PID(1e-2, 1e-2, max_step=0.1)}
    asked, known = (
        solve(WALK, y0, ts, batch="shared", noise=motion, **options)
        for motion in (Walked(noise), noise)
    )
    torch.testing.assert_close(asked.ys, known.ys, rtol=0, atol=1e-14)
    assert torch.equal(asked.stats.step, known.stats.step)
    with pytest.raises(ValueError, match=r"noise.*batch='shared'"):
        solve(WALK, y0, ts, noise=Walked(noise), **options)


@pytest.mark.parametrize("rows", [1, 3])
def test_along_a_bridge(rows: int, f64: KIND) -> None:
    y0, w = torch.zeros(rows, 2, **f64), torch.ones(rows, 2, **f64)
    ts = torch.tensor([0.0, 0.4, 1.0], **f64)
    bridge = BrownianBridge(tree(rows, 2, f64), w)
    options = {"method": "srk", "controller": PID(1e-2, 1e-2, max_step=0.1)}
    sol = solve(WALK, y0, ts, noise=bridge, **options)
    want = bridge.increment(0.0, 0.4).w
    torch.testing.assert_close(sol.ys[:, 1], want, rtol=0, atol=1e-12)
    torch.testing.assert_close(sol.final, w, rtol=0, atol=1e-12)
    bridge = BrownianBridge(tree(rows, 2, f64), w.requires_grad_())
    with pytest.raises(ValueError, match=r"w or h requires grad.*Direct"):
        solve(WALK, y0, ts, noise=bridge, **options)


def test_gradients_of_a_bridge_are_not_lost(f64: KIND) -> None:
    w = torch.ones(3, 2, **f64).requires_grad_()
    options = {
        "noise": BrownianBridge(tree(3, 2, f64), w),
        "controller": StepTo(torch.tensor([0.5], **f64)),
        "method": "euler",
    }
    y0, ts = torch.zeros(3, 2, **f64), torch.tensor([0.0, 1.0], **f64)
    with pytest.raises(ValueError, match=r"noise.*require grad.*Direct"):
        solve(WALK, y0, ts, **options)
    solve(WALK, y0, ts, adjoint=Direct(), **options).final.sum().backward()
    torch.testing.assert_close(w.grad, torch.ones_like(w))


def test_refusals(f64: KIND) -> None:
    with pytest.raises(ValueError, match=r"noise is a BrownianGrid.*noise=seed"):
        rough(2, f64, noise=BrownianGrid(1))
    with pytest.raises(ValueError, match="'euler' has no error estimate.*lamba_em"):
        rough(2, f64, method="euler")
    with pytest.raises(ValueError, match=r"motion covers \[0.0, 0.5\]"):
        rough(2, f64, noise=tree(2, 2, f64, t1=0.5))
    with pytest.raises(ValueError, match=r"noise has size \(3, 2\)"):
        rough(2, f64, noise=tree(3, 2, f64))
    with pytest.raises(ValueError, match="noise is no seed"):
        rough(2, f64, noise=-1)
    with pytest.raises(ValueError, match="'tsit5' solves ODEs.*sosri2"):
        rough(2, f64, method="tsit5")


def test_nothing_to_solve(f64: KIND) -> None:
    for rows, ts in ((0, [0.0, 1.0]), (2, [0.5]), (1, [0.5])):
        sol = rough(rows, f64, ts=torch.tensor(ts, **f64), noise=1)
        assert sol.ys.shape == (rows, len(ts), 2)
        assert (sol.stats.accepted == 0).all()


@pytest.mark.parametrize("rows", [1, 3])
def test_single_precision(rows: int, device: torch.device) -> None:
    """Along the path of double precision, to its error."""
    single, double = (
        {"dtype": dtype, "device": device} for dtype in (torch.float32, torch.float64)
    )
    noise = tree(rows, 2, double)
    pid = PID(1e-2, 1e-2)
    found = rough(rows, single, noise=noise, controller=pid, method="sosri2").ys
    want = rough(rows, double, noise=noise, controller=pid, method="sosri2").ys
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_prior_and_many_paths(rows: int, f64: KIND) -> None:
    """KL of drifts a noise size apart: half the time in each entry, on any steps."""
    term = SDETerm(
        lambda t, y: -y + 0.5 * (1 + y**2).sqrt(),
        lambda t, y: 0.5 * (1 + y**2).sqrt(),
        prior=lambda t, y: -y,
    )
    ts = torch.tensor([0.0, 0.3, 1.0], **f64)
    sol = rough(rows, f64, term=term, ts=ts, noise=1, paths=4)
    assert sol.path_kl.shape == (4 * rows, 3)
    want = 2 * (0.5 * ts).expand(4 * rows, 3)
    torch.testing.assert_close(sol.path_kl, want, rtol=1e-9, atol=1e-12)
    assert sol.ensemble.mean().shape == (rows, 3, 2)
    steps = sol.stats.accepted
    assert len(set(steps.tolist())) > 1


def test_explained_by_what_helps_an_sde(f64: KIND) -> None:
    told = str(rough(4, f64, controller=PID(1e-3, 1e-3)).explain())
    assert "tsit5" not in told and "Event" not in told and "jump_t" not in told
    assert "'srk' or 'sosri2'" in told
