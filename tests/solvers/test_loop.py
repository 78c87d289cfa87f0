"""The loops alone, driven by a stub stepper with scripted errors."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from problems import KIND, SPIRAL
from torch import Tensor

from nde.solvers import PID, ODETerm, Status, solve
from nde.solvers import loop as loops
from nde.solvers.bound import Bound, bind
from nde.solvers.problem import Problem
from nde.solvers.stages import Stages
from nde.solvers.state import structure_of
from nde.solvers.tape import Tape
from nde.solvers.term import Layout
from nde.solvers.tolerances import Tolerances
from nde.solvers.types import Increment, Step, StepOut

NAN = float("nan")
Loop = Callable[[Problem, tuple[Tensor, ...]], Tape]


@dataclass(frozen=True)
class Scripted:
    """y moves by h, as under y' = 1; the error of attempt n is given, per row."""

    script: tuple[tuple[float, ...], ...]
    seen: list[tuple[list[float], list[float]]] = field(default_factory=list)
    name: str = "scripted"
    error_order: int | None = 1
    has_stiffness: bool = False
    stability: float | None = None
    has_interpolant: bool = False
    start_evaluations: int = 0

    def evaluations(self, steps: Tensor) -> Tensor:
        return steps

    def workspace(self, y: Tensor, graph: bool) -> Stages | None:
        return None

    def start(self, term: Bound, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return ()

    def step(
        self,
        term: Bound,
        t: Step,
        y: Tensor,
        inc: Increment,
        carry: tuple[Tensor, ...],
        stages: Stages | None,
    ) -> StepOut:
        h = y.new_tensor([[inc.dt]]) if isinstance(inc.dt, float) else inc.dt
        start = [t] if isinstance(t, float) else t.tolist()
        self.seen.append((start, h[:, 0].tolist()))
        now = self.script[min(len(self.seen), len(self.script)) - 1]
        error = y.new_tensor(now)[:, None]
        return StepOut(y1=y + h, error=error, stiffness=None, carry=(), stages=None)


def problem(
    script: list[list[float]], t1: list[float], f64: KIND, **options: object
) -> Problem:
    """Rows from t = 0 under a controller that halves, keeps or doubles at will.

    With an error of order one and no safety the next step is h / error.
    """
    rows = len(t1)
    y0 = torch.zeros(rows, 1, **f64)
    end = torch.tensor(t1, **f64)
    settings: dict[str, object] = {"max_steps": 200, "first": 1.0, **options}
    return Problem(
        term=bind(
            ODETerm(lambda t, y: torch.ones_like(y)),
            Layout(structure_of(y0), shared=False, reverse=False),
        ),
        stepper=Scripted(tuple(tuple(row) for row in script)),
        controller=PID(
            rtol=0.0,
            atol=1.0,
            safety=1.0,
            factor_min=0.25,
            factor_max=4.0,
            first_step=settings["first"],
        ),
        t0=torch.zeros(rows, **f64),
        t1=end,
        y0=y0,
        reads=torch.stack((torch.zeros_like(end), end), 1),
        dense=False,
        keep=True,
        max_steps=settings["max_steps"],
        tolerances=Tolerances(0.0, 1.0),
    )


BOTH = pytest.mark.parametrize(
    "run", [loops.run_masked, loops.run_host], ids=["masked", "host"]
)


def column(tape: Tape, values: Tensor, row: int) -> list[float]:
    return tape.grid(values)[tape.valid[:, row], row].tolist()


@BOTH
def test_scripted_accepts_and_rejects(run: Loop, f64: KIND) -> None:
    # Accepted at 1, rejected at 2 (halved twice over), then kept, then doubled.
    script = [[1.0], [2.0], [1.0], [0.5], [1.0]]
    p = problem(script, [100.0], f64)
    tape = run(p, ())
    assert isinstance(p.stepper, Scripted)
    attempted = [h for _, (h,) in p.stepper.seen]
    assert attempted[:5] == [1.0, 1.0, 0.5, 0.5, 1.0]
    assert column(tape, tape.h, 0)[:4] == [1.0, 0.5, 0.5, 1.0]
    assert column(tape, tape.t, 0)[:4] == [0.0, 1.0, 1.5, 2.0]
    assert column(tape, tape.error, 0)[:3] == [1.0, 1.0, 0.5]
    assert tape.rejected.tolist() == [1]
    assert tape.accepted.item() == len(p.stepper.seen) - 1
    assert tape.y_end.item() == pytest.approx(100.0, rel=1e-14)
    assert tape.y is not None and tape.y[:, 0].tolist() == tape.t.tolist()


@BOTH
def test_the_factor_is_clamped(run: Loop, f64: KIND) -> None:
    p = problem([[1e-9], [1e9], [1.0]], [100.0], f64)
    run(p, ())
    assert isinstance(p.stepper, Scripted)
    assert [h for _, (h,) in p.stepper.seen][:3] == [1.0, 4.0, 1.0]


@BOTH
@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_a_non_finite_error_rejects_and_shrinks(
    bad: float, run: Loop, f64: KIND
) -> None:
    p = problem([[bad], [bad], [1.0]], [4.0], f64)
    tape = run(p, ())
    assert isinstance(p.stepper, Scripted)
    assert [h for _, (h,) in p.stepper.seen][:3] == [1.0, 0.25, 0.0625]
    assert tape.rejected.tolist() == [2]
    assert tape.status.tolist() == [Status.SUCCESS]


@BOTH
@pytest.mark.parametrize(
    ("error", "status"),
    [(NAN, Status.NON_FINITE_FIELD), (1e3, Status.STEP_UNDERFLOW)],
    ids=["nan", "large"],
)
def test_endless_rejection_underflows(
    error: float, status: Status, run: Loop, f64: KIND
) -> None:
    p = problem([[1.0], [error]], [4.0], f64)
    tape = run(p, ())
    assert tape.status.tolist() == [status]
    assert tape.accepted.tolist() == [1]
    assert tape.t_end.tolist() == [1.0]
    assert tape.y_end.tolist() == [[1.0]]


@BOTH
def test_max_steps(run: Loop, f64: KIND) -> None:
    p = problem([[1.0], [2.0], [1.0]], [100.0], f64, max_steps=6)
    tape = run(p, ())
    assert tape.status.tolist() == [Status.MAX_STEPS]
    assert (tape.accepted + tape.rejected).tolist() == [6]
    assert tape.t_end.tolist() == [1.0 + 4 * 0.5]


@BOTH
def test_the_end_is_met_without_a_sliver(run: Loop, f64: KIND) -> None:
    for end in (0.3, 1.0, 2.1, 2.9, 3.0 + 1e-9, 10.0 / 3.0):
        p = problem([[1.0]], [end], f64)
        tape = run(p, ())
        h = column(tape, tape.h, 0)
        assert sum(h) == pytest.approx(end, rel=1e-15)
        assert tape.t_end.tolist() == [end]
        assert max(h) <= 1.0
        assert min(h) >= 0.3 * max(h)
        assert len(h) <= end + 2


def test_rows_go_their_own_ways(f64: KIND) -> None:
    script = [[1.0, 2.0, 0.5], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]
    p = problem(script, [3.0, 2.0, 100.0], f64)
    tape = loops.run_masked(p, ())
    alone = [
        loops.run_host(problem([[row[i]] for row in script], [end], f64), ())
        for i, end in enumerate((3.0, 2.0, 100.0))
    ]
    for i, one in enumerate(alone):
        assert column(tape, tape.h, i) == pytest.approx(column(one, one.h, 0))
        assert column(tape, tape.t, i) == pytest.approx(column(one, one.t, 0))
        assert tape.accepted[i] == one.accepted[0]
        assert tape.rejected[i] == one.rejected[0]


def test_a_finished_row_rests(f64: KIND) -> None:
    """Its steps have length zero, are not counted, and its state stays put."""
    p = problem([[1.0, 1.0]], [2.0, 50.0], f64)
    tape = loops.run_masked(p, ())
    assert isinstance(p.stepper, Scripted)
    after = [h[0] for _, h in p.stepper.seen][int(tape.accepted[0]) :]
    assert len(after) >= 40 and not any(after)
    assert tape.y_end[:, 0].tolist() == pytest.approx([2.0, 50.0])
    assert tape.rejected.tolist() == [0, 0]


def test_a_failed_row_rests_and_spares_the_others(f64: KIND) -> None:
    p = problem([[1.0, 1.0], [NAN, 1.0]], [100.0, 100.0], f64)
    tape = loops.run_masked(p, ())
    assert tape.status.tolist() == [Status.NON_FINITE_FIELD, Status.SUCCESS]
    assert tape.t_end.tolist() == [1.0, 100.0]
    assert tape.accepted[1] >= 100
    assert tape.y_end.isfinite().all()


def test_looking_less_often_changes_nothing(
    f64: KIND, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [[1.0, 2.0], [0.5, 1.0], [2.0, 1.0], [1.0, 1.0]]
    monkeypatch.setattr(loops, "CHECK_DEVICE", 1)
    monkeypatch.setattr(loops, "CHECK_CPU", 1)
    often = loops.run_masked(problem(script, [7.3, 31.0], f64), ())
    monkeypatch.setattr(loops, "CHECK_DEVICE", 8)
    monkeypatch.setattr(loops, "CHECK_CPU", 8)
    monkeypatch.setattr(loops, "CHUNK", 5)
    seldom = loops.run_masked(problem(script, [7.3, 31.0], f64), ())
    for name in ("t", "h", "error", "accepted", "rejected", "y_end", "status", "step"):
        assert torch.equal(getattr(often, name), getattr(seldom, name)), name


@pytest.mark.parametrize(
    "gains",
    [
        {"pcoeff": 0.0, "icoeff": 1.0},
        {"pcoeff": 0.4, "icoeff": 0.3},
        {"pcoeff": 0.2, "icoeff": 0.4, "dcoeff": 0.1},
    ],
    ids=["I", "PI", "PID"],
)
def test_controller_formula(gains: dict[str, float], f64: KIND) -> None:
    """h' = h s r^-(p+i+d)/k r1^(p+2d)/k r2^-d/k, in tensors and in numbers alike."""
    pid = PID(**gains, safety=0.8)
    p, i, d = (gains.get(name, 0.0) for name in ("pcoeff", "icoeff", "dcoeff"))
    ratios = [0.3, 0.9, 1.7, 0.6, 0.05, 1.0]
    kept = [1.0, 1.0]
    history: object = pid.begin(torch.ones(1, **f64))
    numbers = (0.0, 0.0)  # logarithms of the two ratios before
    h, k = 0.2, 5
    for r in ratios:
        want = h * 0.8 * r ** (-(p + i + d) / k)
        want *= kept[-1] ** ((p + 2 * d) / k) * kept[-2] ** (-d / k)
        want = min(max(want, 0.2 * h), 10.0 * h)
        accept, found, history = pid.adapt(
            torch.full((1,), h, **f64), torch.full((1,), r, **f64), history, k
        )
        host, found_host, numbers = pid.adapt_host(h, r, numbers, k)
        assert accept.tolist() == [r <= 1.0] == [host]
        assert found.item() == pytest.approx(want, rel=1e-12)
        assert found_host == pytest.approx(want, rel=1e-12)
        if r <= 1.0:
            kept.append(r)
        h = want


@pytest.mark.parametrize("gains", [(0.4, 0.3, 0.0), (0.2, 0.4, 0.1)], ids=["PI", "PID"])
def test_both_loops_take_the_same_steps(
    gains: tuple[float, float, float], f64: KIND
) -> None:
    """The controller's memory is the same in tensors and in Python numbers."""
    p, i, d = gains
    controller = PID(rtol=1e-6, atol=1e-6, pcoeff=p, icoeff=i, dcoeff=d)
    y0, ts = torch.tensor([[2.0, 0.1]], **f64), torch.tensor([0.0, 20.0], **f64)

    def oscillator(t: Tensor, y: Tensor) -> Tensor:
        x, v = y[:, :1], y[:, 1:]
        return torch.cat((v, 3 * (1 - x * x) * v - x), 1)

    host = solve(ODETerm(oscillator), y0, ts, controller=controller)
    masked = solve(ODETerm(oscillator), y0.repeat(2, 1), ts, controller=controller)
    assert masked.stats.accepted[0] == host.stats.accepted[0]
    assert masked.stats.rejected[0] == host.stats.rejected[0] > 0
    torch.testing.assert_close(
        masked.stats.step[:, 0], host.stats.step[:, 0], rtol=1e-6, atol=1e-9
    )


def test_easy_samples_do_not_pay_for_a_stiff_one(f64: KIND) -> None:
    """What is kept grows with the steps of all samples, not with rows times batch."""
    rate = torch.ones(64, 1, **f64)
    rate[5] = 2000.0
    y0 = torch.ones(64, 2, requires_grad=True, **f64)
    ts = torch.tensor([0.0, 1.0], **f64)
    sol = solve(ODETerm(lambda t, y: -rate * y), y0, ts)
    kept = sol.record.outcome.tape.y
    assert kept is not None
    assert kept.shape == (int(sol.stats.accepted.sum()), 2)
    assert kept.shape[0] < 0.1 * int(sol.stats.accepted.max()) * 64


def test_classical_gains_are_those_of_the_method(f64: KIND) -> None:
    y0, ts = SPIRAL.y0(**f64), SPIRAL.ts(2, **f64)

    def steps(method: str, controller: PID) -> Tensor:
        return solve(
            ODETerm(SPIRAL.field), y0, ts, method=method, controller=controller
        ).stats.step

    tight = {"rtol": 1e-6, "atol": 1e-6}
    asked = steps("dopri5", PID(classical=True, **tight))
    assert torch.equal(asked, steps("dopri5", PID(pcoeff=0.2, icoeff=0.65, **tight)))
    assert not torch.equal(asked, steps("dopri5", PID(**tight)))
    assert torch.equal(
        steps("bosh3", PID(classical=True, **tight)), steps("bosh3", PID(**tight))
    )
