"""A sample's result, steps and gradient do not depend on its neighbours."""

from dataclasses import dataclass

import pytest
import torch
from problems import KIND, Field, TimedMLP, column, normal
from torch import Tensor, nn

from nde.solvers import (
    PID,
    BrownianGrid,
    Direct,
    FixedSteps,
    ODETerm,
    Recompute,
    SDETerm,
    Solution,
    SolveError,
    Status,
    solve,
)

ODD = 17  # the row of the sample unlike the others
TIGHT = PID(rtol=1e-5, atol=1e-5)
ADJOINTS = pytest.mark.parametrize(
    "adjoint", [Recompute(), Direct()], ids=["recompute", "direct"]
)


def others(batch: int = 64) -> list[int]:
    return [i for i in range(batch) if i != ODD]


def relaxation(rate: Tensor) -> Field:
    """y' = -rate (y - cos t): elementwise, stiff where the rate is large."""
    return lambda t, y: -rate * (y - column(t).cos())


def rates(**kind: torch.dtype | torch.device) -> Tensor:
    out = torch.linspace(0.5, 3.0, 64, **kind)[:, None]
    out[ODD] = 1000.0
    return out


@dataclass(frozen=True)
class Run:
    solution: Solution
    by_y0: Tensor
    by_rate: Tensor


def run(y0: Tensor, rate: Tensor, ts: Tensor, method: str, adjoint: object) -> Run:
    y0, rate = y0.clone().requires_grad_(), rate.clone().requires_grad_()
    solution = solve(
        ODETerm(relaxation(rate)),
        y0,
        ts,
        method=method,
        controller=TIGHT,
        adjoint=adjoint,
    )
    loss = (solution.ys**2).sum() + solution.stats.error_estimate.nan_to_num().sum()
    return Run(solution, *torch.autograd.grad(loss, (y0, rate)))


@ADJOINTS
@pytest.mark.parametrize("method", ["heun_euler", "bosh3", "dopri5", "tsit5"])
def test_a_stiff_neighbour_changes_no_bit(
    method: str, adjoint: object, f64: KIND
) -> None:
    if method == "heun_euler" and adjoint == Direct():
        pytest.skip("the same loop with thousands of taped steps")
    y0, rate = normal((64, 3), 0, **f64), rates(**f64)
    ts = torch.tensor([0.0, 0.3, 0.8], **f64)
    keep = others()
    mixed = run(y0, rate, ts, method, adjoint)
    alone = run(y0[keep], rate[keep], ts, method, adjoint)
    stiff_steps = mixed.solution.stats.accepted[ODD]
    assert stiff_steps > 2 * alone.solution.stats.accepted.max()

    for name in ("evaluations", "accepted", "rejected"):
        got = getattr(mixed.solution.stats, name)[keep]
        assert torch.equal(got, getattr(alone.solution.stats, name)), name
    rows = int(alone.solution.stats.accepted.max())
    for name in ("valid", "t", "step", "error_estimate"):
        got = getattr(mixed.solution.stats, name)[:rows, keep]
        assert torch.equal(got, getattr(alone.solution.stats, name)[:rows]), name
    assert torch.equal(mixed.solution.ys[keep], alone.solution.ys)
    assert torch.equal(mixed.by_y0[keep], alone.by_y0)
    assert torch.equal(mixed.by_rate[keep], alone.by_rate)


