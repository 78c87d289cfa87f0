"""Weights that adjust themselves, warm-up, and weights as text."""

import math
from collections.abc import Callable

import pytest
import torch
from penalised import END
from problems import KIND, TimedMLP, normal

from nde.models import NeuralODE, SolverSettings
from nde.regularizers import (
    AutoEvaluations,
    AutoShare,
    AutoWeight,
    ErrorEstimate,
    Exponential,
    Measured,
    WarmUp,
    Weight,
    weight_at,
    weight_of,
)
from nde.regularizers.weight_text import canonical


def test_warm_up() -> None:
    rising = WarmUp(4.0, 0.2)
    found = [rising.at(progress) for progress in (-1.0, 0.0, 0.05, 0.1, 0.2, 0.7, 1.0)]
    assert found == pytest.approx([0.0, 0.0, 1.0, 2.0, 4.0, 4.0, 4.0])
    both = WarmUp(Exponential(100.0, 10.0), 0.5)
    assert both.at(0.25) == pytest.approx(0.5 * 100.0 * 10.0**-0.25)
    assert weight_at(both, 1.0) == pytest.approx(10.0)
    with pytest.raises(ValueError, match="share of the warm-up"):
        WarmUp(1.0, 0.0)
    with pytest.raises(ValueError, match="weight"):
        WarmUp(-1.0)


def test_the_share_is_met_where_gradients_stand_still() -> None:
    """After one measurement w own / (w own + others) is the target."""
    weight = AutoShare(0.3)
    assert weight.at(0.0) == 0.0
    weight.update(Measured(0.0, 20.0))
    assert weight.at(0.0) == 0.0
    weight.update(Measured(0.0, 20.0, own=1e-4, others=5.0))
    part = weight.at(0.0) * 1e-4
    assert part / (part + 5.0) == pytest.approx(0.3)
    # Three tenths of the way, in the logarithm, to where the penalty is twice as steep.
    weight.update(Measured(0.0, 20.0, own=2e-4, others=5.0))
    assert weight.at(0.0) * 1e-4 == pytest.approx(part * 0.5**0.3)
    for _ in range(60):
        weight.update(Measured(0.0, 20.0, own=2e-4, others=5.0))
    assert weight.at(0.0) * 2e-4 == pytest.approx(part)


@pytest.mark.parametrize("own", [0.0, math.nan, math.inf, None])
def test_gradients_that_tell_nothing_change_nothing(own: float | None) -> None:
    for weight in (AutoShare(0.3), AutoEvaluations(0.6, 20.0)):
        weight.update(Measured(0.0, 20.0, own=1.0, others=5.0))
        before = weight.at(0.0)
        assert before > 0
        weight.update(Measured(0.1, 12.0, own=own, others=5.0))
        assert weight.at(0.0) == pytest.approx(before, rel=0.05)
        assert weight.at(0.0) > 0


def test_the_reference_is_what_the_free_steps_cost() -> None:
    weight = AutoEvaluations(0.5, free=0.4, rate=0.1)
    for step in range(40):
        weight.update(Measured(step / 100, 10.0 + step, own=1.0, others=9.0))
        assert weight.at(0.0) == 0.0
    # The running mean of a line lags nine steps behind.
    weight.update(Measured(0.4, 50.0, own=1.0, others=9.0))
    reference = weight.state()["reference"]
    assert reference == pytest.approx(41.0, abs=0.5)
    # A tenth of the gradient norm to begin with.
    assert weight.at(0.0) == pytest.approx(1.0)
    # Far above the target the step is exp(rate); at the target it is one.
    weight.update(Measured(0.41, 1000.0))
    assert weight.at(0.0) == pytest.approx(math.exp(0.1))


def test_the_weight_falls_below_the_target_and_stays_within_bounds() -> None:
    weight = AutoEvaluations(0.5, 100.0, rate=0.5)
    weight.update(Measured(0.0, 40.0, own=1.0, others=9.0))
    assert weight.at(0.0) == 0.0, "cheap enough as it is"
    weight.update(Measured(0.0, 400.0))
    assert weight.at(0.0) == 0.0, "nothing measured to set out from"
    for _ in range(60):
        weight.update(Measured(0.0, 400.0, own=1.0, others=9.0))
    part = weight.at(0.0)
    assert part / (part + 9.0) == pytest.approx(0.9)
    for _ in range(100):
        weight.update(Measured(0.0, 10.0, own=1.0, others=9.0))
    part = weight.at(0.0)
    assert part / (part + 9.0) == pytest.approx(1e-3)


MAKE = pytest.mark.parametrize(
    "make",
    [lambda: AutoShare(0.3), lambda: AutoEvaluations(0.6, free=0.2)],
    ids=["share", "evaluations"],
)


