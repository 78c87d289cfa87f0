"""What the check of diagonal noise finds, lets pass, costs and leaves behind."""

import warnings
from collections.abc import Callable

import pytest
import torch
from problems import KIND, normal
from torch import Tensor, nn

from nde.solvers import PID, SDETerm, Solution, solve

Noise = Callable[[Tensor, Tensor], Tensor]
WIDTH = 7


def still(t: Tensor, y: Tensor) -> Tensor:
    return torch.zeros_like(y)


def solved(noise: Noise, y0: Tensor, drift: Noise = still, t1: float = 0.1) -> Solution:
    return solve(
        SDETerm(drift, noise),
        y0,
        torch.tensor([0.0, t1], device=y0.device, dtype=y0.dtype),
        method="milstein",
        controller=PID(0.1, 0.1),
        noise=1,
    )


def of_another(i: int, j: int, seen: Callable[[Tensor], Tensor]) -> Noise:
    """Noise of size 1 whose entry i has a part made of entry j."""

    def noise(t: Tensor, y: Tensor) -> Tensor:
        part = torch.zeros_like(y)
        part[:, i] = seen(y[:, j])
        return 1 + part

    return noise


PAIRS = [(i, j) for i in range(WIDTH) for j in range(WIDTH) if i != j]


@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_any_entry_that_depends_on_any_other(i: int, j: int, f64: KIND) -> None:
    """Where the initial state shows it, where states beside it do, and at the end."""
    message = f"entry {i} of .* others"
    with pytest.raises(ValueError, match=message):
        solved(of_another(i, j, torch.sin), torch.full((2, WIDTH), 0.5, **f64))
    with pytest.raises(ValueError, match=message):
        # Flat at 0.5 itself, to more digits than a move shows.
        solved(
            of_another(i, j, lambda x: (x - 0.5) ** 6 * 1e6),
            torch.full((2, WIDTH), 0.5, **f64),
        )
    with pytest.warns(UserWarning, match=f"{message}.*where the solve ended"):
        solved(
            of_another(i, j, torch.relu),
            torch.full((2, WIDTH), -9.0, **f64),
            lambda t, y: torch.full_like(y, 200.0),
        )


@pytest.mark.parametrize("own_times", [False, True])
def test_dependence_that_is_gone_at_both_ends(own_times: bool, f64: KIND) -> None:
    def noise(t: Tensor, y: Tensor) -> Tensor:
        part = (t * (end - t)).unsqueeze(-1) * y[:, :1]
        return 1 + torch.cat([0 * part, part.expand(-1, y.shape[1] - 1)], dim=1)

    end = torch.tensor([0.1, 0.3], **f64) if own_times else torch.tensor(0.1, **f64)
    ts = torch.stack([0 * end, end], dim=-1)
    with pytest.raises(ValueError, match="entry 1 of .* others"):
        solve(
            SDETerm(still, noise),
            torch.ones(2, 3, **f64),
            ts,
            method="milstein",
            controller=PID(0.1, 0.1),
            noise=1,
        )


@pytest.mark.parametrize("width", [2, 8, 100])
def test_calls_of_the_check(width: int, f64: KIND) -> None:
    """Two and one for each binary digit of the width, at two states and the end."""
    calls = 0

    def noise(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.ones_like(y)

    solve(
        SDETerm(still, noise),
        torch.ones(1, width, **f64),
        torch.zeros(1, **f64),
        method="milstein",
        controller=PID(0.1, 0.1),
        noise=1,
    )
    assert calls >= 3 * (2 + width.bit_length())
    assert calls <= 3 * (2 + width.bit_length()) + 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [3, 64])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rounding_of_intermediates_is_no_dependence(
    dtype: torch.dtype, width: int, seed: int, device: torch.device
) -> None:
    """Diagonal in exact arithmetic: turned there and back, and about a large number."""
    kind = {"dtype": dtype, "device": device}
    q = torch.linalg.qr(normal((width, width), seed, **kind))[0]
    y0 = normal((32, width), seed + 10, **kind)
    diagonal = {
        "turned": lambda t, y: 0.1 * (y @ q) @ q.T,
        "bent": lambda t, y: 0.1 * torch.sin((3 * y @ q) @ q.T),
        "shifted": lambda t, y: 0.1 * (((y + 30) @ q) @ q.T - 30),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for noise in diagonal.values():
            assert solved(noise, y0).ys.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dependence_is_found_beside_larger_changes(
    dtype: torch.dtype, device: torch.device
) -> None:
    """In an entry of other units, and under the rounding of intermediates."""
    kind = {"dtype": dtype, "device": device}
    q = torch.linalg.qr(normal((8, 8), 1, **kind))[0]

    def scales(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 0], 1 + 1e-4 * y[:, 0]], 1)

    with pytest.raises(ValueError, match="entry 1 of .* others"):
        solved(scales, torch.tensor([[1e3, 1.0]], **kind))
    with pytest.raises(ValueError, match="entry . of .* others"):
        solved(lambda t, y: (y @ q) @ q.T + 0.05 * y.flip(1), normal((4, 8), 2, **kind))


def test_a_diffusion_that_raises_beside_the_states_is_told(f64: KIND) -> None:
    def bounded(t: Tensor, y: Tensor) -> Tensor:
        if bool((y > 1.0).any()):
            raise ArithmeticError("y above 1\nof all things")
        return torch.zeros_like(y)

    message = (
        r"'milstein' .* could not be checked: .* raised ArithmeticError\('y above 1'\) "
    )
    y0 = torch.ones(2, 3, **f64)
    with pytest.warns(UserWarning, match=message) as found:
        assert torch.equal(solved(bounded, y0).final, y0)
    told = [str(warning.message) for warning in found]
    assert len(told) == 2 and "beside the initial state" in told[0]
    assert "beside where the solve ended" in told[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ArithmeticError, match="y above 1"):
            solved(bounded, 2 * y0)


def test_the_check_leaves_buffers_as_they_were(f64: KIND) -> None:
    """The calls of the solve alone are counted by a module, and by how a function
    that holds on to it gets there."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros((), **f64))
            self.calls = 0

        def forward(self, y: Tensor) -> Tensor:
            self.seen += 1
            self.calls += 1
            return torch.ones_like(y)

    module = Counting()
    solved(lambda t, y: module(y), torch.ones(2, 2, **f64))
    assert module.calls - int(module.seen) == 3 * (2 + 2)
    assert int(module.seen) > 0
