"""A linear-noise SDE classifier on a CSV of irregular series, from Python.

The file has one row per visit: id, time, channels, label; an empty cell is a value that
was not taken. Without a file, one is made up: two groups whose two lab values drift
apart, visited at irregular times, a third of the values missing.

    python examples/classify_csv.py [visits.csv]

`nde train visits.csv` does the same with checkpoints, metrics and plots.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nde.data import collate, fit_scaling, read_source, split_series
from nde.models import build_classifier


def make_visits(path: Path, patients: int = 120) -> None:
    """Write a CSV of made-up visits."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "time", "albumin", "bilirubin", "label"])
        for patient in range(patients):
            ill = patient % 2
            times = np.cumsum(rng.exponential(1.0, size=rng.integers(4, 12)))
            for time in times:
                values = rng.normal([4.0 - 0.15 * ill * time, 1.0 + 0.3 * ill * time])
                cells = [f"{v:.3f}" if rng.random() > 1 / 3 else "" for v in values]
                writer.writerow([patient, f"{time:.3f}", *cells, "ill" * ill or "well"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if options.file is None:
            options.file = Path(folder) / "visits.csv"
            make_visits(options.file)
        dataset = read_source(str(options.file)).dataset
    split = split_series(dataset, seed=0)
    scaling, _ = fit_scaling(dataset.take(split.train))
    dataset = scaling.apply(dataset)

    model = build_classifier(
        "lnsde",
        channels=len(dataset.channels),
        classes=len(dataset.classes),
        hidden=16,
        width=16,
        intensity="mask",
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(options.epochs):
        model.train()
        total = 0.0
        for rows in torch.randperm(len(split.train)).split(32):
            batch = collate(dataset, split.train[rows.numpy()])
            out = model(batch.times, batch.values)
            loss = nn.functional.cross_entropy(out.logits, batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: training loss {total / len(split.train):.3f}")

    model.eval()
    test = collate(dataset, split.test)
    with torch.no_grad():
        paths = [model(test.times, test.values, seed=seed) for seed in range(8)]
    logits = torch.stack([out.logits.softmax(1) for out in paths]).mean(0)
    accuracy = (logits.argmax(1) == test.labels).double().mean().item()
    evaluations = paths[0].evaluations.double().mean().item()
    print(f"test accuracy {accuracy:.3f}, {evaluations:.1f} evaluations per series")


if __name__ == "__main__":
    main()
