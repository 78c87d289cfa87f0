"""Evaluations against achieved error, beside torchdiffeq and SciPy.

Every adaptive method of nde solves the problems of `ode_problems.py` at relative
tolerances 1e-3 to 1e-9, the absolute one 100 times smaller, for everybody. Methods of
order 2 stop at 1e-5 and of order 3 at 1e-7. The error is the largest at the end over
the largest entry of the solution, against SciPy's DOP853 at 1e-13; work is evaluations
of the field. Libraries are compared at the same achieved error, by interpolating each
one's curve of a problem on logarithmic axes: below 1, nde needs fewer evaluations.

    python examples/benchmarks/work_precision.py --out results --plot curves.png
    python examples/benchmarks/work_precision.py --section batch
    python examples/benchmarks/work_precision.py --section float32

`batch` solves 1,000 Van der Pol oscillators, each with its own stiffness, as one batch;
`float32` counts the steps of a mild problem over a long time in single precision.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch
from ode_problems import PROBLEMS
from ode_runs import (
    HAS_TORCHDIFFEQ,
    TORCHDIFFEQ,
    Run,
    adaptive_methods,
    equal_error_ratio,
    run_all,
)
from ode_sections import batch_table, float32_table

from nde.solvers.methods import ODE_METHODS

Table = list[list[str]]


def select(runs: list[Run], problem: str, library: str, method: str) -> list[Run]:
    """The runs of one curve."""
    wanted = (problem, library, method)
    return [r for r in runs if (r.problem, r.library, r.method) == wanted]


def peers(method: str) -> list[tuple[str, str]]:
    """Library and method that a method of nde is compared with."""
    order = ODE_METHODS[method].error_order or 0
    found = []
    if HAS_TORCHDIFFEQ and method in TORCHDIFFEQ:
        found.append(("torchdiffeq", TORCHDIFFEQ[method]))
    if order >= 5:
        found.append(("scipy", "RK45"))
    if order >= 6:
        found.append(("scipy", "DOP853"))
    return found


def ratios(runs: list[Run], methods: list[str]) -> dict[str, dict[str, float]]:
    """Ratio at equal error per pair and problem; pairs are named by who is compared."""
    problems = list(dict.fromkeys(run.problem for run in runs))
    return {
        f"{method} / {library} {other}": {
            name: equal_error_ratio(
                select(runs, name, "nde", method), select(runs, name, library, other)
            )
            for name in problems
        }
        for method in methods
        for library, other in peers(method)
    }


def ratio_table(found: dict[str, dict[str, float]]) -> Table:
    """A row per problem, a column per pair."""
    table = [["problem", *found]]
    for problem in next(iter(found.values()), {}):
        table.append(
            [problem, *(_number(pair[problem], "{:.2f}") for pair in found.values())]
        )
    return table


def summary_table(found: dict[str, dict[str, float]]) -> Table:
    """Middle and worst ratio of every pair."""
    table = [["nde / other", "problems", "geometric mean", "median", "max", "worst"]]
    for pair, by_problem in found.items():
        known = {k: v for k, v in by_problem.items() if not math.isnan(v)}
        if not known:
            continue
        values = list(known.values())
        row = (
            statistics.geometric_mean(values),
            statistics.median(values),
            max(values),
        )
        worst = max(known, key=lambda name: known[name])
        numbers = [_number(value, "{:.3f}") for value in row]
        table.append([pair, str(len(values)), *numbers, worst])
    return table


def method_table(runs: list[Run]) -> Table:
    """What every method spends and reaches, over all problems and tolerances."""
    table = [["library", "method", "error / rtol", "evaluations", "rejected"]]
    for library, method in dict.fromkeys((run.library, run.method) for run in runs):
        own = [run for run in runs if (run.library, run.method) == (library, method)]
        rejected = sum(run.rejected for run in own)
        steps = rejected + sum(run.accepted for run in own)
        typical = statistics.median(run.error / run.rtol for run in own)
        evaluations = statistics.geometric_mean([run.evaluations for run in own])
        table.append(
            [
                library,
                method,
                f"{typical:.2g}",
                f"{evaluations:.0f}",
                f"{rejected / steps:.1%}",
            ]
        )
    return table


def markdown(table: Table) -> str:
    """A table as Markdown, numbers to the right."""
    head, *rows = table
    rule = ["--:" if i else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def write_csv(path: Path, runs: list[Run]) -> None:
    """One line per solve."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Run)])
        writer.writeheader()
        writer.writerows(asdict(run) for run in runs)


def plot(path: Path, runs: list[Run]) -> None:
    """A panel per problem: evaluations over achieved error."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    problems = list(dict.fromkeys(run.problem for run in runs))
    curves = list(dict.fromkeys((run.library, run.method) for run in runs))
    styles = {"nde": "o-", "torchdiffeq": "x--", "scipy": "^:"}
    columns = min(6, len(problems))
    rows = -(-len(problems) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 2.6 * rows), squeeze=False
    )
    for axis in axes.flat[len(problems) :]:
        axis.set_axis_off()
    for axis, problem in zip(axes.flat, problems, strict=False):
        for number, (library, method) in enumerate(curves):
            own = select(runs, problem, library, method)
            axis.loglog(
                [run.error for run in own],
                [run.evaluations for run in own],
                styles[library],
                color=f"C{number % 10}",
                label=f"{library} {method}",
                markersize=3,
                linewidth=1,
            )
        axis.invert_xaxis()
        axis.set_title(problem, fontsize=9)
        axis.tick_params(labelsize=7)
    figure.supxlabel("achieved error")
    figure.supylabel("evaluations")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower right")
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def compare(options: argparse.Namespace) -> str:
    """The report of the section `problems`; files on the way, where asked for."""
    runs = []
    for name in options.problems:
        runs.extend(
            run_all(PROBLEMS[name], options.methods, options.rtol, options.gains)
        )
    found = ratios(runs, options.methods)
    report = "\n\n".join(
        (
            markdown(method_table(runs)),
            "Evaluations at the same achieved error:",
            markdown(summary_table(found)),
            markdown(ratio_table(found)),
        )
    )
    if options.out is not None:
        write_csv(options.out / "problems.csv", runs)
    if options.plot is not None:
        plot(options.plot, runs)
    return report


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else form.format(value)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--section", default="problems", choices=["problems", "batch", "float32"]
    )
    parser.add_argument("--methods", nargs="+", default=adaptive_methods())
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument(
        "--rtol", nargs="+", type=float, default=[1e-3, 1e-5, 1e-7, 1e-9]
    )
    parser.add_argument(
        "--gains", nargs=3, type=float, metavar=("P", "I", "D"), help="of nde's PID"
    )
    parser.add_argument("--out", type=Path, help="folder for the tables")
    parser.add_argument("--plot", type=Path, help="PNG of the curves")
    options = parser.parse_args(arguments)
    for name, known in (("methods", adaptive_methods()), ("problems", PROBLEMS)):
        unknown = [choice for choice in getattr(options, name) if choice not in known]
        if unknown:
            parser.error(f"--{name}: {', '.join(unknown)} not among {', '.join(known)}")
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    if not HAS_TORCHDIFFEQ:
        print("torchdiffeq is not installed: its rows are skipped")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    if options.section == "problems":
        report = compare(options)
    elif options.section == "batch":
        report = markdown(batch_table(samples=1000))
    else:
        report = markdown(float32_table(t1=1000.0))
    print(report)
    if options.out is not None:
        (options.out / f"{options.section}.md").write_text(report + "\n")


if __name__ == "__main__":
    main()
