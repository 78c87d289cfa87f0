"""HermiteCubic against a plain loop over series, channels and knots."""

import math

import numpy as np
import pytest
import torch

from nde.solvers.control import HermiteCubic

NAN = math.nan


def fill(t: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Gap filling of one channel: linear inside, constant at both ends, else 0."""
    seen = np.flatnonzero(~np.isnan(x))
    if seen.size == 0:
        return np.zeros_like(x)
    return np.interp(t, t[seen], x[seen])


def hermite(t: np.ndarray, x: np.ndarray, at: float, order: int) -> float:
    """Value or slope at `at`, from the four Hermite basis polynomials."""
    x = fill(t, x)
    if len(t) == 1 or not t[0] <= at <= t[-1]:
        return 0.0 if order else float(np.interp(at, t, x))
    quotient = np.diff(x) / np.diff(t)
    slopes = np.concatenate([quotient[:1], quotient])
    k = min(int(np.searchsorted(t, at, side="right")) - 1, len(t) - 2)
    h = t[k + 1] - t[k]
    r = (at - t[k]) / h
    rows = np.array([x[k], h * slopes[k], x[k + 1], h * slopes[k + 1]])
    basis = [
        [1, 0, -3, 2],
        [0, 1, -2, 1],
        [0, 0, 3, -2],
        [0, 0, -1, 1],
    ]
    poly = np.polynomial.Polynomial(rows @ np.array(basis, dtype=float))
    return float(poly.deriv()(r) / h if order else poly(r))


def ragged(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    times, values = [], []
    for length in (7, 2, 12, 1, 5):
        times.append(np.cumsum(rng.uniform(0.05, 1.0, length)))
        x = rng.normal(size=(length, 3))
        x[rng.uniform(size=x.shape) < 0.4] = NAN
        values.append(x)
    values[0][:, 1] = NAN
    values[2][:3, 0] = NAN
    values[2][-4:, 2] = NAN
    return times, values


def padded(
    times: list[np.ndarray], values: list[np.ndarray], junk: float
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, times))
    t = np.stack([np.pad(a, (0, longest - len(a)), mode="edge") for a in times])
    x = np.stack(
        [
            np.pad(a, ((0, longest - len(a)), (0, 0)), constant_values=junk)
            for a in values
        ]
    )
    return torch.from_numpy(t), torch.from_numpy(x)


@pytest.mark.parametrize("junk", [NAN, 1e6])
@pytest.mark.parametrize("order", [0, 1])
def test_matches_a_loop_over_ragged_series(
    device: torch.device, junk: float, order: int
) -> None:
    times, values = ragged(0)
    t, x = padded(times, values, junk)
    path = HermiteCubic(t.to(device), x.to(device))
    for at in np.linspace(-0.1, t.max().item() + 0.1, 41):
        q = torch.full((len(times),), at, dtype=torch.float64, device=device)
        got = (path.derivative if order else path.evaluate)(q).cpu()
        want = [
            [hermite(a, v[:, c], at, order) for c in range(3)]
            for a, v in zip(times, values, strict=True)
        ]
        torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))
        zero_dim = (path.derivative if order else path.evaluate)(q[0]).cpu()
        assert torch.equal(zero_dim, got)


def test_shared_times_equal_repeated_times(device: torch.device) -> None:
    times, values = ragged(1)
    t = torch.from_numpy(times[2]).to(device)
    x = torch.from_numpy(np.stack([values[2], -values[2]])).to(device)
    shared, repeated = HermiteCubic(t, x), HermiteCubic(t.repeat(2, 1), x)
    q = torch.tensor([0.9, 2.7], dtype=t.dtype, device=device)
    for at in (q, q[0]):
        for name in ("evaluate", "derivative"):
            one, other = getattr(shared, name)(at), getattr(repeated, name)(at)
            torch.testing.assert_close(one, other)


def test_known_numbers(device: torch.device) -> None:
    """Observations 1, ?, 4 at times 0, 1, 3 and 2 at 4: filled 1, 2, 4, 2."""
    t = torch.tensor([0.0, 1.0, 3.0, 4.0], device=device)
    x = torch.tensor([[[1.0], [NAN], [4.0], [2.0]]], device=device)
    path = HermiteCubic(t, x)

    def at(time: float) -> float:
        return path.evaluate(torch.tensor(time, device=device)).item()

    assert [at(v) for v in (0.0, 1.0, 2.0, 3.0, 4.0)] == [1, 2, 3, 4, 2]
    # On [3, 4]: 4 + s - 6 s^2 + 3 s^3 (slope 1 at s = 0, slope -2 at s = 1).
    assert at(3.5) == pytest.approx(4 + 0.5 - 1.5 + 0.375)
    assert [at(-5.0), at(9.0)] == [1, 2]


def test_once_differentiable_at_the_knots(device: torch.device) -> None:
    t = torch.tensor([0.0, 0.5, 0.7, 2.0], dtype=torch.float64, device=device)
    x = torch.randn(2, 4, 3, dtype=torch.float64, device=device)
    path = HermiteCubic(t, x)
    for knot in t[1:-1]:
        for f in (path.evaluate, path.derivative):
            torch.testing.assert_close(
                f(knot - 1e-9), f(knot + 1e-9), atol=1e-6, rtol=0
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_dtype_and_device(device: torch.device, dtype: torch.dtype) -> None:
    t = torch.linspace(0, 1, 5, dtype=dtype, device=device)
    path = HermiteCubic(t, torch.randn(2, 5, 3, dtype=dtype, device=device))
    out = path.evaluate(t[2])
    assert (out.dtype, out.device.type) == (dtype, device.type)
    assert out.shape == (2, 3)
    assert path.derivative(t[:2]).dtype == dtype
    assert path.channels == 3


def test_gradients_in_values_are_exact_and_finite(device: torch.device) -> None:
    times, values = ragged(3)
    t, x = padded(times, values, NAN)
    t, x = t.to(device), x.to(device).requires_grad_()

    def energy(v: torch.Tensor) -> torch.Tensor:
        path = HermiteCubic(t, v)
        q = torch.tensor([1.1, 0.4, 3.0, 0.2, 9.0], dtype=t.dtype, device=device)
        return (path.evaluate(q) ** 2).sum() + path.derivative(0.3 * q).sum()

    (gradient,) = torch.autograd.grad(energy(x), x)
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient[x.isnan()] == 0).all())
    step = 1e-6
    for i, k, c in torch.nonzero(~x.isnan()).tolist()[::7]:
        bump = torch.zeros_like(x)
        bump[i, k, c] = step
        with torch.no_grad():
            slope = (energy(x + bump) - energy(x - bump)) / (2 * step)
        torch.testing.assert_close(gradient[i, k, c], slope, atol=1e-6, rtol=1e-5)


def test_series_do_not_see_each_other(device: torch.device) -> None:
    times, values = ragged(4)
    t, x = (a.to(device) for a in padded(times, values, NAN))
    q = t.mean(dim=1)
    alone = [
        HermiteCubic(t[i : i + 1], x[i : i + 1]).evaluate(q[i : i + 1]).squeeze(0)
        for i in range(len(times))
    ]
    assert torch.equal(HermiteCubic(t, x).evaluate(q), torch.stack(alone))


@pytest.mark.parametrize(
    ("times", "values", "error", "words"),
    [
        (torch.zeros(3), torch.zeros(3, 1), ValueError, "batch, L, channels"),
        (torch.zeros(4), torch.zeros(2, 3, 1), ValueError, r"\(3,\) or \(2, 3\)"),
        (torch.zeros(0), torch.zeros(2, 0, 1), ValueError, "at least one time"),
        (torch.tensor([0.0, 2.0, 1.0]), torch.zeros(2, 3, 1), ValueError, "increase"),
        (torch.tensor([0.0, 0.0, 1.0]), torch.zeros(2, 3, 1), ValueError, "increase"),
        (torch.tensor([0.0, NAN, 1.0]), torch.zeros(2, 3, 1), ValueError, "NaN"),
        (torch.arange(3), torch.zeros(2, 3, 1), TypeError, "floating point"),
        (torch.arange(3.0).double(), torch.zeros(2, 3, 1), TypeError, "single dtype"),
        (torch.arange(3.0), torch.full((2, 3, 1), math.inf), ValueError, "infinity"),
    ],
)
def test_bad_input_is_named(
    times: torch.Tensor, values: torch.Tensor, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        HermiteCubic(times, values)


def test_time_of_another_dtype_is_refused() -> None:
    path = HermiteCubic(torch.arange(3.0), torch.zeros(2, 3, 1))
    with pytest.raises(TypeError, match="float64"):
        path.evaluate(torch.tensor(0.5, dtype=torch.float64))
