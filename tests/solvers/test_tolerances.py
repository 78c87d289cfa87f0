"""Tolerances in every form, norms, and what a dtype resolves."""

import warnings

import pytest
import torch
from problems import KIND, OSCILLATOR, normal
from torch import Tensor

from nde.solvers import ODE_METHODS, PID, FixedSteps, ODETerm, Solution, solve

BATCHES = pytest.mark.parametrize("batch", ["per_sample", "shared"])
TS = (0.0, 3.0)


def apart(t: Tensor, y: Tensor) -> Tensor:
    """Two copies of one nonlinear equation that know nothing of one another."""
    return y.sin() * (1 + t.reshape(-1, 1)).cos() * 3.0


def solved(f64: KIND, controller: object, **options: object) -> Solution:
    ts = torch.tensor(TS, **f64)
    y0 = torch.tensor([[0.5, 0.5], [1.5, 1.5]], **f64)
    return solve(ODETerm(apart), y0, ts, controller=controller, **options)


def exact(f64: KIND) -> Tensor:
    return solved(f64, PID(1e-12, 1e-13), method="vern7").final


@BATCHES
def test_a_tight_component_costs_what_it_asks(batch: str, f64: KIND) -> None:
    """Loose on one and tight on the other is nearly as good as tight on both."""
    wanted = exact(f64)
    tight = solved(f64, PID(1e-9, 1e-11), batch=batch)
    loose = solved(f64, PID(1e-2, 1e-2), batch=batch)
    rtol, atol = torch.tensor([1e-9, 1e-2]), torch.tensor([1e-11, 1e-2])
    mixed = solved(f64, PID(rtol, atol, icoeff=1.0), batch=batch)
    assert loose.stats.accepted.max() < mixed.stats.accepted.min()
    assert (mixed.final - wanted).abs().max() < 1e-7
    assert (loose.final - wanted).abs().max() > 1e-5
    assert mixed.stats.accepted.max() <= tight.stats.accepted.max()


@pytest.mark.parametrize("as_number", [True, False])
def test_equal_tolerances_in_every_form(as_number: bool, f64: KIND) -> None:
    """Numbers, broadcast tensors and structures give the same steps, bit for bit."""
    wanted = solved(f64, PID(1e-6, 1e-8))
    tensor = {"dtype": torch.float64}
    for rtol, atol in (
        (torch.tensor(1e-6, **tensor), torch.tensor(1e-8, **tensor)),
        (torch.full((2,), 1e-6, **tensor), torch.full((2, 1), 1e-8, **tensor)),
        (torch.full((1, 2), 1e-6, **tensor), 1e-8),
        (1e-6, torch.full((2, 2), 1e-8, **tensor)),
    ):
        found = solved(f64, PID(rtol, atol))
        assert torch.equal(found.final, wanted.final)
        assert torch.equal(found.stats.step, wanted.stats.step)


@BATCHES
def test_tolerances_of_each_sample(batch: str, f64: KIND) -> None:
    rtol = torch.tensor([[1e-9], [1e-3]], **f64)
    sol = solved(f64, PID(rtol, rtol / 10), batch=batch)
    error = (sol.final - exact(f64)).abs().amax(1)
    assert error[0] < 1e-7
    if batch == "per_sample":
        assert sol.stats.accepted[0] > 3 * sol.stats.accepted[1]
        assert error[1] > 1e-7


def nested(t: Tensor, y: dict) -> dict:
    x, (v, w) = y["x"], y["pair"]
    return {"x": v.sum(1, keepdim=True) - x, "pair": (-v * w.abs(), w - w**3)}


def nested_y0(f64: KIND) -> dict:
    x, v, w = (normal((3, n), n, **f64) for n in (1, 2, 2))
    return {"x": x, "pair": (v, w)}


