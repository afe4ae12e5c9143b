"""Ctrl-C at any moment: 130, and neither a traceback nor silence while the command goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRESS = "os.kill(os.getpid(), signal.SIGINT)"
PRESSED_AT = f"""
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == {{0!r}}:
            try:
                {PRESS}
            except BaseException:  # as libraries do that try whether another one is there
                pass

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
sys.argv = ["ray-mixopt", {{1}}]
"""
PROGRAM = "from ray_mixopt.cli import program; program()"
SCRIPT = "from ray_mixopt.cli.main import main; main()"  # what installations of an earlier release begin with

SHOW_HELP = f"""
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["ray-mixopt", "--help"]
{PROGRAM}
"""
IGNORING = f"""
import sys, atexit
sys.argv = ["ray-mixopt", "--help"]
atexit.register(lambda: {PRESS})
{PROGRAM}
"""


def run(code: str) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    return child.returncode, child.stdout, child.stderr


@pytest.mark.parametrize(
    ("module", "words", "begin"),
    [
        ("click", '"--help"', PROGRAM),
        ("ray_mixopt.cli.recommend", '"recommend", "--help"', PROGRAM),
        ("ray_mixopt.cli.recommend", '"recommend", "--help"', SCRIPT),
        ("numpy", '"recommend", "--from", "nonesuch.csv"', PROGRAM),
        ("ray.tune.error", '"pretrain", "nonesuch.yaml"', PROGRAM),
    ],
)
def test_while_a_command_loads_it_ends_on_the_spot(module: str, words: str, begin: str) -> None:
    code, output, errors = run(PRESSED_AT.format(module, words) + begin)
    assert (code, output) == (130, "") and errors.splitlines()[-1] == "Interrupted.", errors
    assert "Traceback" not in errors


def test_at_the_very_end_it_says_nothing() -> None:
    code, output, errors = run(f"import atexit, os, signal\natexit.register(lambda: {PRESS})\n" + SHOW_HELP)
    assert (code, errors) == (130, "") and output.startswith("Usage: ")


def test_what_has_begun_ends_once_its_library_is_there(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(
        f"import os, signal, time\ntry:\n    {PRESS}\n    time.sleep(0.3)\nexcept BaseException:\n    whole = False\n"
        "else:\n    whole = True\n"
    )
    code, output, errors = run(
        f"""
import signal, sys, time
sys.path.insert(0, {str(tmp_path)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
from ray_mixopt.cli.interrupts import listen, resumable
listen()
with resumable(lambda: "give it again"):
    try:
        import library
        time.sleep(10)
    finally:
        print(library.whole)
"""
    )
    assert (code, output, errors) == (130, "True\n", "Interrupted: give it again\n")


def test_it_is_not_lost_where_what_has_begun_ends_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(f"import os, signal\n{PRESS}\n")
    code, _, errors = run(
        f"""
import signal, sys
sys.path.insert(0, {str(tmp_path)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
from ray_mixopt.cli.interrupts import listen, resumable
listen()
with resumable("give it again"):
    import library
"""
    )
    assert (code, errors) == (130, "Interrupted: give it again\n")


def test_where_it_is_ignored_it_stays_so() -> None:
    code, output, errors = run(f"import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{IGNORING}")
    assert (code, errors) == (0, "") and output.startswith("Usage: ")
