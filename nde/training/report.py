"""The report of a run: pictures as PNGs, and one page that holds them and all tables.

Everything comes from the files of the run folder, so that a report can be made again
without the data or the model.
"""

import json
import math
from typing import Any

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from nde.training.atomic import write_bytes, write_text
from nde.training.calibration import calibrate
from nde.training.class_curves import class_curves
from nde.training.metrics import classification_metrics
from nde.training.page import folded, heading, page, paragraph, picture, table
from nde.training.plots.confusion import draw_confusion
from nde.training.plots.discrimination import draw_discrimination
from nde.training.plots.learning import draw_learning
from nde.training.plots.reliability import draw_reliability
from nde.training.plots.steps import draw_steps
from nde.training.record import RunRecord, read_record
from nde.training.run_folder import RunFolder

_PARTS = ("train", "validation", "test")
# Channels and classes beyond that number are left to data.json.
_LISTED = 40
# Of each picture what it is, and how to read it.
_TOLD = {
    "training": (
        "Loss, validation accuracy and function evaluations over the epochs",
        "The dotted line is the epoch whose weights were kept.",
    ),
    "roc_pr": (
        "ROC and precision-recall curves of the test series",
        "Test series, each class against the rest; of two classes the rarer one.",
    ),
    "reliability": (
        "Accuracy of the test series over the confidence of their prediction",
        "Test series in bins of the probability of the predicted class. Bars below the "
        "dotted line are confidence that is not earned; bins of few series say little.",
    ),
    "confusion": (
        "Test series by true and predicted class",
        "Test series: counts, coloured by their share of the true class.",
    ),
    "steps": (
        "Length and error estimate of the accepted steps along time",
        "Accepted steps of the first validation batch, a line for each series, along "
        "the first noise path of the evaluation if the model has noise.",
    ),
}


def write_report(run: RunFolder) -> tuple[str, ...]:
    """Write the pictures and report.html of a run that has ended, from its folder.

    Returns the names of the pictures; ROC and precision-recall curves need two classes
    among the test series. Raises `RunFolderError` when a file is missing or damaged.
    """
    record = read_record(run)
    pictures = _draw(record)
    run.plot("training").parent.mkdir(exist_ok=True)
    for name, png in pictures.items():
        write_bytes(run.plot(name), png)
    write_text(run.report, _page(record, pictures))
    return tuple(pictures)


def _draw(record: RunRecord) -> dict[str, bytes]:
    classes = record.schema.classes
    probabilities, labels = record.probabilities, record.labels
    pictures = {"training": draw_learning(record.epochs, record.metrics["best_epoch"])}
    curves = class_curves(probabilities, labels, classes)
    if curves:
        pictures["roc_pr"] = draw_discrimination(curves)
    pictures["reliability"] = draw_reliability(calibrate(probabilities, labels))
    matrix = multiclass_confusion_matrix(
        probabilities.argmax(dim=1), labels, len(classes)
    )
    pictures["confusion"] = draw_confusion(matrix, classes)
    pictures["steps"] = draw_steps(record.steps)
    return pictures


def _page(record: RunRecord, pictures: dict[str, bytes]) -> str:
    metrics = record.metrics

    def shown(name: str) -> list[str]:
        what, how = _TOLD[name]
        return [picture(pictures[name], what), paragraph(how)]

    return page(
        f"{metrics['model']} on {metrics['data']}",
        [
            paragraph(
                f"Seed {metrics['seed']}, {metrics['n_params']} parameters, weights of "
                f"epoch {metrics['best_epoch']} of {metrics['epochs']}."
            ),
            heading("Results"),
            *_results(record),
            heading("Data"),
            *_data(record),
            heading("Learning curves"),
            *shown("training"),
            heading("ROC and precision-recall"),
            *(shown("roc_pr") if "roc_pr" in pictures else []),
            _class_curves(record),
            heading("Reliability"),
            *shown("reliability"),
            heading("Confusion matrix"),
            *shown("confusion"),
            heading("Steps along time"),
            *shown("steps"),
            *(
                []
                if record.steps.estimates
                else [paragraph("The method has no error estimates here.")]
            ),
            heading("Cost"),
            _cost(record),
            heading("How to repeat it"),
            folded("config.resolved.yaml", record.config),
            folded("env.json", json.dumps(record.environment, indent=2)),
        ],
    )


