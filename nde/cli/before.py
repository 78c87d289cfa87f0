"""Commands that come before a training: what is there, and what can be set."""

from typing import Annotated

import typer

from nde.cli.options import (
    DATA,
    Channels,
    DataDir,
    Form,
    Id,
    Json,
    Label,
    Labels,
    Quiet,
    Time,
    Times,
    Verbose,
    data_flags,
)


def inspect(
    data: Annotated[str, typer.Argument(help=DATA)],
    id: Id = None,  # noqa: A002
    time: Time = None,
    label: Label = None,
    channels: Channels = None,
    labels: Labels = None,
    times: Times = None,
    format: Form = None,  # noqa: A002
    data_dir: DataDir = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Tell what DATA holds: series, channels, gaps, classes, and what is doubtful."""
    from nde.cli.console import speak
    from nde.cli.inspect import run_inspect

    told = data_flags(
        source=data,
        id=id,
        time=time,
        label=label,
        channels=channels,
        labels=labels,
        times=times,
        format=format,
        data_dir=data_dir,
    )
    speak(quiet=quiet, verbose=verbose, json=json)
    run_inspect(
        [(key, value) for key, value in told.items() if value is not None],
        as_json=json,
    )


def init(
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="A new YAML file; default: stdout."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a configuration of all keys with their defaults and a comment each."""
    from nde.cli.about import run_init
    from nde.cli.console import speak

    speak(quiet=quiet)
    run_init(output)


def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from nde.cli.about import run_schema

    run_schema()


def env(json: Json = False) -> None:
    """Print versions, machine and device, for a report of an error."""
    from nde.cli.about import run_env

    run_env(as_json=json)
