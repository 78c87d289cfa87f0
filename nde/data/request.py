"""What a user says beside the source: columns, format, and files that go with it."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from nde.data.columns import Columns


@dataclass(frozen=True)
class Request:
    """How to read a source; None means: find out, or there is none.

    `format` is a name of `nde.data.FORMATS`. `labels` is a table `id, label[, split]`
    for the series of the source, `times` a file with the times of a grid whose values
    the source holds. `data_dir` is where named data sets lie or are fetched to; `cache`
    says whether to keep what took long to parse.
    """

    columns: Columns = field(default_factory=Columns)
    format: str | None = None
    labels: Path | None = None
    times: Path | None = None
    data_dir: Path | None = None
    cache: bool = True

    def without_label(self) -> "Request":
        """The same request when labels come from somewhere else."""
        return replace(self, columns=replace(self.columns, label=None))
