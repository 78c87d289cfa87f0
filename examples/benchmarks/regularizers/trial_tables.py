"""What the trainings of a benchmark of regularizers add up to: files, table, plot."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from trials import Row

from nde.training.atomic import write_bytes, write_text

BASELINE = "vanilla"


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """One line per training; the file is never half of it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Row(
                line["method"],
                int(line["seed"]),
                line["setting"],
                metric=float(line["metric"]),
                test_evaluations=float(line["test_evaluations"]),
                train_evaluations=float(line["train_evaluations"]),
                train_seconds=float(line["train_seconds"]),
                predict_seconds=float(line["predict_seconds"]),
                note=line["note"],
            )
            for line in csv.DictReader(file)
        ]


@dataclass(frozen=True)
class Summary:
    """A method over its seeds; ratios and `change` are to vanilla at the same seeds.

    `change` is the metric less that of vanilla, with its standard error, NaN for one
    seed, like `spread`, the standard deviation of the metric.
    """

    method: str
    done: int
    failed: int
    metric: float
    spread: float
    change: float
    change_error: float
    evaluations: float
    evaluations_ratio: float
    train_evaluations_ratio: float
    train_seconds_ratio: float
    predict_seconds_ratio: float
    front: bool = False

    @property
    def paired(self) -> bool:
        """Whether it shares a seed with vanilla."""
        return not math.isnan(self.change)


def summaries(rows: Sequence[Row], *, higher_is_better: bool) -> list[Summary]:
    """One for each method, in the order of the rows, and who is on the front.

    On the front is a method of which no other one has as good a change of the metric
    and as low a ratio of evaluations, and one of them better. Metrics themselves are
    means over the seeds that each has, and differ by these.
    """
    plain = {row.seed: row for row in rows if row.method == BASELINE and not row.note}
    names = list(dict.fromkeys(row.method for row in rows))
    found = [_summary(name, rows, plain) for name in names]
    sign = 1.0 if higher_is_better else -1.0

    def beaten(one: Summary, other: Summary) -> bool:
        better = sign * (other.change - one.change)
        cheaper = one.evaluations_ratio - other.evaluations_ratio
        return better >= 0 and cheaper >= 0 and (better > 0 or cheaper > 0)

    return [
        replace(one, front=one.paired and not any(beaten(one, o) for o in found))
        for one in found
    ]


def _summary(name: str, rows: Sequence[Row], plain: dict[int, Row]) -> Summary:
    own = [row for row in rows if row.method == name]
    done = [row for row in own if not row.note]
    pairs = [(row, plain[row.seed]) for row in done if row.seed in plain]
    changes = [row.metric - base.metric for row, base in pairs]

    def ratio(quantity: str) -> float:
        return _mean([getattr(a, quantity) / getattr(b, quantity) for a, b in pairs])

    return Summary(
        method=name,
        done=len(done),
        failed=len(own) - len(done),
        metric=_mean([row.metric for row in done]),
        spread=_deviation([row.metric for row in done]),
        change=_mean(changes),
        change_error=_deviation(changes) / math.sqrt(max(len(changes), 1)),
        evaluations=_mean([row.test_evaluations for row in done]),
        evaluations_ratio=ratio("test_evaluations"),
        train_evaluations_ratio=ratio("train_evaluations"),
        train_seconds_ratio=ratio("train_seconds"),
        predict_seconds_ratio=ratio("predict_seconds"),
    )


def markdown(found: Sequence[Summary], metric: str, digits: int) -> str:
    """A table; a star marks the front of metric and evaluations."""
    lines = [
        f"| method | seeds | {metric} | change | NFE | NFE ratio | train NFE ratio "
        "| train time ratio | predict time ratio | front |",
        "| --- " + "| --: " * 9 + "|",
    ]
    for one in found:
        failed = f" ({one.failed} failed)" if one.failed else ""
        cells = [
            one.method,
            f"{one.done}{failed}",
            f"{one.metric:.{digits}f}{_beside(one.spread, digits)}",
            f"{one.change:+.{digits}f}{_beside(one.change_error, digits)}",
            f"{one.evaluations:.1f}",
            f"{one.evaluations_ratio:.2f}",
            f"{one.train_evaluations_ratio:.2f}",
            f"{one.train_seconds_ratio:.2f}",
            f"{one.predict_seconds_ratio:.2f}",
            "*" if one.front else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(path: Path, found: Sequence[Summary], metric: str) -> None:
    """Metric against evaluations, both beside vanilla's, with the front joined."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8.0, 5.0), layout="constrained")
    paired = [one for one in found if one.paired]
    for number, one in enumerate(paired):
        axis.errorbar(
            one.evaluations_ratio,
            one.change,
            yerr=0.0 if math.isnan(one.change_error) else one.change_error,
            fmt="os^Dv"[number // 10 % 5],
            color=f"C{number % 10}",
            label=one.method,
        )
    front = sorted((one.evaluations_ratio, one.change) for one in paired if one.front)
    axis.plot([x for x, _ in front], [y for _, y in front], color="0.7", zorder=0)
    axis.set_xlabel("evaluations in a solve of the test set, over those of vanilla")
    axis.set_ylabel(f"{metric} less that of vanilla, and its standard error")
    if paired:
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    plt.close(figure)
    write_bytes(path, picture.getvalue())


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def _beside(deviation: float, digits: int) -> str:
    """What follows a mean; nothing where there is one value alone."""
    return "" if math.isnan(deviation) else f" ± {deviation:.{digits}f}"
