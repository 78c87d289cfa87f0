"""Findings about adaptive steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nde.solvers.bound import BoundODE
from nde.solvers.controller import PID
from nde.solvers.diagnosis.bill import CHEAP, Bill, Finding, median, named, number
from nde.solvers.diagnosis.limits import Kink
from nde.solvers.methods import ODE_METHODS, methods_for
from nde.solvers.reversible_pair import McCallumFoster
from nde.solvers.stepper import Stepper
from nde.solvers.tolerances import least_rtol
from nde.solvers.types import Status

# Units in the last place that a tolerance must leave, weighed over the state. The
# solver goes no lower than 4; at 8 (rtol=1e-6 in float32) a smooth solve takes 1 %
# (tsit5) to 180 % (vern9) more steps than in float64, at 80 (1e-5) none to half more.
ROUNDING = 10.0

# Rejections below this share need no explanation by rounding; tsit5 on a decay has 2 %.
_REJECTED = 0.1

# Waiting below this share is the ordinary spread of a batch.
_WAITING = 0.2

# Half of the attempts within this share of the interval, at its beginning.
TRANSIENT = 0.05

# From this tolerance down: dop853 took 2 to 2.5 times fewer calls than tsit5 on an
# oscillator, 0.8 to 1.1 on the Lorenz system and Van der Pol at 1e-6, and 0.5 to 0.65
# at 1e-9; tsit5 took a third of the calls of bosh3 at 1e-3.
_HIGH_ORDER = ((1e-6, 7, "dop853"), (1e-3, 5, "tsit5"))


def adaptive(bill: Bill) -> list[Finding]:
    problem = bill.problem
    controller, stepper = problem.controller, problem.stepper
    assert isinstance(controller, PID)
    found = [*_slow(bill), *_error(bill)]
    spent = bill.spent("stability")
    if bool(spent.any()):
        load, h = median(bill.of("load", "stiff")), median(bill.of("h", "stiff"))
        limit = stepper.stability or float("nan")
        found.append(
            Finding(
                "stiffness",
                bill.concerned(spent),
                bill.share(spent),
                {"load": load, "step": h, "stiffness": load * limit / h},
                f"{stepper.name} is held at its stability limit in {spent.sum():.0f} "
                f"of {bill.total.sum():.0f} attempts: step x stiffness / {limit:.3g} "
                f"is {load:.2f} (step {h:.2g}, stiffness {load * limit / h:.3g}); "
                "looser tolerances do not help",
                "an implicit method, or a less stiff field (rescale its fast part, or "
                "penalise it with regularizers.Stiffness)"
                if not isinstance(stepper, McCallumFoster)
                else f"a coupling below {stepper.coupling:g}, or method "
                f"{stepper.base!r} with adjoint=Recompute()",
            )
        )
    kinks = [kink for part in bill.limits for kink in part.kinks]
    # A Brownian path is as rough everywhere as a field that jumps.
    if kinks and isinstance(bill.problem.term, BoundODE):
        found.append(_kink(bill, kinks))
    needless = {
        "stop": "stops",
        "max_step": "max_step",
        "start": "start" if len(bill.runs) == 1 else "restarts",
    }
    for name, cause in needless.items():
        spent = bill.spent(name)
        if not bool((spent > 0).any()):
            continue
        rest = float((bill.total - spent).sum())
        first = [part.h[0, part.valid[0]] for part in bill.limits if len(part.h)]
        size = median(torch.cat(first))
        full = median(bill.of("h", "smooth"))
        text, advice = {
            "stops": (
                "steps are cut short to land on step_t or jump_t",
                "ts or probe_times for times that are only read: they are "
                "interpolated; jump_t only where the field jumps",
            ),
            "max_step": (
                f"steps are held at max_step={controller.max_step:g}, which the "
                "tolerance would allow to be longer",
                f"a larger max_step than {controller.max_step:g}",
            ),
            "start": (
                f"the first step, {size:.2g}, was short",
                f"first_step={full:.2g}, the usual length later"
                if full == full
                else "a longer first_step",
            ),
            "restarts": (
                f"{len(bill.runs) - 1} rounds of resets, after each of which steps "
                f"start small ({size:.2g})",
                f"first_step={full:.2g}, or fewer events"
                if full == full
                else "fewer events",
            ),
        }[cause]
        found.append(
            Finding(
                cause,
                bill.concerned(spent),
                bill.share(spent),
                {"attempts_without": rest, "first_step": size},
                f"{text}; without this about {rest:.0f} attempts would do instead of "
                f"{bill.total.sum():.0f}",
                advice,
            )
        )
    return sorted(found, key=lambda finding: -finding.share)


def _slow(bill: Bill) -> list[Finding]:
    """Samples that the others wait for."""
    if bill.rows < 2 or not bill.paid:
        return []
    most, middle = float(bill.total.max()), median(bill.total)
    waste = 1.0 - float(bill.total.sum()) / bill.paid
    if waste < _WAITING:
        return []
    slow = bill.total > 0.5 * (most + float(bill.total.min()))
    who = bill.samples(slow)
    return [
        Finding(
            "slow_sample",
            who,
            waste,
            {"most": most, "median": middle, "slow": float(len(who))},
            f"{waste:.0%} of the evaluations of samples are spent on samples that are "
            f"done, waiting for {named(who, bill.batch)} ({most:.0f} attempts, median "
            f"{middle:.0f})",
            "batches of samples of like cost, or a penalty on the cost (regularizers); "
            "for why they are slow see the other findings",
        )
    ]


def _kink(bill: Bill, kinks: list[Kink]) -> Finding:
    spent = bill.spent("kink")
    per_row: dict[int, list[Kink]] = {}
    for kink in sorted(kinks, key=lambda kink: bill.sign * kink.t):
        per_row.setdefault(kink.row, []).append(kink)
    first = per_row[min(per_row)]
    alike = all(_alike(first, other) for other in per_row.values())
    each = float(spent.sum()) / len(kinks)
    shown = ", ".join(_written(kink) for kink in first[:6])
    more = f", ... ({len(first)} in all)" if len(first) > 6 else ""
    who = bill.concerned(spent)
    where = "" if alike else f"in sample {min(per_row)} (elsewhere in others) "
    table = f"jump_t=torch.tensor([{shown}{', ...' if more else ''}])"
    if not alike:
        table = "jump_t (batch, k), a row for each sample, NaN where it has fewer"
    return Finding(
        "kink",
        who,
        bill.share(spent),
        {
            "kinks": float(len(kinks)),
            "attempts_each": each,
            "t": first[0].t,
            "width": first[0].width,
        },
        f"the field or its slope jumps {where}near t={shown}{more}, located to "
        f"{first[0].width:.1g}; each costs about {each:.0f} attempts",
        f"{table}, with the exact times; where the state decides them, an Event with "
        "reset=lambda t, y: y",
    )


def _alike(one: Sequence[Kink], other: Sequence[Kink]) -> bool:
    return len(one) == len(other) and all(
        abs(a.t - b.t) <= 1.5 * max(a.width, b.width)
        for a, b in zip(one, other, strict=True)
    )


def _written(kink: Kink) -> str:
    """A time, to the digits that are known."""
    digits = 2
    while 10.0**-digits > kink.width and digits < 9:
        digits += 1
    return f"{kink.t:.{digits}f}"


def _error(bill: Bill) -> list[Finding]:
    """Steps that the error estimate limits: as it should be, or by rounding."""
    spent = bill.spent("error")
    if not bool((spent > 0).any()):
        return []
    # Samples that broke off did not choose their steps by the tolerance.
    status = bill.status[:1] if bill.shared else bill.status
    whole = (status == Status.SUCCESS) | (status == Status.EVENT)
    spent = torch.where(whole | (status == Status.MAX_STEPS), spent, 0.0)
    noise = _noise(bill)
    rejected = bill.rejected / bill.total.clamp_min(1.0)
    rounding = (noise > 1.0 / _units(bill)) & (_raised(bill) | (rejected >= _REJECTED))
    early, half = _early(bill)
    early = early & ~rounding
    groups = (
        ("rounding", rounding),
        ("transient", early),
        ("tolerance", ~rounding & ~early),
    )
    found = []
    for cause, rows in groups:
        part = torch.where(rows, spent, 0.0)
        if not bool((part > 0).any()):
            continue
        make = {"rounding": _rounding, "transient": _transient}.get(cause, _tolerance)
        found.append(make(bill, part, noise if cause == "rounding" else half))
    return found


def _rounding(bill: Bill, spent: Tensor, noise: Tensor) -> Finding:
    tolerances, dtype = bill.problem.tolerances, bill.problem.y0.dtype
    units = 1.0 / float(noise[spent > 0].max())
    share = float(bill.rejected.sum() / bill.total.sum())
    name = str(dtype).removeprefix("torch.")
    advice = "a float64 state, or " if dtype != torch.float64 else ""
    floor = max(_units(bill) * torch.finfo(dtype).eps, 2.0 * number(tolerances.rtol))
    return Finding(
        "rounding",
        bill.concerned(spent),
        bill.share(spent),
        {"units": units, "rejected": share, "rtol": number(tolerances.rtol)},
        f"the tolerance is {units:.2g} units in the last place of the state "
        f"({name}), so that error estimates hold rounding noise; {share:.0%} of the "
        "attempts were rejected",
        f"{advice}rtol >= {floor:.1e}; methods of high order suffer most",
    )


def _transient(bill: Bill, spent: Tensor, half: Tensor) -> Finding:
    t = float(half[spent > 0].median())
    return Finding(
        "transient",
        bill.concerned(spent),
        bill.share(spent),
        {"half_by": t},
        f"half of the attempts were made by t={t:.3g}: the solution changes fastest at "
        "the beginning",
        "a larger atol if the beginning need not be accurate, or y0 from after it",
    )


def _tolerance(bill: Bill, spent: Tensor, _: Tensor) -> Finding:
    stepper, rtol = bill.problem.stepper, number(bill.problem.tolerances.rtol)
    assert stepper.error_order is not None
    ratio = median(bill.of("error", "smooth"))
    calls = int(bill.stats.evaluations.max())
    share = bill.share(spent)
    # Only what the error limits gets cheaper.
    part = float(spent.sum() / bill.total.sum())
    looser = calls * (1.0 - part + part * 10.0 ** (-1.0 / stepper.error_order))
    advice = [f"10 times the tolerance: about {looser:.0f} calls instead of {calls}"]
    methods, higher = _others(bill, rtol)
    if part > 0.5 and higher:
        advice.append(f"method {higher}, of higher order, for such a tolerance")
    text = f"steps are as long as rtol={rtol:.2g} allows"
    if ratio > 0.05:
        text += f" (median error {ratio:.2f} of the tolerance)"
    cause = "tolerance"
    if not stepper.has_stiffness:
        cause = "unknown"
        able = [
            name
            for name, other in methods.items()
            if other.has_stiffness and other.error_order is not None
        ]
        text += (
            f", or as stability allows: {stepper.name} has no estimate of stiffness "
            "and cannot tell"
        )
        if able:
            advice.append(f"one solve with {', '.join(able)} tells which it is")
    return Finding(
        cause,
        bill.concerned(spent),
        share,
        {"error": ratio, "rtol": rtol, "calls": calls, "calls_looser": looser},
        text,
        "; ".join(advice),
    )


def _others(bill: Bill, rtol: float) -> tuple[Mapping[str, Stepper], str]:
    """Methods for the same equation, and those of higher order that the tolerance
    calls for."""
    term, order = bill.problem.term, bill.problem.stepper.error_order
    assert order is not None
    if isinstance(term, BoundODE):
        for bound, high, name in _HIGH_ORDER:
            if 0.0 < rtol <= bound and order < high:
                return ODE_METHODS, repr(name)
        return ODE_METHODS, ""
    methods = methods_for(term.term)
    better = [
        name
        for name, other in methods.items()
        if other.error_order is not None and other.orders[term.noise] > order
    ]
    return methods, " or ".join(map(repr, better))


def _units(bill: Bill) -> float:
    """Units in the last place below which tolerances meet the method's rounding."""
    dtype = bill.problem.y0.dtype
    least = least_rtol(dtype, bill.problem.stepper.noise) / torch.finfo(dtype).eps
    return max(ROUNDING, 1.5 * least)


