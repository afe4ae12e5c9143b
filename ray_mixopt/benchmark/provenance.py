"""What the numbers were measured with."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

PACKAGES = ("ray-mixopt", "numpy", "scipy", "torch", "gpytorch", "botorch")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of ``PACKAGES`` and of some more."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """The commit of the checkout, with "-dirty" where files differ from it; "unknown" outside of one."""
    here = Path(__file__)
    if _git(
        "ls-files", "--error-unmatch", here.name, folder=here.parent
    ):  # not the repository of somebody's virtualenv
        return _git("describe", "--always", "--dirty", folder=here.parent) or "unknown"
    return "unknown"


def _git(*arguments: str, folder: Path) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return ""
    return result.stdout.strip()


def machine() -> dict[str, str | int]:
    """Processor model, number of cores and threads a process may use."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    threads = os.environ.get(THREAD_VARIABLES[0], "not limited")
    return {"cpu": model, "cores": os.cpu_count() or 1, "threads": threads, "system": platform.system()}
