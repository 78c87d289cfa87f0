"""Which column of a table plays which role: told by flags, or by its usual names.

Never guessed between two candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from nde.data.errors import DataError, unknown_name
from nde.data.table import Table

# Compared in lower case.
ALIASES: dict[str, tuple[str, ...]] = {
    "id": (
        "id", "item_id", "unique_id", "series_id", "case_id", "recordid", "subject",
    ),
    "time": ("time", "t", "timestamp", "datetime", "date", "ds", "iculos", "hours"),
    "label": ("label", "target", "class", "sepsislabel", "in-hospital_death"),
    "split": ("split",),
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Column names the user gave; None means: find it by its usual names."""

    id: str | None = None
    time: str | None = None
    label: str | None = None
    channels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Roles:
    """The columns of a table by what they mean; None where there is none."""

    id: str
    time: str | None
    label: str | None
    split: str | None

    def rest(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that play no role here."""
        taken = {self.id, self.time, self.label, self.split}
        return [name for name in names if name not in taken]


def find_roles(table: Table, columns: Columns) -> Roles:
    """Roles of the columns of `table`; time may be absent, the id may not.

    A column "target" that is the only one left to be a channel is one, as in tables of
    AutoGluon, `item_id, timestamp, target`; and so is a label by its usual name that
    `--channels` names.
    Raises `DataError`.
    """
    key = find_column(table, "id", columns.id)
    if key is None:
        refuse_missing(table, "id")
    split = find_column(table, "split", None)
    time = find_column(table, "time", columns.time)
    label = find_column(table, "label", columns.label)
    roles = Roles(key, time, label, split)
    if columns.label is None and label is not None:
        wanted = label in (columns.channels or ())
        alone = time is not None and not roles.rest(table.frame.columns)
        if wanted or (alone and label.lower() == "target"):
            return Roles(key, time, None, split)
    return roles


def find_column(table: Table, role: str, given: str | None) -> str | None:
    """The column that plays `role`: the given one, or the one of a usual name."""
    names = table.frame.columns
    if given is not None:
        if given not in names:
            raise DataError(f"{table.source}: {unknown_name('column', given, names)}")
        return given
    found = [name for name in names if name.lower() in ALIASES[role]]
    if len(found) > 1:
        raise DataError(
            f"{table.source}: columns {' and '.join(found)} could both be the {role}; "
            f"say which with --{role}"
        )
    return found[0] if found else None


def refuse_missing(table: Table, role: str) -> NoReturn:
    """Raise `DataError` for a table without a column for `role`."""
    raise DataError(
        f"{table.source}: no column is named like the {role} "
        f"({', '.join(ALIASES[role])}); name it with --{role}. "
        f"Columns: {', '.join(table.frame.columns)}"
    )