@MAKE
def test_a_restored_weight_goes_on_exactly(make: Callable[[], AutoWeight]) -> None:
    def steps(weight: AutoWeight, numbers: range) -> list[float]:
        found = []
        for step in numbers:
            norms = (1.0 + step % 5, 3.0) if step % 4 == 0 else (None, None)
            weight.update(Measured(step / 60, 30.0 + step % 7, *norms))
            found.append(weight.at(step / 60))
        return found

    whole = make()
    steps(whole, range(30))
    saved = dict(whole.state())
    resumed = make()
    resumed.restore(saved)
    want = steps(whole, range(30, 60))
    assert steps(resumed, range(30, 60)) == want
    assert len(set(want)) > 5
    other = AutoShare(0.3) if "reference" in saved else AutoEvaluations(0.6)
    with pytest.raises(ValueError, match="this weight has the state.*received"):
        other.restore(saved)


def test_a_training_reaches_its_target(f64: KIND) -> None:
    """Fitting a map that asks for many steps, at no more than 0.7 of them."""
    y0, ts = normal((16, 3), 6, **f64), torch.tensor([0.0, END], **f64)
    want = TimedMLP(3, seed=7, gain=4.0).to(**f64)(ts[0], y0).detach()
    costs = {}
    for name in ("free", "held"):
        net = TimedMLP(3, seed=6, gain=3.0).to(**f64)
        weight = AutoEvaluations(0.7, costs.get("free"), rate=0.1)
        own = () if name == "free" else (ErrorEstimate(weight=weight),)
        solver = SolverSettings(rtol=1e-5, atol=1e-6)
        layer = NeuralODE(net, solver=solver, regularizers=own)
        parameters = list(net.parameters())
        optimizer = torch.optim.Adam(parameters, lr=0.02)
        counts = []
        for step in range(160):
            out = layer(y0, ts)
            counts.append(out.solution.stats.evaluations.double().mean().item())
            optimizer.zero_grad()
            task = (out.final - want).square().mean()
            norms: list[float] = []
            if step % 5 == 0 and own:
                for part in (out.terms["error"], task):
                    pulled = torch.autograd.grad(part, parameters, retain_graph=True)
                    norms.append(torch.cat([g.flatten() for g in pulled]).norm().item())
            (task + out.penalty).backward()
            optimizer.step()
            weight.update(Measured(step / 160, counts[-1], *norms))
        costs[name] = sum(counts[-15:]) / 15
    assert 0.55 * costs["free"] < costs["held"] < 0.77 * costs["free"]


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        (0.5, float, 0.5),
        ("1e-3", float, 0.001),
        ("100:10", Exponential, "100:10"),
        ("2,warmup=0.25", WarmUp, "2,warmup=0.25"),
        ("100:10, warmup=0.1", WarmUp, "100:10,warmup=0.1"),
        ("auto:nfe=0.60", AutoEvaluations, "auto:nfe=0.6"),
        ("auto:nfe=0.6,of=81", AutoEvaluations, "auto:nfe=0.6,of=81"),
        ("auto:share=0.3", AutoShare, "auto:share=0.3"),
    ],
)
def test_weights_as_text(text: str | float, kind: type, shown: str | float) -> None:
    assert type(weight_of(text)) is kind
    assert canonical(text) == shown
    assert canonical(canonical(text)) == shown


def test_what_a_text_says() -> None:
    assert weight_of("100:10,warmup=0.2") == WarmUp(Exponential(100.0, 10.0), 0.2)
    known = weight_of("auto:nfe=0.6,of=81")
    assert isinstance(known, AutoEvaluations)
    assert (known.ratio, known.reference) == (0.6, 81.0)
    first, second = weight_of("auto:share=0.3"), weight_of("auto:share=0.3")
    assert first is not second, "each learns on its own"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "'a' is not a number"),
        ("1:0", "end must be finite"),
        ("-1", "not a finite number >= 0"),
        ("1:2:3", "more than two"),
        ("1,warmup=2", "share of the warm-up"),
        ("1,warm=0.1", "option 'warm'"),
        ("auto:nfe=1.5", "ratio must lie between 0 and 1"),
        ("auto:nfe=0.5,of=0", "reference must be finite"),
        ("auto:share=0", "share must lie between 0 and 1"),
        ("auto:share=0.3,nfe=0.5", "one target, nfe or share"),
        ("auto:of=81", "one target, nfe or share"),
        ("auto:", "option ''"),
        ("auto:nfe=0.5,nfe=0.6", "repeated option 'nfe'"),
    ],
)
def test_texts_that_are_no_weight(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        weight_of(text)
    assert "auto:share=SHARE" in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AutoShare(0.3, rate=0.0),
        lambda: AutoEvaluations(0.5, free=1.0),
        lambda: AutoEvaluations(0.5, rate=-1.0),
    ],
)
def test_settings_that_are_none(make: Callable[[], Weight]) -> None:
    with pytest.raises(ValueError, match="rate|free"):
        make()
