"""Without the extra [pretrain] the rest works, and what needs it says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {missing!r} else found(name, *rest)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_the_core_does_without() -> None:
    child = run(
        "import ray_mixopt, ray_mixopt.cli.main, sys; print({'transformers', 'pydantic', 'yaml'} & set(sys.modules))"
    )
    assert child.stdout.strip() == "set()", child.stderr


@pytest.mark.parametrize("command", [["prepare", "out", "--demo"], ["pretrain", "search.yaml"]])
def test_the_commands_say_what_to_install(command: list[str]) -> None:
    without = WITHOUT.format(missing=["transformers", "zstandard"])
    child = run(without + "from ray_mixopt.cli.main import main; main()", *command)
    assert child.returncode == 2
    message = "ray_mixopt.pretraining needs transformers, zstandard: pip install 'ray-mixopt[pretrain]'."
    assert message in " ".join(child.stderr.split())
