"""STEER: the law of the moved end times, their order, and that evaluation has none."""

import math

import pytest
import torch
from problems import KIND, normal
from torch import Tensor

from nde.models import ControlledODE, NeuralODE, NeuralSDE, SolverSettings
from nde.regularizers import EndTime, ErrorEstimate, NormalEnd, UniformEnd
from nde.solvers.control import HermiteCubic

COUNT = 20_000


def many(moves: EndTime, times: list[float], f64: KIND) -> Tensor:
    """Times of so many draws, one for each row."""
    torch.manual_seed(0)
    return moves.moved(torch.tensor(times, **f64).expand(COUNT, len(times)))


@pytest.mark.parametrize("times", [[1.0, 3.0], [3.0, 1.0]])
def test_the_uniform_law(times: list[float], f64: KIND) -> None:
    """U(t1 - b, t1 + b), b = 0.6 * 2: Kolmogorov-Smirnov at four parts in 10^5."""
    ends = many(UniformEnd(0.6), times, f64)
    assert (ends[:, 0] == times[0]).all()
    u = (ends[:, 1] - (times[1] - 1.2)) / 2.4
    assert u.min() > 0.0
    assert u.max() < 1.0
    grid = torch.linspace(0.0, 1.0, COUNT, **f64)
    distance = (u.sort().values - grid).abs().max().item()
    assert distance < 2.3 / math.sqrt(COUNT)


def test_the_normal_law(f64: KIND) -> None:
    """Mean and deviation within four standard errors; nothing is cut off at 8 s."""
    z = (many(NormalEnd(0.124), [1.0, 3.0], f64)[:, 1] - 3.0) / (0.124 * 2.0)
    assert abs(z.mean().item()) < 4 / math.sqrt(COUNT)
    assert abs(z.std().item() - 1) < 4 / math.sqrt(2 * COUNT)
    inside = (z.abs() < 1).double().mean().item()
    assert abs(inside - 0.6827) < 4 * math.sqrt(0.6827 * 0.3173 / COUNT)


def test_a_wide_normal_law_keeps_the_direction(f64: KIND) -> None:
    ends = many(NormalEnd(0.9), [1.0, 3.0], f64)[:, 1]
    assert ends.min().item() == pytest.approx(1.002)
    assert ends.max().item() == pytest.approx(4.998)


@pytest.mark.parametrize("moves", [UniformEnd(0.5), NormalEnd(0.9)], ids=["u", "n"])
def test_several_times_keep_their_order(moves: EndTime, f64: KIND) -> None:
    """Each within half of the shorter interval beside it, and nearly up to that."""
    times = [0.0, 1.0, 1.5, 3.5]
    found = many(moves, times, f64)
    assert (found.diff(dim=1) >= 0).all()
    offset = (found - torch.tensor(times, **f64)).abs().amax(0).tolist()
    assert offset == pytest.approx([0.0, 0.25, 0.25, 1.0], rel=1e-3)


def test_one_draw_for_times_of_all_samples(f64: KIND) -> None:
    torch.manual_seed(1)
    ts = torch.tensor([0.0, 1.0], **f64)
    first, second = (UniformEnd().moved(ts) for _ in range(2))
    assert first.shape == ts.shape
    assert first[1] != second[1]
    rows = UniformEnd().moved(ts.expand(3, 2))
    assert rows[:, 1].unique().numel() == 3


def test_gradients_reach_the_times(f64: KIND) -> None:
    ts = torch.tensor([0.0, 1.0, 2.0], requires_grad=True, **f64)
    UniformEnd().moved(ts).sum().backward()
    assert ts.grad is not None
    assert ts.grad.tolist() == [1.0, 1.0, 1.0]


def test_repeated_times_stay(f64: KIND) -> None:
    ts = torch.tensor([[0.0, 1.0, 1.0]], **f64)
    assert torch.equal(UniformEnd().moved(ts), ts)


@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_a_layer_moves_its_end_in_training_alone(batch: str, f64: KIND) -> None:
    """y' = 1 from 0: the state tells the time; the penalties are those of the rest."""
    solver = SolverSettings(batch=batch)  # type: ignore[arg-type]
    layer = NeuralODE(
        lambda t, y: torch.ones_like(y),
        solver=solver,
        regularizers=[UniformEnd(0.5), ErrorEstimate()],
    )
    y0, ts = torch.zeros(2, 1, **f64), torch.tensor([0.0, 1.0], **f64)
    torch.manual_seed(2)
    ends = []
    for _ in range(50):
        out = layer(y0, ts)
        assert torch.equal(out.ys[0, -1], out.final[0])
        torch.testing.assert_close(out.final[:, 0], out.solution.ts[-1].expand(2))
        ends.append(out.final[0].item())
    assert list(out.weights) == ["error"]
    assert 0.5 < min(ends) < 0.6 < 1.4 < max(ends) < 1.5
    layer.eval()
    out = layer(y0, ts)
    assert torch.equal(out.solution.ts, ts)
    assert out.final[0].item() == pytest.approx(1.0, rel=1e-12)


def test_series_and_sdes(f64: KIND) -> None:
    """Also past the end of a series, where its path stands still."""
    torch.manual_seed(3)
    path = HermiteCubic(torch.linspace(0, 1, 5, **f64), normal((3, 5, 2), 12, **f64))
    ts = torch.tensor([0.0, 0.5, 1.0], **f64).expand(3, 3)
    for kind in (ControlledODE, NeuralSDE):
        layer = kind(2, 4, regularizers=[UniformEnd(0.5)]).to(**f64)
        out = layer(path, ts, seed=1)
        assert (out.solution.ts[:, 1:] != ts[:, 1:]).all()
        assert (out.penalty.item(), out.penalties) == (0.0, {})
        assert torch.equal(layer.eval()(path, ts, seed=1).solution.ts, ts)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, math.nan])
def test_shares_that_are_none(value: float, f64: KIND) -> None:
    with pytest.raises(ValueError, match="share must lie between 0 and 1"):
        UniformEnd(value)
    with pytest.raises(ValueError, match="deviation must lie between 0 and 1"):
        NormalEnd(value)


def test_what_is_refused(f64: KIND) -> None:
    ts = torch.tensor([0.0, 1.0, 2.0], **f64)
    with pytest.raises(ValueError, match=r"share is 0.6 with 2 output times.*0.5"):
        UniformEnd(0.6).moved(ts)
    with pytest.raises(ValueError, match="ts holds NaN"):
        UniformEnd(0.5).moved(torch.tensor([0.0, 1.0, math.nan], **f64))
    with pytest.raises(TypeError, match="share must be a number, got '0.5'"):
        UniformEnd("0.5")  # type: ignore[arg-type]
