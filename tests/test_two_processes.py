"""Two processes on half a batch each get the gradients of one on the whole."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from gradients import assert_same
from two_processes import CASES, PROCESSES, loss, seeds, series, work

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="gloo is not there"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found, by case: gradients, and how often hooks fired."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=PROCESSES)
    return [
        torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True)
        for rank in range(PROCESSES)
    ]


@pytest.mark.parametrize("key", CASES)
def test_gradients_are_those_of_one_process(
    key: str, ranks: list[dict[str, Any]]
) -> None:
    model = CASES[key].model().eval()
    loss(model, series(), seeds()).backward()
    names = [name for name, _ in model.named_parameters()]
    wanted = [p.grad for p in model.parameters()]
    # Backsolve's own error is the same in halves; only rounding differs.
    for found, _ in (rank[key] for rank in ranks):
        assert_same([found[name] for name in names], wanted, rtol=1e-10)
    for name in names:
        assert torch.equal(ranks[0][key][0][name], ranks[1][key][0][name])


@pytest.mark.parametrize("key", CASES)
def test_hooks_fire_once_per_parameter_and_round(
    key: str, ranks: list[dict[str, Any]]
) -> None:
    for _, fired in (rank[key] for rank in ranks):
        assert set(fired.values()) == {2}
