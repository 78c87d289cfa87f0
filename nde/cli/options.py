"""Arguments and options that several commands of `nde` share."""

from typing import Annotated

import typer

DATA = "A data set by name (japanese-vowels, ...), or a file or folder of series."
RUN = "A run folder, or a checkpoint file."

Id = Annotated[str | None, typer.Option(help="Column of the series id.")]
Time = Annotated[str | None, typer.Option(help="Column of the time.")]
Label = Annotated[str | None, typer.Option(help="Column of the class label.")]
Channels = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Columns to use as channels.")
]
DataDir = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER", help="Where named data sets lie or are downloaded to."
    ),
]
Labels = Annotated[
    str | None, typer.Option(metavar="FILE", help="Table id, label[, split].")
]
Times = Annotated[
    str | None, typer.Option(metavar="FILE", help="Times of a grid of values.")
]
Form = Annotated[
    str | None, typer.Option(help="Format of DATA; default: told by its content.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only the last line.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Also debug lines.")]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, the rest on stderr.")
]
ConfigFile = Annotated[
    str | None, typer.Option(help="YAML, TOML or JSON file of sections.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Any key of the configuration."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def data_flags(
    *,
    source: str | None,
    id: str | None,  # noqa: A002
    time: str | None,
    label: str | None,
    channels: str | None,
    labels: str | None,
    times: str | None,
    format: str | None,  # noqa: A002
    data_dir: str | None,
) -> dict[str, object]:
    """What to read, and how, as keys of the configuration."""
    return {
        "data.source": source,
        "data.id": id,
        "data.time": time,
        "data.label": label,
        "data.channels": None if channels is None else names(channels),
        "data.labels": labels,
        "data.times": times,
        "data.format": format,
        "data.data_dir": data_dir,
    }


def names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
