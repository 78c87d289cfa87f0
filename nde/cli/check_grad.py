"""The body of `nde check-grad`: are the gradients of a trained model right?"""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nde.audit import GradientReport, check_gradients
from nde.cli.console import beside, finish, note, warn
from nde.data import collate
from nde.training.atomic import write_text
from nde.training.config_file import ConfigError
from nde.training.restore import recover_test, restore
from nde.training.run_folder import to_json

# Tables are for a terminal or a log: never broken by a narrow one.
_WIDTH = 100


def run_check_grad(
    run: str, *, series: int, directions: int, seed: int, device: str
) -> bool:
    """Audit the gradients of the model of `run` on its first test series.

    Returns whether they are right.
    """
    if series < 1 or directions < 0:
        raise ConfigError(
            "--series must be at least 1 and --directions at least 0, got "
            f"{series} and {directions}"
        )
    trained = restore(Path(run), device=device)
    dataset, warnings = recover_test(trained)
    for line in warnings:
        warn(line)
    count = min(series, len(dataset))
    report = check_gradients(
        trained.model,
        collate(dataset, range(count)).to(trained.device),
        samples=count,
        directions=directions,
        seed=seed,
    )
    note(f"{trained.config.model.name} on {count} test series, float64")
    for line in _tables(report):
        note(line)
    for line in report.notes():
        note(line)
    tree: dict[str, Any] = {
        "data": trained.schema.data,
        "model": trained.config.model.name,
        "series": count,
        "passed": report.passed,
        "summary": report.summary,
        **asdict(report),
    }
    for checks in ("adjoints", "directions"):
        for check, row in zip(getattr(report, checks), tree[checks], strict=True):
            row["verdict"] = check.verdict
    path = beside(run, "gradients.json")
    write_text(path, to_json(tree))
    (note if report.passed else warn)(report.summary)
    finish(path, tree)
    return report.passed


def _tables(report: GradientReport) -> list[str]:
    """The report's tables, a line each."""
    rows = [report.adjoint_rows()]
    rows += [report.direction_rows()] if report.directions else []
    shown = io.StringIO()
    console = Console(file=shown, width=_WIDTH)
    for head, *body in rows:
        table = Table(box=None, pad_edge=False)
        for number, title in enumerate(head):
            table.add_column(title, justify="right" if number else "left")
        for row in body:
            table.add_row(*row)
        console.print(table)
    return [line.rstrip() for line in shown.getvalue().splitlines()]
