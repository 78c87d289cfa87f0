"""Who may import whom: folders, the arrows inside the solvers, and what stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"solvers": "nde.solvers", "regularizers": "nde.regularizers", "nde": "nde"}
STANDARD = set(sys.stdlib_module_names)
CORE = STANDARD | {"torch", "numpy"}
# What `nde.cli` and `nde.training` may need beyond the core: the extra `cli`.
EXTRA = {
    "matplotlib",
    "polars",
    "pydantic",
    "pydantic_core",
    "rich",
    "torchmetrics",
    "typer",
    "yaml",
}
# Package of the project -> packages of the project it may import.
MAY_IMPORT = {
    "nde": {"nde.audit"},
    "nde.solvers": set(),
    "nde.regularizers": {"nde.solvers"},
    "nde.compat": {"nde.solvers"},
    "nde.layers": {"nde.solvers", "nde.regularizers"},
    "nde.models": {"nde.layers", "nde.solvers", "nde.regularizers"},
    "nde.data": set(),
    "nde.audit": {"nde.data", "nde.models", "nde.regularizers", "nde.solvers"},
    "nde.training": {
        "nde",
        "nde.data",
        "nde.models",
        "nde.solvers",
        "nde.regularizers",
    },
    "nde.cli": {"nde", "nde.audit", "nde.data", "nde.training"},
    "nde.__main__": {"nde.cli"},
}
# Inside the solvers a file imports files of its own row or of rows above it.
SOLVER_ROWS = [
    {
        "types",
        "arithmetic",
        "transforms",
        "reachable",
        "stages",
        "tableau",
        "tableaus",
        "state",
        "term",
    },
    {"tolerances", "watch"},
    {"path", "control", "brownian", "divergence", "integral", "bound", "precision"},
    {
        "stepper",
        "runge_kutta",
        "reversible_pair",
        "multistep",
        "symplectic",
        "stochastic",
        "methods",
    },
    {
        "controller",
        "stops",
        "initial_step",
        "problem",
        "nonfinite",
        "clock",
        "own_noise",
        "additive",
        "trial",
    },
    {
        "motions",
        "rejected",
        "apart",
        "tape",
        "recording",
        "schedule",
        "driving",
        "progress",
    },
    {"dense", "locate", "loop", "march"},
    {"adjoint"},
    {"times", "moving_ends", "salvage", "engine", "hybrid"},
    {"stats", "failure", "diagnosis", "choice"},
    {"between", "ensemble", "extra_step", "foreign", "solution", "solve"},
]


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for folder, name in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder)
            if folder == "nde" and inside.parts[0] in ("solvers", "regularizers"):
                continue
            parts = inside.with_suffix("").parts
            dotted = ".".join((name, *parts)).removesuffix(".__init__")
            found[dotted] = path
    return found


MODULES = modules()


def imports(name: str, *, at_import: bool = False) -> set[str]:
    """Modules that `name` imports; `at_import` leaves out those of function bodies
    and of blocks for type checkers."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found = set()
    for node in _statements(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import, line {node.lineno}"
            module = str(node.module)
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found.add(inner if inner in MODULES else module)
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _statements(child)


def package(module: str) -> str:
    """The package of `MAY_IMPORT` that a module of the project belongs to."""
    if module == "nde.__main__":
        return module
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("name", MODULES)
def test_packages_point_one_way(name: str) -> None:
    home = package(name)
    for target in imports(name):
        if target.split(".")[0] == "nde":
            assert package(target) in MAY_IMPORT[home] | {home}, (name, target)


@pytest.mark.parametrize("name", MODULES)
def test_third_parties(name: str) -> None:
    home = package(name)
    allowed = CORE
    if home in ("nde.cli", "nde.training"):
        allowed = CORE | EXTRA
    elif home == "nde.data":
        allowed = CORE | {"polars", "h5py"}
    elif home == "nde.solvers":
        allowed = STANDARD | {"torch"}
    elif home == "nde.compat":
        allowed = STANDARD | {"torch", "scipy"}
    outside = {t.split(".")[0] for t in imports(name)} - {"nde"}
    assert outside <= allowed, name


@pytest.mark.parametrize("name", [m for m in MODULES if m.startswith("nde.solvers.")])
def test_arrows_inside_the_solvers(name: str) -> None:
    def row(module: str) -> int:
        part = module.split(".")[2]
        rows = [i for i, names in enumerate(SOLVER_ROWS) if part in names]
        assert rows, f"give {module} a row in SOLVER_ROWS"
        return rows[0]

    for target in imports(name):
        if target.startswith("nde.solvers."):
            assert row(target) <= row(name), f"{name} imports {target}"
        assert target != "nde.solvers", f"{name} imports the whole of its package"


def test_no_cycles() -> None:
    graph = {m: imports(m, at_import=True) & set(MODULES) for m in MODULES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for target in graph[module] - {module}:
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def loaded(statement: str) -> set[str]:
    """Top-level modules in memory after `statement` in a fresh process."""
    code = f"{statement}\nimport sys; print(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_core_loads_what_torch_and_numpy_load_and_nothing_else() -> None:
    ours = loaded(
        "import nde, nde.solvers, nde.regularizers, nde.layers, nde.models, nde.data, "
        "nde.audit, "
        "nde.compat.torchdiffeq, nde.compat.torchsde"
    )
    # numpy.random is a part of numpy that numpy itself loads on first use.
    theirs = loaded("import torch, numpy.random")
    assert ours - theirs - STANDARD == {"nde"}


def test_help_does_not_load_torch() -> None:
    shown = (
        "import io, contextlib, nde.cli\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    assert nde.cli.main(['train', '--help']) == 0"
    )
    assert not {"torch", "numpy", "polars"} & loaded(shown)
