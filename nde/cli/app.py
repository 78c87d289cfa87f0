"""Commands and options of `nde`, and how a failure becomes an exit code.

The bodies of the commands live in modules of their own and are imported when called:
`nde --help` must answer without loading torch.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from nde import __version__
from nde.cli.before import env, init, inspect, schema
from nde.cli.options import (
    DATA,
    RUN,
    Channels,
    ConfigFile,
    DataDir,
    Device,
    Form,
    Id,
    Json,
    Label,
    Labels,
    Quiet,
    Settings,
    Time,
    Times,
    Verbose,
    data_flags,
    names,
)

if TYPE_CHECKING:
    from nde.data import Request

app = typer.Typer(
    name="nde",
    help="Train and use neural differential equations on irregular series.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"nde {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Version."),
    ] = False,
) -> None:
    """Train and use neural differential equations on irregular series."""


@app.command()
def train(
    data: Annotated[str | None, typer.Argument(help=DATA)] = None,
    model: Annotated[
        str | None,
        typer.Option(help="lsde, lnsde, gsde, neural-sde or neural-ode."),
    ] = None,
    form: Annotated[
        str | None, typer.Option(help="Form of the stable SDE models: paper, ...")
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Size of the state.")] = None,
    width: Annotated[int | None, typer.Option(help="Width of the networks.")] = None,
    layers: Annotated[int | None, typer.Option(help="Depth of the networks.")] = None,
    regularizer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WEIGHT",
            help="error, log-error, predicted-steps, stiffness, the same with local- "
            "before them, kinetic, jacobian, taylor-2, taylor-3 or adaptive-jacobian "
            "with its weight: a number, "
            "START:END, either with ,warmup=SHARE, auto:nfe=RATIO or auto:share=SHARE; "
            "steer or steer-gaussian with its width. Repeatable.",
        ),
    ] = None,
    drop_rate: Annotated[
        float | None, typer.Option(help="Share of the observations to hide, [0, 1).")
    ] = None,
    drop_protocol: Annotated[
        str | None,
        typer.Option(help="channels: hide points of each channel; rows: whole rows."),
    ] = None,
    solver: Annotated[str | None, typer.Option(help="Solver method.")] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance.")] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance.")] = None,
    step: Annotated[
        str | None, typer.Option(help="Size of fixed steps, or 'adaptive'.")
    ] = None,
    adjoint: Annotated[str | None, typer.Option(help="recompute or direct.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="A run for each seed, and their mean."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Series per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of Adam.")] = None,
    device: Device = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; 0 for torch's own choice.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Run folder; default: a new one under runs/.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run in --out.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run that stopped; auto: with that of --out, if any.",
        ),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Read, check and print; train nothing."),
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Two batches, one epoch.")
    ] = False,
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
    """Train a classifier on labelled series and evaluate it."""
    from nde.cli.console import speak
    from nde.cli.train import run_train

    flags = data_flags(
        source=data,
        id=id,
        time=time,
        label=label,
        channels=channels,
        labels=labels,
        times=times,
        format=format,
        data_dir=data_dir,
    ) | {
        "data.drop_rate": drop_rate,
        "data.drop_protocol": drop_protocol,
        "model.name": model,
        "model.form": form,
        "model.hidden": hidden,
        "model.width": width,
        "model.layers": layers,
        "solver.method": solver,
        "solver.rtol": rtol,
        "solver.atol": atol,
        "solver.step": step,
        "solver.adjoint": adjoint,
        "optim.lr": lr,
        "train.seed": seed,
        "train.seeds": None if seeds is None else names(seeds),
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.device": device,
        "train.threads": threads,
        "log.out": out,
    }
    if smoke:
        flags |= {"train.epochs": 1, "train.limit_batches": 2, "train.eval_paths": 1}
    speak(quiet=quiet, verbose=verbose, json=json)
    run_train(
        file=config,
        flags=[(key, value) for key, value in flags.items() if value is not None],
        regularizers=regularizer or [],
        settings=settings or [],
        overwrite=overwrite,
        dry_run=dry_run,
        resume=resume,
    )


@app.command()
def tune(
    data: Annotated[str | None, typer.Argument(help=DATA)] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A.B=PLACE",
            help="LOW..HIGH, LOW..HIGH,log or A,B,C for a key. Repeatable.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Trials of the whole sweep.")] = 20,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Database of trials; default: a file in --out."
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder; default: a new one under sweeps/.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Search settings with the best validation metric; several processes may share."""
    from nde.cli.console import speak
    from nde.cli.tune import run_tune

    speak(quiet=quiet, verbose=verbose, json=json)
    given = (("data.source", data), ("log.out", out))
    run_tune(
        file=config,
        flags=[(key, value) for key, value in given if value is not None],
        settings=settings or [],
        space=space or [],
        trials=trials,
        storage=storage,
    )


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help=RUN)],
    data: Annotated[
        str | None,
        typer.Argument(help="Other data; default: the test series of the run."),
    ] = None,
    device: Device = None,
    id: Id = None,  # noqa: A002
    time: Time = None,
    label: Label = None,
    labels: Labels = None,
    times: Times = None,
    format: Form = None,  # noqa: A002
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Measure a trained model on its test series or on other data."""
    from nde.cli.apply import run_evaluate
    from nde.cli.console import speak

    speak(quiet=quiet, verbose=verbose, json=json)
    request = _request(
        id=id, time=time, label=label, labels=labels, times=times, format=format
    )
    run_evaluate(run, data, device=device or "auto", request=request)


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help=RUN)],
    data: Annotated[str, typer.Argument(help=DATA)],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="CSV file; default: in the run folder."),
    ] = None,
    device: Device = None,
    id: Id = None,  # noqa: A002
    time: Time = None,
    label: Label = None,
    times: Times = None,
    format: Form = None,  # noqa: A002
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Write the class probabilities of every series of DATA."""
    from nde.cli.apply import run_predict
    from nde.cli.console import speak

    speak(quiet=quiet, verbose=verbose, json=json)
    request = _request(id=id, time=time, label=label, times=times, format=format)
    run_predict(
        run,
        data,
        output=output,
        device=device or "auto",
        request=request,
    )