@BATCHES
def test_tolerances_of_each_leaf(batch: str, f64: KIND) -> None:
    y0, ts = nested_y0(f64), torch.tensor(TS, **f64)
    runs = {}
    for name, rtol, atol in (
        ("plain", 1e-6, 1e-8),
        ("nested", {"x": 1e-6, "pair": (1e-6, 1e-6)}, {"x": 1e-8, "pair": 1e-8}),
        ("lists", {"x": 1e-6, "pair": [1e-6, torch.full((2,), 1e-6)]}, 1e-8),
        ("tight", 1e-6, {"x": 1e-8, "pair": (1e-8, torch.tensor([1e-8, 1e-14]))}),
    ):
        runs[name] = solve(
            ODETerm(nested), y0, ts, controller=PID(rtol, atol), batch=batch
        )
    plain = runs["plain"].stats.accepted
    assert torch.equal(runs["nested"].stats.accepted, plain)
    assert torch.equal(runs["lists"].stats.accepted, plain)
    assert (runs["tight"].stats.accepted >= plain).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rtol": {"x": 1e-3}}, "rtol"),
        ({"rtol": {"x": 1e-3, "pair": (1e-3,)}}, r"rtol\['pair'\]"),
        ({"atol": {"x": 1e-3, "pair": {"a": 1.0}}}, r"atol\['pair'\]"),
        ({"atol": {"x": 1e-3, "pair": (1e-3, torch.ones(3))}}, r"atol\['pair'\]\[1\]"),
        ({"atol": {"x": 1e-3, "y": 1e-3}}, "atol"),
        ({"atol": {"x": torch.ones(2), "pair": 1e-3}}, r"atol\['x'\]"),
        ({"rtol": [1e-3, 1e-3]}, "rtol"),
        ({"atol": torch.ones(2)}, "atol"),
    ],
)
def test_structures_that_do_not_fit(options: dict, match: str, f64: KIND) -> None:
    for controller in (PID(**options), FixedSteps(0.1, **options)):
        with pytest.raises((TypeError, ValueError), match=match):
            solve(
                ODETerm(nested),
                nested_y0(f64),
                torch.tensor(TS, **f64),
                controller=controller,
            )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rtol": -1e-3}, "rtol"),
        ({"rtol": float("nan")}, "rtol"),
        ({"atol": float("inf")}, "atol"),
        ({"atol": torch.tensor([1e-3, -1.0])}, "atol"),
        ({"atol": torch.tensor([1e-3, float("nan")])}, "atol"),
        ({"atol": torch.zeros(0)}, "atol"),
        ({"rtol": "small"}, "rtol"),
        ({"rtol": {"x": None}}, r"rtol\['x'\]"),
        ({"rtol": True}, "rtol"),
        ({"rtol": 0.0, "atol": 0.0}, "cannot both be 0"),
        ({"rtol": 0, "atol": {"x": 0, "y": torch.zeros(2)}}, "cannot both be 0"),
    ],
)
def test_bad_tolerances(options: dict, match: str) -> None:
    for make in (PID, lambda **o: FixedSteps(0.1, **o)):
        with pytest.raises((TypeError, ValueError), match=match):
            make(**options)


@BATCHES
def test_a_norm_that_is_stricter_takes_more_steps(batch: str, f64: KIND) -> None:
    shapes = set()

    def largest(scaled: Tensor) -> Tensor:
        shapes.add(tuple(scaled.shape))
        size = scaled.abs().amax(1)
        return size.max() if batch == "shared" else size

    y0, ts = normal((3, 2), 1, **f64), torch.tensor(TS, **f64)
    term = ODETerm(OSCILLATOR.field)
    options = {"batch": batch}
    rms = solve(term, y0, ts, controller=PID(1e-7, 1e-8), **options)
    sup = solve(term, y0, ts, controller=PID(1e-7, 1e-8, norm=largest), **options)
    assert (sup.stats.accepted >= rms.stats.accepted).all()
    assert (sup.stats.accepted > rms.stats.accepted).any()
    assert shapes == {(3, 2)}
    assert sup.stats.error_estimate.max() <= 1.0


