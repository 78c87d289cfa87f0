"""What becomes of a run whose losses have no finite value: skip, undo, give up."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nde.training.pricing import restore_weights, weight_states

# Batches in a row without a finite loss before the last update is undone, and before
# the run counts as diverged.
MAX_TRIES, MAX_SKIPPED = 3, 10
# Undone updates before the run counts as diverged, unless so many steps in a row were
# good since the last one.
MAX_UNDONE, CALM = 3, 10


class Diverged(RuntimeError):
    """Losses or solves that stay without a finite value."""


@dataclass(eq=False)
class Guard:
    """Skipped and good batches in a row, undone updates, and what to go back to.

    `good` is model, optimiser and automatic weights before the last update that was
    made: there, a loss was finite. The weights after it need not have any.
    """

    skipped_in_row: int = 0
    good_in_row: int = 0
    undone: int = 0
    good: dict[str, Any] | None = None

    def after(
        self, skipped: bool, before: dict[str, Any], model: nn.Module, adam: Optimizer
    ) -> bool:
        """Take in a step that began at `before`; whether an update was undone."""
        if not skipped:
            self.good = before
            self.skipped_in_row = 0
            self.good_in_row += 1
            if self.good_in_row == CALM:
                self.undone = 0
            return False
        self.good_in_row = 0
        self.skipped_in_row += 1
        if self.skipped_in_row != MAX_TRIES or self.good is None:
            return False
        self.undone += 1
        go_back(model, adam, self.good)
        return True

    def check(self) -> None:
        """Raise `Diverged` if this cannot go on."""
        if self.skipped_in_row >= MAX_SKIPPED:
            raise Diverged(f"{MAX_SKIPPED} batches in a row gave no finite loss")
        if self.undone >= MAX_UNDONE:
            raise Diverged(
                f"{MAX_UNDONE} times an update led to {MAX_TRIES} batches in a row "
                "without a finite loss"
            )


def keep(model: nn.Module, adam: Optimizer) -> dict[str, Any]:
    """A copy of what an update changes: tensors and plain containers."""
    return {
        "model": _copy(model.state_dict()),
        "moments": _copy(adam.state_dict()["state"]),
        "weights": weight_states(model),
    }


def go_back(model: nn.Module, adam: Optimizer, kept: dict[str, Any]) -> None:
    """Undo all updates since `keep`, except that the learning rate stays."""
    model.load_state_dict(kept["model"])
    # The copy may be needed once more, and the optimiser would write into it.
    moments = _copy(kept["moments"])
    groups = adam.state_dict()["param_groups"]
    adam.load_state_dict({"state": moments, "param_groups": groups})
    restore_weights(model, kept["weights"])


def _copy(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return tree
