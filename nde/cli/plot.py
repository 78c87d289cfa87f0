"""The body of `nde plot`: the pictures and the report of a run once more."""

from pathlib import Path

from nde.cli.console import finish, note
from nde.training.report import write_report
from nde.training.run_folder import RunFolder, RunFolderError


def run_plot(run: str) -> None:
    """Write report.html and the pictures of the folder `run` from its other files."""
    path = Path(run)
    if not path.is_dir():
        raise RunFolderError(f"{run} is no folder; expected that of a run")
    folder = RunFolder(path)
    names = write_report(folder)
    for name in names:
        note(str(folder.plot(name)))
    finish(folder.report, {"plots": [str(folder.plot(name)) for name in names]})
