"""What a run ran on: versions, machine, command."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import nde

_PACKAGES = ("numpy", "polars", "pydantic", "torchmetrics")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Plain containers for env.json."""
    versions = {"python": platform.python_version(), "nde": nde.__version__}
    versions |= {"torch": torch.__version__}
    versions |= {name: metadata.version(name) for name in _PACKAGES}
    on_gpu = device.type == "cuda"
    return {
        "versions": versions,
        "commit": _commit(),
        "platform": platform.platform(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def _commit() -> str | None:
    """The commit of the checkout the package runs from, if it runs from one."""
    root = Path(nde.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