def _results(record: RunRecord) -> list[str]:
    blind = _blind_metrics(record)
    rows = [
        [
            name.replace("_", " "),
            *(_number(record.metrics[part].get(name)) for part in _PARTS),
            _number(blind.get(name)),
        ]
        for name in record.metrics["test"]
    ]
    error = calibrate(record.probabilities, record.labels).error
    rows.append(["expected calibration error", "", "", _number(error), ""])
    counts = record.data["train"]["classes"]
    most = max(counts, key=lambda name: counts[name])
    return [
        table(["", *_PARTS, "blind guess, test"], rows),
        paragraph(
            f"The blind guess gives every series the shares of the classes among the "
            f"training series, so it predicts {most!r}. The test is of "
            f"{len(record.labels)} series."
        ),
    ]


def _blind_metrics(record: RunRecord) -> dict[str, float]:
    """Test metrics of the class shares of the training series."""
    counts = record.data["train"]["classes"]
    shares = torch.tensor(
        [counts[name] for name in record.schema.classes], dtype=torch.float64
    )
    every = (shares / shares.sum()).expand(len(record.labels), -1)
    return classification_metrics(every, record.labels)


def _class_curves(record: RunRecord) -> str:
    curves = class_curves(record.probabilities, record.labels, record.schema.classes)
    if not curves:
        return paragraph("All test series are of one class: there is nothing to tell.")
    return table(
        ["class", "share", "area under ROC", "average precision"],
        [
            [curve.name]
            + [
                _number(value)
                for value in (curve.share, curve.auroc, curve.average_precision)
            ]
            for curve in curves
        ],
    )


def _data(record: RunRecord) -> list[str]:
    schema, data = record.schema, record.data
    unit = f" ({schema.time_unit})" if schema.time_unit else ""
    parts = [
        ["series", *(str(data[part]["series"]) for part in _PARTS)],
        ["times of a series", *(_range(data[part]["times"]) for part in _PARTS)],
        [f"duration{unit}", *(_range(data[part]["duration"]) for part in _PARTS)],
    ]
    classes = [
        [f"class {name}", *(str(data[part]["classes"][name]) for part in _PARTS)]
        for name in schema.classes[:_LISTED]
    ]
    channels = [
        [
            name,
            *(f"{data[part]['missing'][name]:.1%}" for part in _PARTS),
            _number(schema.scaling.mean[k]),
            _number(schema.scaling.deviation[k]),
        ]
        for k, name in enumerate(schema.channels[:_LISTED])
    ]
    told = [f"Parts: {schema.split_rule}. Ranges are minimum, median and maximum."]
    if schema.drop_rate:
        told.append(
            f"Of the observations {schema.drop_rate:.0%} were hidden (protocol "
            f"{schema.drop_protocol}, seed {schema.data_seed})."
        )
    for what, names in (("classes", schema.classes), ("channels", schema.channels)):
        if len(names) > _LISTED:
            told.append(f"The first {_LISTED} of {len(names)} {what} are shown.")
    return [
        table(["", *_PARTS], parts + classes),
        table(
            ["channel", *(f"missing, {part}" for part in _PARTS), "mean", "deviation"],
            channels,
        ),
        paragraph(" ".join(told)),
    ]


def _cost(record: RunRecord) -> str:
    solver, timing = record.metrics["solver"], record.timing
    return table(
        ["", "value"],
        [
            ["parameters", str(record.metrics["n_params"])],
            ["evaluations per series, last epoch", _number(solver["nfe_train"])],
            ["evaluations per series and path, test", _number(solver["nfe"])],
            ["steps per series and path, test", _number(solver["steps"])],
            ["rejected steps per series and path, test", _number(solver["rejected"])],
            ["mean step, test (median series = 1)", _number(solver["mean_step"])],
            ["skipped batches", str(record.metrics["skipped_batches"])],
            ["wall time (s)", _number(timing["wall_s"])],
            ["time per epoch (s)", _number(timing["s_per_epoch"])],
            ["peak memory (MB)", _number(timing["peak_mem_mb"])],
        ],
    )


def _number(value: Any) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.4g}"


def _range(values: list[float]) -> str:
    low, middle, high = (f"{value:.4g}" for value in values)
    return low if low == high else f"{low} / {middle} / {high}"
