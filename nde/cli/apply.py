"""The bodies of `nde evaluate` and `nde predict`: a trained model on data."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nde.cli.console import beside, finish, note, warn
from nde.data import Request
from nde.training.atomic import write_text
from nde.training.predictions import write_predictions
from nde.training.restore import fit, match_classes, read_other, recover_test, restore
from nde.training.run_folder import RunFolderError, to_json


def run_evaluate(
    run: str,
    data: str | None,
    *,
    device: str,
    request: Request,
) -> None:
    """Measure the model of `run` on its own test series, or on other `data`."""
    trained = restore(Path(run), device=device)
    name = trained.schema.data
    if data is None:
        dataset, warnings = recover_test(trained)
    else:
        label = request.columns.label or trained.config.data.label
        columns = replace(request.columns, label=label)
        reading = read_other(trained, data, replace(request, columns=columns))
        warnings = reading.warnings
        name = reading.dataset.name
        for line in reading.notes:
            note(line)
        dataset = match_classes(fit(trained, reading.dataset), trained.schema.classes)
    for line in warnings:
        warn(line)
    evaluation = trained.evaluate(dataset)
    tree: dict[str, Any] = {
        "data": name,
        "series": len(evaluation.dataset),
        "test": evaluation.metrics(),
        "solver": asdict(evaluation.cost),
    }
    for metric, value in tree["test"].items():
        note(f"{metric.replace('_', ' ')} {value:.4f}")
    note(f"function evaluations per series: {evaluation.cost.nfe:.1f}")
    file = "evaluation.json" if data is None else f"evaluation-{name}.json"
    path = beside(run, file)
    write_text(path, to_json(tree))
    finish(path, tree)


def run_predict(
    run: str,
    data: str,
    *,
    output: str | None,
    device: str,
    request: Request,
) -> None:
    """Write class probabilities of every series of `data` to a CSV file."""
    if output is not None:
        _check_output(Path(output))
    trained = restore(Path(run), device=device)
    reading = read_other(trained, data, request)
    for line in reading.notes:
        note(line)
    for line in reading.warnings:
        warn(line)
    given = reading.dataset
    evaluation = trained.evaluate(fit(trained, given))
    labels = given.labels
    path = (
        beside(run, f"predictions-{given.name}.csv") if output is None else Path(output)
    )
    write_predictions(
        path,
        ids=evaluation.dataset.ids,
        classes=trained.schema.classes,
        probabilities=evaluation.probabilities,
        truth=None
        if labels is None
        else [given.classes[label] for label in labels.tolist()],
    )
    note(f"{len(given)} series, {evaluation.cost.nfe:.1f} function evaluations each")
    finish(path, {"data": given.name, "series": len(given)})


def _check_output(path: Path) -> None:
    """Refuse a place for predictions before anything is solved."""
    if path.is_dir():
        raise RunFolderError(f"{path} is a folder; give -o a file, {path / 'out.csv'}")
    if not path.parent.is_dir():
        raise RunFolderError(f"{path.parent} does not exist; make it, or change -o")
