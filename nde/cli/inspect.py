"""The body of `nde inspect`: what was understood of some data, and what is doubtful."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from nde.cli.console import note, say, warn
from nde.data.inspection import Inspection, Range, inspect_series
from nde.training.config_file import merge
from nde.training.preparation import read_data
from nde.training.run_folder import to_json

# Tables are for a terminal or a log: never broken by a narrow one.
_WIDTH = 100


def run_inspect(data: Sequence[tuple[str, Any]], *, as_json: bool) -> None:
    """Tell what the data holds that the dotted keys `data` name."""
    reading = read_data(merge({}, data))
    for line in reading.notes:
        note(line)
    for line in reading.warnings:
        warn(line)
    found = inspect_series(reading.dataset)
    if as_json:
        tree = {"data": reading.dataset.name, **asdict(found)}
        say(to_json(tree | {"warnings": reading.warnings}).rstrip())
        return
    for line in _lines(found, reading.dataset.time_unit):
        note(line)
    for doubt in found.doubts:
        warn(doubt)


def _lines(found: Inspection, unit: str) -> list[str]:
    unit = f" {unit}" if unit else ""
    lines = [
        f"series: {found.series}",
        f"times each: {_shown(found.lengths)}",
        f"from first to last: {_shown(found.spans)}{unit}",
        f"between times: {_shown(found.gaps)}{unit}, {found.clock} clock",
    ]
    if found.parts:
        lines.append(f"parts: {_counts(found.parts)}")
    if found.classes:
        lines.append(f"classes: {_counts(found.classes)}")
    else:
        lines.append("classes: no labels")
    table = Table(box=None, pad_edge=False)
    for title in ("channel", "observed", "mean", "deviation", "least", "greatest"):
        table.add_column(title, justify="left" if title == "channel" else "right")
    for channel in found.channels:
        name, share, *moments = vars(channel).values()
        table.add_row(name, f"{share:.1%}", *(f"{number:.4g}" for number in moments))
    shown = io.StringIO()
    Console(file=shown, width=_WIDTH).print(table)
    return [*lines, *(line.rstrip() for line in shown.getvalue().splitlines())]


def _shown(numbers: Range) -> str:
    if numbers.least == numbers.greatest:
        return f"{numbers.least:g}"
    return f"{numbers.least:g} to {numbers.greatest:g}, median {numbers.middle:g}"


def _counts(numbers: dict[str, int]) -> str:
    whole = sum(numbers.values())
    return ", ".join(
        f"{name} {count} ({count / whole:.0%})" for name, count in numbers.items()
    )
