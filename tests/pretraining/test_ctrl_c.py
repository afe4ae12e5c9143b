"""Ctrl-C, which a terminal sends to all processes of a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def workers_of(parent: int) -> set[str]:
    """Ids of the processes that a process has started to work for it."""
    listed = subprocess.run(["ps", "-Aww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return {row[0] for row in rows if row[1] == str(parent) and "spawn_main" in row[-1]}


def alive() -> set[str]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if not line.split()[1].startswith("Z")}


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_workers_of_prepare_end_with_it_and_say_nothing(tmp_path: Path, seconds: float) -> None:
    """Be it that they are loading their libraries, or at work."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"the {name} and only line, which many others follow\n" * 600_000)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    words = ["prepare", str(tmp_path / "out"), "--domain", f"a={tmp_path / '*.txt'}", "--workers", "2"]
    code = "from ray_mixopt.cli import program; program()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    workers: set[str] = set()
    while len(workers) < 2:
        assert child.poll() is None
        time.sleep(0.01)
        workers = workers_of(child.pid)
    time.sleep(seconds)
    os.killpg(child.pid, signal.SIGINT)
    output, errors = child.communicate(timeout=60)
    assert (child.returncode, output) == (130, ""), errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "Interrupted: what is finished is kept, give the same command again to go on."
    assert not workers & alive()
