"""Why a solve cost what it did, from its statistics alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nde.solvers.bound import BoundSDE
from nde.solvers.controller import PID, FixedSteps
from nde.solvers.diagnosis.bill import CHEAP, Bill, Finding, median, named
from nde.solvers.diagnosis.findings import adaptive
from nde.solvers.engine import Run
from nde.solvers.failure import CAUSE, fix_of
from nde.solvers.types import Status

if TYPE_CHECKING:
    from nde.solvers.stats import Stats

# Causes of less than this share of the cost are left out, unless there is no other.
LEAST = 0.05


@dataclass(frozen=True)
class Explanation:
    """Why a solve cost what it did: `findings`, failures first, then by share.

    `head` sums the solve up. Printing shows both.
    """

    head: str
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        lines = [self.head]
        for finding in self.findings:
            share = f"{finding.share:4.0%}" if finding.share else "   -"
            lines.append(f"{share}  {finding.cause:<11}  {finding.text}")
            if finding.advice:
                lines.append(f"{'':19}-> {finding.advice}")
        return "\n".join(lines)


def explain(runs: Sequence[Run], status: Tensor, stats: Stats) -> Explanation:
    """Findings about a solve with these runs, status and statistics per sample."""
    bill = Bill(runs, status.cpu(), stats)
    found = adaptive(bill) if bill.limits else fixed(bill)
    found = [f for f in found if f.share >= LEAST] or found[:1]
    worst = int(bill.total.max()) if bill.total.numel() else 0
    if worst <= CHEAP and not _settings_cost(bill, found):
        text = f"no sample attempted more than {worst} steps"
        found = [Finding("cheap", bill.all, 1.0, {"attempts": worst}, text, "")]
    found.sort(key=lambda finding: -finding.share)
    found = [*_failures(bill), *found]
    if bill.shared and bill.batch > 1 and worst > CHEAP:
        found.append(_shared(bill))
    return Explanation(_head(bill), tuple(found))


def _settings_cost(bill: Bill, found: Sequence[Finding]) -> bool:
    """Whether even a short solve had a reason to be shorter."""
    controller = bill.problem.controller
    given = isinstance(controller, PID) and controller.first_step is not None
    return any(
        f.share > 0.5 and (f.cause == "kink" or (f.cause == "start" and given))
        for f in found
    )


def fixed(bill: Bill) -> list[Finding]:
    """What can be said of steps that were given."""
    problem, stats = bill.problem, bill.stats
    controller, stepper = problem.controller, problem.stepper
    valid = stats.valid.cpu()
    h = stats.step.detach().cpu().double()[valid]
    error = stats.error_estimate.detach().cpu().double()[valid]
    stiffness = stats.stiffness.detach().cpu().double()[valid]
    load = h * stiffness / (stepper.stability or float("nan"))
    steps, size = int(stats.accepted.max()) if bill.batch else 0, median(h)
    text = f"{steps} steps of about {size:.2g} were asked for"
    evidence = {"steps": float(steps), "step": size}
    advice = "a longer step is cheaper, and less accurate"
    worst = float(error.max()) if len(error) else float("nan")
    if worst == worst:
        evidence["error"] = worst
        text += f"; their largest error is {worst:.2g} of the tolerance"
        if stepper.error_order is not None and 0.0 < worst < float("inf"):
            fit = float((h * error.clamp_min(1e-6) ** (-1 / stepper.error_order)).min())
            advice = f"FixedSteps({fit:.2g}) would just meet the tolerance"
            advice += ", PID(...) would adapt the step"
    elif isinstance(problem.term, BoundSDE):
        text += f"; {stepper.name} does not estimate the error along a Brownian path"
    else:
        text += f"; {stepper.name} does not estimate the error"
    found = [Finding("fixed_steps", bill.all, 1.0, evidence, text, advice)]
    beyond = load > 1.0
    if bool(beyond.any()):
        share, most = float(beyond.double().mean()), float(load[beyond].max())
        found.append(
            Finding(
                "stiffness",
                bill.all,
                share,
                {"load": most},
                f"{share:.0%} of the steps are beyond the stability limit of "
                f"{stepper.name}, by up to {most:.2g} times",
                f"FixedSteps({size / most:.2g}), or an implicit method",
            )
        )
    if isinstance(controller, FixedSteps) and steps:
        span = (problem.t1 - problem.t0).max()
        needed = float(torch.ceil(span / controller.step * (1.0 - 1e-9)))
        extra = 1.0 - needed / steps
        name = "stops" if problem.interpolates else "outputs"
        if extra >= LEAST and bill.status.eq(Status.SUCCESS).all():
            what = "step_t and jump_t" if name == "stops" else "every output time"
            found.append(
                Finding(
                    name,
                    bill.all,
                    extra,
                    {"steps_without": needed},
                    f"steps are cut to land on {what}: {needed:.0f} of "
                    f"{controller.step:g} would do",
                    "fewer such times, or a step that divides their distance",
                )
            )
    return found


def _failures(bill: Bill) -> list[Finding]:
    found = []
    ends = bill.runs[-1].outcome.tape.t_end.cpu().expand(bill.status.shape)
    for code in sorted(CAUSE):
        rows = bill.status == code
        if not bool(rows.any()):
            continue
        samples = tuple(rows.nonzero().view(-1).tolist())
        t = bill.sign * float(ends[samples[0]])
        share = bill.share(bill.total[rows] if not bill.shared else bill.total)
        found.append(
            Finding(
                "failure",
                samples,
                share,
                {"status": float(code), "t": t},
                f"{named(samples, bill.batch)} did not reach the end: sample "
                f"{samples[0]} stopped at t={t:.6g}, because {CAUSE[code]}",
                fix_of(code, bill.problem.term),
            )
        )
    return found


def _shared(bill: Bill) -> Finding:
    return Finding(
        "shared",
        bill.all,
        0.0,
        {},
        f"all {bill.batch} samples take the same steps, as short as any time that is "
        "hard for some of them asks for",
        "batch='per_sample' makes the calls those of the slowest sample: fewer if "
        "samples are hard at different times, no fewer if all are alike",
    )


def _head(bill: Bill) -> str:
    stats = bill.stats
    counts = {
        "calls": stats.evaluations,
        "accepted": stats.accepted,
        "rejected": stats.rejected,
    }
    shown = []
    for name, count in counts.items():
        if not count.numel():
            continue
        low, middle, high = int(count.min()), int(count.median()), int(count.max())
        spread = f"{low}" if low == high else f"{low}/{middle}/{high}"
        shown.append(f"{name} {spread}")
    same = "" if all("/" not in text for text in shown) else " (min/median/max)"
    batch = "1 sample" if bill.batch == 1 else f"{bill.batch} samples"
    return f"{bill.problem.stepper.name}, {batch}; per sample{same}: " + ", ".join(
        shown
    )
