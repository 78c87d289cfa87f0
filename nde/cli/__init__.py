"""The command `nde`. Nothing heavy is imported until a command runs."""

import sys
from collections.abc import Sequence

_EXTRA = {"typer", "rich", "pydantic", "yaml", "torchmetrics", "polars", "matplotlib"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on `argv`, by default the arguments of the process.

    Returns the exit code: 0 done, 1 the run failed, 2 usage, configuration or data,
    3 diverged, 130 interrupted, 143 terminated.
    """
    try:
        from nde.cli.app import run

        return run(sys.argv[1:] if argv is None else list(argv))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(
            f"error: the command line needs {error.name}: pip install 'nde[cli]'",
            file=sys.stderr,
        )
        return 2
