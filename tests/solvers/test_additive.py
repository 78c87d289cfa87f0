"""What the check of additive noise finds, lets pass, costs and leaves behind."""

import warnings
from collections.abc import Callable

import pytest
import torch
from problems import KIND, normal
from torch import Tensor, nn, vmap

from nde.solvers import PID, Direct, FixedSteps, SDETerm, Solution, solve

Noise = Callable[[Tensor, Tensor], Tensor]
MESSAGE = r"noise='additive' says .* t alone, but .* another state.*noise='general'"


def solved(noise: Noise, y0: Tensor, **options: object) -> Solution:
    term = SDETerm(lambda t, y: -y, noise, noise="additive", noise_dim=2)
    ts = torch.tensor([0.0, 1.0], dtype=y0.dtype, device=y0.device)
    given = {"method": "sosra2", "controller": FixedSteps(0.25), "noise": 1}
    return solve(term, y0, ts, **{**given, **options})


def matrix(y: Tensor, entry: Tensor) -> Tensor:
    """A constant matrix for each sample, and an entry `(batch,)` added to one of it."""
    value = torch.ones(len(y), y.shape[1], 2, dtype=y.dtype, device=y.device)
    return value.index_add(
        2, torch.tensor([1], device=y.device), entry[:, None, None].expand(-1, 3, 1)
    )


DEPENDENT = {
    "linear": lambda t, y: matrix(y, 0.5 * y[:, 0]),
    "weak": lambda t, y: matrix(y, 1e-6 * y[:, 1]),
    "a difference": lambda t, y: matrix(y, y[:, 1] - y[:, 0]),
    "a sum": lambda t, y: matrix(y, y.sum(dim=1)),
    "of other samples": lambda t, y: matrix(y, y[:, 2].flip(0)),
    "not at the ends": lambda t, y: matrix(y, 4 * t * (1 - t) * y[:, 0]),
    "no number below 0": lambda t, y: matrix(y, 1 + 0 * (0.4 - y[:, 0]).sqrt()),
}


@pytest.mark.parametrize("name", DEPENDENT)
@pytest.mark.parametrize("controller", [PID(0.1, 0.1), FixedSteps(0.25)])
def test_a_diffusion_of_the_state_is_refused(
    name: str, controller: PID | FixedSteps, f64: KIND
) -> None:
    for rows in (2, 5):
        with pytest.raises(ValueError, match=MESSAGE):
            solved(
                DEPENDENT[name],
                torch.full((rows, 3), 0.3, **f64),
                controller=controller,
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_and_chance_are_no_dependence(
    dtype: torch.dtype, device: torch.device
) -> None:
    """A value made of the state by sums that cancel, one of time, and a random one."""
    y0 = normal((16, 3), 1, dtype=dtype, device=device)
    free = {
        "cancelling": lambda t, y: matrix(y, (y + 1).sum(dim=1) - y.sum(dim=1)),
        "of time": lambda t, y: matrix(y, t.expand(len(y)).cos()),
        "random": lambda t, y: matrix(y, torch.rand_like(y[:, 0])),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for noise in free.values():
            assert solved(noise, y0).final.isfinite().all()
            assert solved(noise, y0, batch="shared").final.isfinite().all()
            assert solved(noise, y0[:0]).final.shape == (0, 3)


def test_the_check_costs_two_calls_and_leaves_no_trace(f64: KIND) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros((), **f64))
            self.calls, self.first = 0, []

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.seen += 1
            self.calls += 1
            self.first.append(float(torch.rand(())))
            return matrix(y, t.expand(len(y)))

    module = Counting()
    torch.manual_seed(3)
    with torch.no_grad():
        sol = solved(module, torch.ones(2, 3, **f64), method="euler")
    assert module.calls == 4 + 2 and int(module.seen) == 4
    assert (sol.stats.evaluations == 4 + 2).all()
    # The first call of the solve draws what it would have drawn without the check.
    assert module.first[0] == module.first[2] != module.first[1]


def test_a_diffusion_that_raises_elsewhere_is_told(f64: KIND) -> None:
    def bounded(t: Tensor, y: Tensor) -> Tensor:
        if bool((y > 1.0).any()):
            raise ArithmeticError("y above 1\nof all things")
        return matrix(y, 0 * y[:, 0]) * 0

    with pytest.warns(UserWarning, match=r"not be checked: .*\('y above 1'\)") as found:
        solved(bounded, torch.full((2, 3), 0.9, **f64))
    assert len(found) == 1
    with pytest.raises(ArithmeticError, match="y above 1"):
        solved(bounded, torch.full((2, 3), 2.0, **f64))


def test_one_member_of_an_ensemble_is_enough(f64: KIND) -> None:
    def ended(size: Tensor) -> Tensor:
        return solved(
            lambda t, y: matrix(y, size * y[:, 0]),
            torch.ones(2, 3, **f64),
            adjoint=Direct(),
        ).final

    vmap(ended, randomness="same")(torch.zeros(2, **f64))
    with pytest.raises(ValueError, match=MESSAGE):
        vmap(ended, randomness="same")(torch.tensor([0.0, 0.5], **f64))
