"""Classifying digits: the regularizers make solves cheap at no cost in accuracy.

64 pixels evolve under a tanh network of width 100 and time, a linear layer reads the
classes off; all settings but the regularizer are the same between the runs.
"""

from dataclasses import dataclass
from statistics import mean

import pytest
import torch
from problems import column
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nde.regularizers import (
    ErrorEstimate,
    Exponential,
    LocalError,
    LocalSampling,
    Regularizer,
    draw,
)
from nde.solvers import PID, ODETerm, Solution, solve

ITERATIONS, BATCH = 400, 256
# Accuracy is averaged over some of the last iterations: one alone jumps by points.
MEASURED = range(ITERATIONS - 50, ITERATIONS, 5)
F64 = {"dtype": torch.float64}
# The PI controller that tsit5 is given in SciML.
CONTROLLER = PID(rtol=1e-6, atol=1e-6, pcoeff=0.4, icoeff=0.3)
WEIGHT = Exponential(100.0, 10.0)
# Points of accuracy that a run may lose: two images of 360.
SLACK = 0.5
INTERVAL = torch.tensor([0.0, 1.0], **F64)


@dataclass(frozen=True)
class Digits:
    """Images `(n, 64)` in [0, 1] and labels `(n,)`, split 4 : 1."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


class Classifier(nn.Module):
    """x' = W2 tanh(W1 [x, t]), then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(65, 100), nn.Linear(100, 64)
        self.head = nn.Linear(64, 10)

    def field(self, t: Tensor, x: Tensor) -> Tensor:
        time = column(t).expand(x.shape[0], 1)
        return self.outer(torch.tanh(self.inner(torch.cat((x, time), -1))))

    def solve(self, x: Tensor, probe_times: Tensor | None = None) -> Solution:
        return solve(
            ODETerm(self.field),
            x,
            INTERVAL,
            method="tsit5",
            controller=CONTROLLER,
            batch="shared",
            probe_times=probe_times,
        )


@dataclass(frozen=True)
class Outcome:
    """Test accuracy in percent, and evaluations of a solve of the test images."""

    accuracy: float
    evaluations: float


def train(digits: Digits, regularizers: tuple[Regularizer, ...]) -> Outcome:
    torch.manual_seed(0)
    model = Classifier().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(0)
    accuracy, evaluations = [], []
    for iteration in range(ITERATIONS):
        rows = torch.randint(len(digits.train_x), (BATCH,), generator=order)
        drawn = draw(regularizers, INTERVAL[:1], INTERVAL[1:])
        sol = model.solve(digits.train_x[rows], drawn.probe_times)
        loss = cross_entropy(model.head(sol.final), digits.train_y[rows])
        penalties = drawn.penalties(sol)
        loss = loss + drawn.total(penalties, iteration / ITERATIONS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if iteration in MEASURED:
            with torch.no_grad():
                sol = model.solve(digits.test_x)
                right = model.head(sol.final).argmax(-1) == digits.test_y
            accuracy.append(100.0 * right.double().mean().item())
            evaluations.append(int(sol.stats.evaluations.max()))
    return Outcome(mean(accuracy), mean(evaluations))


@pytest.fixture(scope="module")
def digits() -> Digits:
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    x = torch.tensor(data.data, **F64) / 16.0
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    cut = len(x) * 4 // 5
    return Digits(x[order[:cut]], y[order[:cut]], x[order[cut:]], y[order[cut:]])


@pytest.fixture(scope="module")
def vanilla(digits: Digits) -> Outcome:
    return train(digits, ())


@pytest.mark.slow
@pytest.mark.parametrize(
    "regularizer",
    [
        LocalError(weight=WEIGHT),
        LocalError(weight=WEIGHT, options=LocalSampling(sampling="biased")),
        ErrorEstimate(weight=WEIGHT),
    ],
    ids=["local unbiased", "local biased", "global"],
)
def test_fewer_evaluations_for_the_same_accuracy(
    regularizer: Regularizer, digits: Digits, vanilla: Outcome
) -> None:
    found = train(digits, (regularizer,))
    print(f"\n{regularizer.name}: {found} against {vanilla}")
    assert vanilla.accuracy > 95.0
    assert found.evaluations <= 0.65 * vanilla.evaluations
    assert found.accuracy >= vanilla.accuracy - SLACK
