"""From an exception to one line on stderr and an exit code."""

import typer

from nde.cli.console import complain

_FAILED, _REFUSED, _DIVERGED, _INTERRUPTED = 1, 2, 3, 130


def explain(error: Exception) -> int:
    """Say in one line what went wrong and return the exit code."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.TyperException):
        complain(error.format_message())
        return _REFUSED
    if isinstance(error, typer.Abort):
        complain("interrupted")
        return _INTERRUPTED
    # Only now, since these modules load torch and a usage error need not.
    from nde.data import DataError
    from nde.training.checkpoint import CheckpointError
    from nde.training.config_file import ConfigError
    from nde.training.guard import Diverged
    from nde.training.interrupt import Stopped
    from nde.training.run_folder import RunFolderError

    if isinstance(error, DataError | ConfigError | CheckpointError | RunFolderError):
        complain(str(error))
        return _REFUSED
    if isinstance(error, Diverged):
        complain(str(error))
        return _DIVERGED
    if isinstance(error, Stopped):
        complain(str(error))
        return error.code
    complain(f"{type(error).__name__}: {' '.join(str(error).split())}", error)
    return _FAILED
