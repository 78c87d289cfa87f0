"""The package as it is built and described: lists, data, pins, README and CI."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nde

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"nde": "nde", "solvers": "nde.solvers", "regularizers": "nde.regularizers"}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg")
    return cfg


def test_setup_cfg_lists_every_package(setup_cfg: configparser.ConfigParser) -> None:
    listed = set(setup_cfg["options"]["packages"].split())
    found = set()
    for folder, name in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((name, *parts)))
    assert listed == found


def test_every_folder_of_modules_is_a_package() -> None:
    for folder in FOLDERS:
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), module


def test_links_make_the_checkout_look_like_the_installed_package() -> None:
    for name in ("solvers", "regularizers"):
        link = ROOT / "nde" / name
        assert link.resolve() == ROOT / name
        if link.is_symlink():
            assert os.readlink(link) == f"../{name}"


def test_core_needs_torch_and_numpy_only(setup_cfg: configparser.ConfigParser) -> None:
    lines = setup_cfg["options"]["install_requires"].split()
    assert {Requirement(line).name for line in lines} == {"torch", "numpy"}


def test_pins_are_exact_and_cover_everything_the_tests_install(
    setup_cfg: configparser.ConfigParser,
) -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    extras = setup_cfg["options.extras_require"]
    lines = [*setup_cfg["options"]["install_requires"].splitlines()]
    lines += [*extras["cli"].splitlines(), *extras["test"].splitlines()]
    todo = [Requirement(line) for line in lines if line]
    seen = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name == "nde" or name in seen:
            continue
        seen.add(name)
        # A CUDA build of torch asks for more, none of which this project chooses.
        if name.startswith(("nvidia-", "cuda-")) or name == "triton":
            continue
        assert name in pins, f"constraints.txt lacks {name}"
        for line in metadata.requires(name) or []:
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({"extra": ""}):
                todo.append(inner)
    assert set(pins) <= seen


def readme_commands() -> list[str]:
    """Shell commands of README's first two code blocks, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks[:2] for line in block.strip().splitlines()]


def test_readme_and_ci_run_the_same_commands() -> None:
    train, test = readme_commands()
    assert (
        train == "pip install -c constraints.txt '.[cli]' && nde train japanese-vowels"
    )
    assert test == "pip install -c constraints.txt -e '.[test]' && pytest -n auto"
    script = ROOT / ".ci" / "run"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in lines
    assert f'bash -c "{test}"' in lines
    command = train.split(" && ")[1]
    assert any(line.startswith(f"{command} --epochs") for line in lines)
    assert os.access(script, os.X_OK)


def test_version_is_told_once() -> None:
    assert metadata.version("nde") == nde.__version__


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source distribution of a copy of the checkout, and a wheel made from it."""
    folder = tmp_path_factory.mktemp("build")
    checkout = folder / "checkout"
    ignored = shutil.ignore_patterns(
        ".git",
        ".venv",
        "runs",
        "build",
        "dist",
        "*.egg-info",
        "__pycache__",
        ".*_cache",
    )
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=ignored)
    build(checkout, "build_sdist", folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    build(source, "build_wheel", folder)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def build(source: Path, hook: str, target: Path) -> None:
    code = f"from setuptools import build_meta as b; b.{hook}({str(target)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_sdist_holds_sources_data_and_tests(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in (
        "LICENSE",
        "README.md",
        "constraints.txt",
        "solvers/solve.py",
        "regularizers/__init__.py",
        "nde/data/bundled/NOTICE",
        "nde/data/bundled/JapaneseVowels_TRAIN.ts.gz",
        "tests/test_packaging.py",
    ):
        assert wanted in files


def test_wheel_is_complete_and_works_outside_the_checkout(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        files = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    expected = {"nde/py.typed", "nde/data/bundled/NOTICE"}
    for folder, name in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.relative_to(ROOT / folder).as_posix()
            expected.add(f"{name.replace('.', '/')}/{inside}")
    assert expected <= files
    assert {name.split("/")[0] for name in files} <= {
        "nde",
        f"nde-{nde.__version__}.dist-info",
    }
    # A script that stands beside a solvers.py of its own must not notice ours.
    (tmp_path / "solvers.py").write_text("raise RuntimeError('not ours')\n")
    code = (
        "import nde.solvers, nde.data; "
        "print(nde.__file__, len(nde.data.read_source('japanese-vowels').dataset))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "site/nde/__init__.py"), "640"]