def _noise(bill: Bill) -> Tensor:
    """Rounding of the state over the tolerance, per row: the mean of known states."""
    problem = bill.problem
    eps = torch.finfo(problem.y0.dtype).eps
    states = [problem.y0.detach()]
    states += [run.outcome.y_end.detach() for run in bill.runs]
    ratios = []
    for y in states:
        size = problem.term.layout.visible(y).abs()
        scaled = size / problem.tolerances.scale(size)
        ratio = eps * scaled.double().square().mean(dim=1).sqrt().cpu()
        ratios.append(torch.where(torch.isfinite(ratio), ratio, 0.0))
    return torch.stack(ratios).mean(dim=0)


def _raised(bill: Bill) -> Tensor:
    """Whether the solver raised rtol to what the dtype resolves: `(rows,)`."""
    controller, rtol = bill.problem.controller, bill.problem.tolerances.rtol
    asked = controller.rtol
    raised = isinstance(asked, float | int) and number(rtol) > asked
    return torch.full_like(bill.total, raised, dtype=torch.bool)


def _early(bill: Bill) -> tuple[Tensor, Tensor]:
    """Rows with half of their attempts at the beginning, and when they had them."""
    part = bill.limits[0]
    if not len(part.t):
        none = torch.zeros_like(bill.total)
        return none > 0, none
    count = (part.attempts.cumsum(dim=0) < 0.5 * bill.total).sum(dim=0)
    half = (part.t + part.h).gather(0, count.clamp_max(len(part.t) - 1)[None])[0]
    t0, t1 = bill.problem.t0.cpu(), bill.problem.t1.cpu()
    done = count < part.valid.sum(dim=0)
    early = done & (half - t0 < TRANSIENT * (t1 - t0)) & (bill.total > CHEAP)
    return early, bill.sign * half