def test_order_of_the_samples_does_not_matter(f64: KIND) -> None:
    y0, rate = normal((64, 3), 0, **f64), rates(**f64)
    ts = torch.tensor([0.0, 0.3, 0.8], **f64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    first = run(y0, rate, ts, "tsit5", Recompute())
    second = run(y0[order], rate[order], ts, "tsit5", Recompute())
    assert torch.equal(first.solution.ys[order], second.solution.ys)
    assert torch.equal(first.by_rate[order], second.by_rate)


def test_a_sample_alone_is_the_sample_in_the_batch(f64: KIND) -> None:
    """A pair bit for bit; one alone, which the host steps, to rounding."""
    y0, rate = normal((64, 3), 0, **f64), rates(**f64)
    ts = torch.tensor([0.0, 0.3, 0.8], **f64)
    full = run(y0, rate, ts, "dopri5", Recompute())
    for i in (0, ODD, 62):
        two = run(y0[i : i + 2], rate[i : i + 2], ts, "dopri5", Recompute())
        assert torch.equal(two.solution.ys, full.solution.ys[i : i + 2])
        assert torch.equal(two.by_y0, full.by_y0[i : i + 2])
        one = run(y0[i : i + 1], rate[i : i + 1], ts, "dopri5", Recompute())
        torch.testing.assert_close(
            one.solution.ys[0], full.solution.ys[i], rtol=1e-11, atol=1e-13
        )
        torch.testing.assert_close(one.by_y0[0], full.by_y0[i], rtol=1e-8, atol=1e-10)


class Mixed(nn.Module):
    """A network times a rate per sample."""

    def __init__(self, net: nn.Module, rate: Tensor) -> None:
        super().__init__()
        self.net, self.rate = net, rate

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(t, y) - self.rate * y


@ADJOINTS
def test_a_stiff_neighbour_of_a_network(adjoint: object, f64: KIND) -> None:
    """Matrix products may round otherwise in another batch; nothing else may change."""
    net = TimedMLP(3).to(**f64)
    y0, rate, keep = normal((64, 3), 0, **f64), rates(**f64) / 5, others()
    ts = torch.tensor([0.0, 0.3, 0.8], **f64)
    results = []
    for rows in (list(range(64)), keep):
        term = ODETerm(Mixed(net, rate[rows]))
        sol = solve(term, y0[rows], ts, controller=TIGHT, adjoint=adjoint)
        mine = sol.ys[keep] if len(rows) == 64 else sol.ys
        grads = torch.autograd.grad((mine**2).sum(), list(net.parameters()))
        results.append((sol, mine, grads))
    (mixed, a, da), (alone, b, db) = results
    assert torch.equal(mixed.stats.accepted[keep], alone.stats.accepted)
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    for x, y in zip(da, db, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)


def test_duplicated_batch_gives_duplicated_results(f64: KIND) -> None:
    y0, ts = normal((5, 3), 3, **f64), torch.tensor([0.0, 1.0], **f64)
    net = TimedMLP(3).to(**f64)
    once = solve(ODETerm(net), y0, ts)
    twice = solve(ODETerm(net), y0.repeat(2, 1), ts)
    assert torch.equal(once.stats.accepted.repeat(2), twice.stats.accepted)
    torch.testing.assert_close(once.ys.repeat(2, 1, 1), twice.ys, rtol=1e-12, atol=0)


def nan_after_half(t: Tensor, y: Tensor) -> Tensor:
    """NaN in one row from t = 0.5 on."""
    odd = (torch.arange(len(y), device=y.device) == ODD)[:, None]
    late = column(t) > 0.5
    return torch.where(odd & late, torch.full_like(y, torch.nan), -y)


def blow_up(t: Tensor, y: Tensor) -> Tensor:
    """y' = y^2 in one row, which starts at 2 and has its pole at t = 0.5."""
    odd = (torch.arange(len(y), device=y.device) == ODD)[:, None]
    return torch.where(odd, y * y, -y)


def square_root_edge(t: Tensor, y: Tensor) -> Tensor:
    """A natural NaN in one row: the root of a negative number from t = 0.5 on."""
    odd = (torch.arange(len(y), device=y.device) == ODD)[:, None]
    inside = torch.where(odd, 0.5 - column(t), torch.ones_like(y))
    return -y + 0.1 * inside.sqrt()


BAD_FIELDS = pytest.mark.parametrize(
    "field", [nan_after_half, blow_up, square_root_edge], ids=lambda f: f.__name__
)


@ADJOINTS
@BAD_FIELDS
def test_a_failing_sample_stops_alone(field: Field, adjoint: object, f64: KIND) -> None:
    keep = others()
    weight = torch.ones(3, requires_grad=True, **f64)
    y0 = normal((64, 3), 0, **f64)
    y0[ODD] = 2.0
    y0.requires_grad_()
    ts = torch.tensor([0.0, 0.2, 1.0], **f64)
    sol = solve(
        ODETerm(lambda t, y: field(t, y) * weight),
        y0,
        ts,
        controller=TIGHT,
        adjoint=adjoint,
        throw=False,
        max_steps=500,
    )
    assert sol.status[ODD] != Status.SUCCESS
    assert (sol.status[keep] == Status.SUCCESS).all()

    reached = sol.stats.t[:, ODD] + sol.stats.step[:, ODD]
    assert 0.2 < reached.max() < 0.5 + 1e-3
    assert sol.ys[ODD, 1].isfinite().all(), "an output before the failure was lost"
    assert sol.ys[ODD, 2].isnan().all(), "an output that was not reached looks real"
    want = y0.detach()[:, None] * torch.exp(-ts)[:, None]
    if field is not square_root_edge:
        torch.testing.assert_close(sol.ys[keep].detach(), want[keep], rtol=0, atol=1e-4)

    loss = (sol.ys[keep] ** 2).sum() + (sol.ys[ODD, 1] ** 2).sum()
    by_y0, by_weight = torch.autograd.grad(loss, (y0, weight))
    assert by_y0.isfinite().all()
    assert by_weight.isfinite().all()
    assert by_y0[ODD].abs().min() > 0


@BAD_FIELDS
def test_a_failing_sample_changes_no_neighbour(field: Field, f64: KIND) -> None:
    keep = others()
    y0 = normal((64, 3), 0, **f64)
    y0[ODD] = 2.0
    ts = torch.tensor([0.0, 0.2, 1.0], **f64)
    mixed = solve(ODETerm(field), y0, ts, throw=False, max_steps=500)
    y0[ODD] = 0.1

    def tame(t: Tensor, y: Tensor) -> Tensor:
        odd = (torch.arange(len(y), device=y.device) == ODD)[:, None]
        return torch.where(odd, -y, field(t, y))

    tamed = solve(ODETerm(tame), y0, ts)
    assert torch.equal(mixed.ys[keep], tamed.ys[keep])
    assert torch.equal(mixed.stats.accepted[keep], tamed.stats.accepted[keep])


@ADJOINTS
def test_masked_loss_over_a_failed_batch_is_finite(adjoint: object, f64: KIND) -> None:
    """The usual policy: zero the failed rows' loss with `where` on the status."""
    y0 = normal((64, 3), 0, **f64)
    y0[ODD] = 2.0
    y0.requires_grad_()
    ts = torch.tensor([0.0, 1.0], **f64)
    sol = solve(ODETerm(blow_up), y0, ts, adjoint=adjoint, throw=False, max_steps=500)
    good = (sol.status == Status.SUCCESS)[:, None, None]
    loss = torch.where(good, sol.ys, torch.zeros_like(sol.ys)).square().sum()
    assert torch.autograd.grad(loss, y0)[0].isfinite().all()


def test_the_error_names_the_sample_and_the_time(f64: KIND) -> None:
    y0 = normal((64, 3), 0, **f64)
    with pytest.raises(SolveError) as caught:
        solve(ODETerm(nan_after_half), y0, torch.tensor([0.0, 1.0], **f64))
    assert caught.value.samples == (ODD,)
    assert caught.value.times[0] == pytest.approx(0.5, abs=0.01)
    assert str(ODD) in str(caught.value)
    assert "0.5" in str(caught.value) or "0.49" in str(caught.value)


def test_shared_step_is_one_step_for_all(f64: KIND) -> None:
    y0, rate = normal((64, 3), 0, **f64), rates(**f64)
    times: list[int] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        times.append(t.ndim)
        return -rate * (y - t.cos())

    ts = torch.tensor([0.0, 0.8], **f64)
    sol = solve(ODETerm(field), y0, ts, controller=TIGHT, batch="shared")
    assert set(times) == {0}
    assert sol.stats.accepted.unique().numel() == 1
    assert sol.stats.evaluations.unique().numel() == 1
    assert (sol.stats.step == sol.stats.step[:, :1]).all()
    # One RMS over the whole batch, not a mean of rows.
    assert (sol.stats.error_estimate == sol.stats.error_estimate[:, :1]).all()


def test_a_path_of_its_own_seed_has_no_neighbours(f64: KIND) -> None:
    """An SDE's samples with seeds of their own: alone, in company, beside a longer."""
    seeds = torch.tensor([7, 11, 13])
    term = SDETerm(lambda t, y: -y, lambda t, y: 0.5 + 0.1 * y.sin())
    y0 = normal((3, 3), 0, **f64)

    def ends(rows: list[int], last: float) -> Tensor:
        stop = torch.tensor([1.0, 1.0, last], **f64)[rows]
        ts = torch.stack([torch.zeros_like(stop), stop], dim=1)
        noise = BrownianGrid(seeds[rows])
        controller = FixedSteps(0.07)
        sol = solve(
            term, y0[rows], ts, method="euler", controller=controller, noise=noise
        )
        return sol.final

    whole = ends([0, 1, 2], 1.0)
    assert torch.equal(ends([0, 1, 2], 3.0)[:2], whole[:2])
    assert torch.equal(ends([1, 0], 1.0), whole[[1, 0]])
    assert not torch.equal(whole[0] - whole[1], torch.zeros_like(whole[0]))


def test_seeds_must_fit(f64: KIND) -> None:
    term = SDETerm(lambda t, y: -y, lambda t, y: torch.ones_like(y))
    y0, ts = normal((3, 2), 0, **f64), torch.tensor([0.0, 1.0], **f64)
    with pytest.raises(ValueError, match="2 seeds were given for a batch of 3"):
        solve(
            term,
            y0,
            ts,
            method="euler",
            controller=FixedSteps(0.1),
            noise=BrownianGrid(torch.tensor([1, 2])),
        )
    with pytest.raises(TypeError, match="int64 tensor"):
        BrownianGrid(torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="negative"):
        BrownianGrid(torch.tensor([1, -2]))
