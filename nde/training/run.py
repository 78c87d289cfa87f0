"""A whole training run in its folder: every file of it, in the order of its life."""

import resource
import sys
import time

from nde.training.build import choose_device
from nde.training.config import Config
from nde.training.config_file import to_yaml
from nde.training.data_summary import summarise_data
from nde.training.environment import describe_environment
from nde.training.events import Observer
from nde.training.loop import Outcome, train
from nde.training.predictions import write_predictions
from nde.training.preparation import Prepared
from nde.training.report import write_report
from nde.training.restore import restore
from nde.training.run_folder import RunFolder
from nde.training.step_trace import trace_steps, write_trace


def run_training(
    config: Config, prepared: Prepared, run: RunFolder, observe: Observer
) -> Outcome:
    """Train in `run` and leave configuration, metrics, predictions and report there.

    metrics.json holds nothing that depends on the clock, so that two runs with one
    seed can be compared byte by byte; times are in timing.json.
    """
    began = time.perf_counter()
    run.write_text("config.resolved.yaml", to_yaml(config))
    run.write_json("schema.json", prepared.schema.to_tree())
    run.write_json("splits.json", prepared.splits)
    run.write_json("data.json", summarise_data(prepared))
    device = choose_device(config.train.device)
    run.write_json("env.json", describe_environment(device))

    outcome = train(config, prepared, run, observe)

    run.write_json("timing.json", _timing(began, prepared, outcome))
    test = outcome.test
    labels = test.dataset.labels
    assert labels is not None
    classes = prepared.schema.classes
    write_predictions(
        run.file("predictions.csv"),
        ids=test.dataset.ids,
        classes=classes,
        probabilities=test.probabilities,
        truth=[classes[label] for label in labels.tolist()],
    )
    trained = restore(run.path, device=config.train.device)
    trace = trace_steps(trained, prepared.parts["validation"])
    write_trace(run.file("steps.csv"), trace)
    run.write_json("metrics.json", outcome.metrics)
    if config.log.plots:
        write_report(run)
    return outcome


def _timing(began: float, prepared: Prepared, outcome: Outcome) -> dict[str, float]:
    wall = time.perf_counter() - began
    seen = sum(len(t) for t in prepared.parts["train"].times) * len(outcome.epochs)
    # Kilobytes, except on macOS, where the same field is in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {
        "wall_s": wall,
        "s_per_epoch": wall / len(outcome.epochs),
        "s_per_1k_training_times": 1000 * wall / seen,
        "peak_mem_mb": peak,
    }