@app.command("check-grad")
def check_grad(
    run: Annotated[str, typer.Argument(help=RUN)],
    series: Annotated[int, typer.Option(help="Test series to solve for.")] = 8,
    directions: Annotated[
        int, typer.Option(help="Random directions of finite differences.")
    ] = 3,
    seed: Annotated[int, typer.Option(help="Seed of noise and directions.")] = 0,
    device: Device = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Compare the gradients of a trained model; exit code 1 if they are wrong."""
    from nde.cli.check_grad import run_check_grad
    from nde.cli.console import speak

    speak(quiet=quiet, verbose=verbose, json=json)
    right = run_check_grad(
        run,
        series=series,
        directions=directions,
        seed=seed,
        device=device or "auto",
    )
    if not right:
        raise typer.Exit(1)


@app.command()
def plot(
    run: Annotated[str, typer.Argument(help="The folder of a run that has ended.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Draw the pictures and report.html of a run again, from its folder alone."""
    from nde.cli.console import speak
    from nde.cli.plot import run_plot

    speak(quiet=quiet, verbose=verbose, json=json)
    run_plot(run)


for command in (inspect, init, schema, env):
    app.command()(command)


def _request(**data: str | None) -> "Request":
    """What the options of a command say about its data."""
    from nde.training.config_file import merge

    told = [(f"data.{key}", value) for key, value in data.items() if value is not None]
    return merge({}, told).data.request()


def run(argv: list[str]) -> int:
    """Run `argv`; a failure becomes one line on stderr and an exit code."""
    try:
        code = app(args=argv or ["--help"], prog_name="nde", standalone_mode=False)
    except Exception as error:
        from nde.cli.failure import explain

        return explain(error)
    return int(code or 0) if argv else 2
