"""README's Python blocks, run in order, print what their comments promise."""

import contextlib
import io
import re
from pathlib import Path
from typing import get_args

from nde.models import ModelName
from nde.solvers import ODE_METHODS, SDE_METHODS

TEXT = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")


def test_python_blocks() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec("\n".join(blocks), names)
    lines = shown.getvalue().splitlines()
    for promise in ("torch.Size([2, 3, 2])", "torch.Size([2, 9])"):
        assert promise in TEXT and promise in lines
    paths = names["paths"].final  # type: ignore[attr-defined]
    assert abs(float(paths.var()) - 0.125) < 0.02


def test_tables_list_every_method_and_model() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", TEXT, flags=re.MULTILINE)
    assert sorted(rows) == sorted([*ODE_METHODS, *SDE_METHODS, *get_args(ModelName)])


def test_error_columns() -> None:
    for name, stepper in ODE_METHODS.items():
        pattern = rf"^\| `{name}` \|.*\| ODE \| (yes|no) \| (yes|no) \|$"
        match = re.search(pattern, TEXT, flags=re.MULTILINE)
        assert match, name
        assert match[1] == ("no" if stepper.error_order is None else "yes")
    for name, stepper in SDE_METHODS.items():
        pattern = rf"^\| `{name}` \|.*\| SDE, .* \| (yes|no) \| (yes|no) \|$"
        match = re.search(pattern, TEXT, flags=re.MULTILINE)
        assert match, name
        assert match[1] == ("no" if stepper.error_order is None else "yes")
        assert match[2] == ("yes" if stepper.has_stiffness else "no")