def test_a_norm_sees_the_structure(f64: KIND) -> None:
    """With one leaf left out, its tolerance says nothing."""
    y0, ts = nested_y0(f64), torch.tensor(TS, **f64)
    counts = []
    for tight in (1e-3, 1e-13):
        sol = solve(
            ODETerm(nested),
            y0,
            ts,
            controller=PID(
                1e-3,
                {"x": 1e-3, "pair": (1e-3, tight)},
                norm=lambda e: e["x"].abs().amax(1) + e["pair"][0].abs().amax(1),
            ),
        )
        counts.append(sol.stats.accepted.tolist())
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("batch", "norm"),
    [
        ("per_sample", lambda e: e.abs().max()),
        ("per_sample", lambda e: e.abs()),
        ("per_sample", lambda e: 1.0),
        ("shared", lambda e: e.abs().amax(1)),
    ],
)
def test_norms_of_a_wrong_shape(batch: str, norm: object, f64: KIND) -> None:
    with pytest.raises(ValueError, match="norm returned"):
        solved(f64, PID(norm=norm), batch=batch)  # type: ignore[arg-type]


def mild(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack((y[:, 1] - 0.01 * y[:, 0], -y[:, 0] - 0.01 * y[:, 1]), -1)


@pytest.mark.parametrize("start", [[1.0, 0.5], [0.0, 0.0]])
@pytest.mark.parametrize("batch", [1, 2])
def test_float32_below_its_resolution(
    start: list[float], batch: int, device: torch.device
) -> None:
    """One warning where it is known beforehand, and no storm of rejected steps."""

    def push(t: Tensor, y: Tensor) -> Tensor:
        return mild(t, y) + 0.01 * t.reshape(-1, 1).cos()

    counts = {}
    for dtype in (torch.float64, torch.float32):
        kind = {"dtype": dtype, "device": device}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sol = solve(
                ODETerm(push),
                torch.tensor([start] * batch, **kind),
                torch.tensor([0.0, 1000.0], **kind),
                controller=PID(1e-7, 1e-9),
                max_steps=100_000,
            )
        told = [str(w.message) for w in caught]
        if dtype == torch.float32 and any(start):
            assert len(told) == 1 and "float32" in told[0] and "rtol=5.8e-07" in told[0]
            assert caught[0].filename == __file__
        else:
            assert told == []
        counts[dtype] = (int(sol.stats.accepted[0]), int(sol.stats.rejected[0]))
    accepted, rejected = counts[torch.float32]
    assert accepted <= 3 * counts[torch.float64][0]
    assert rejected < 0.2 * (accepted + rejected)


def test_gains_of_each_method() -> None:
    """Sums are 1 at most, and the classical ones where the literature gives them."""
    for name, method in ODE_METHODS.items():
        p, i, d = method.gains
        assert 0.0 < p + i + d <= 1.0 + 1e-12 and i > 0.0, name
    p, i, d = ODE_METHODS["dopri5"].gains
    # Hairer's DOPRI5: exponents 0.2 - 0.75 beta and beta = 0.04, times the order 5.
    assert (p, i, d) == pytest.approx((0.2, 0.65, 0.0))
    asked = PID(classical=True).for_method((p, i, d))
    assert (asked.pcoeff, asked.icoeff, asked.dcoeff) == (p, i, d)
    assert PID(pcoeff=0.4, icoeff=0.3).for_method((p, i, d)).pcoeff == 0.4


@pytest.mark.parametrize("gains", [(0.0, 1.0, 0.0), (0.4, 0.3, 0.0), (0.3, 0.3, 0.05)])
@BATCHES
def test_users_gains_reach_the_tolerance(
    gains: tuple[float, float, float], batch: str, f64: KIND
) -> None:
    p, i, d = gains
    controller = PID(1e-8, 1e-9, pcoeff=p, icoeff=i, dcoeff=d)
    sol = solved(f64, controller, batch=batch)
    assert (sol.final - exact(f64)).abs().max() < 1e-6
    assert sol.stats.error_estimate.max() <= 1.0
