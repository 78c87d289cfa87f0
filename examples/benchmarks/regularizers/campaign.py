"""The command line of the benchmarks of regularizers: many trainings, kept as they end.

Seeds are the outer loop, so that the methods of a seed meet the machine alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from named_methods import Weights, methods
from trial_tables import markdown, plot, read_rows, summaries, write_rows
from trials import Experiment, Row, trial

from nde.regularizers import AnyRegularizer
from nde.training.atomic import write_text


@dataclass(frozen=True)
class Task:
    """What is trained.

    `start(seed, regularizers)` makes an experiment. `setting` names everything that
    rows have in common. `metric` is shown with so many `digits`.
    """

    name: str
    metric: str
    digits: int
    higher_is_better: bool
    setting: str
    weights: Weights
    start: Callable[[int, Sequence[AnyRegularizer]], Experiment]


def parser(description: str, out: str, iterations: int) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--methods", nargs="+", metavar="NAME", help="default: all")
    found.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    found.add_argument("--iterations", type=int, default=iterations)
    found.add_argument("--out", type=Path, default=Path(out), help="folder of results")
    found.add_argument(
        "--resume", action="store_true", help="keep the rows in --out, run the others"
    )
    return found


def run(task: Task, asked: argparse.Namespace) -> str:
    """All trainings asked for that are not done; the table.

    Raises ValueError for unknown methods, and for results that are in the way: of
    another setting, or any without --resume.
    """
    known = methods(task.weights)
    names = list(known) if asked.methods is None else asked.methods
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--methods: {unknown} are not among {list(known)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / f"{task.name}.csv"
    rows = read_rows(path)
    if rows and not asked.resume:
        raise ValueError(
            f"{path} has {len(rows)} results; give --resume to keep them and run the "
            "others, or another folder as --out"
        )
    others = {row.setting for row in rows} - {task.setting}
    if others:
        raise ValueError(
            f"{path} has results of {sorted(others)}, asked for is {task.setting!r}; "
            "give the same options, or another folder as --out"
        )
    done = {(row.method, row.seed) for row in rows}
    for seed in asked.seeds:
        for name in names:
            if (name, seed) in done:
                continue
            torch.manual_seed(seed)
            regularizers = known[name]()
            # Again: some have drawn parameters, and all models are to begin alike.
            torch.manual_seed(seed)
            work = task.start(seed, regularizers)
            row = trial(name, seed, task.setting, work, asked.iterations)
            rows.append(row)
            write_rows(path, rows)
            print(_line(row), flush=True)
    rows.sort(key=lambda row: (list(known).index(row.method), row.seed))
    return _report(task, rows, path)


def _line(row: Row) -> str:
    if row.note:
        return f"{row.method} seed {row.seed}: {row.note}"
    return (
        f"{row.method} seed {row.seed}: {row.metric:.5g}, "
        f"NFE {row.test_evaluations:.0f} (train {row.train_evaluations:.0f}), "
        f"{row.train_seconds:.1f} s"
    )


def _report(task: Task, rows: Sequence[Row], path: Path) -> str:
    """The table, written beside the rows with the plot."""
    found = summaries(rows, higher_is_better=task.higher_is_better)
    table = markdown(found, task.metric, task.digits)
    write_text(path.with_suffix(".md"), f"{task.name}: {task.setting}\n\n{table}")
    plot(path.with_suffix(".png"), found, task.metric)
    return table
