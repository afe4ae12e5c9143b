"""Shared by all tests; imports no Ray."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from ray_mixopt.strategies import STRATEGIES

# Before torch is imported, and for child processes: its matrices are small here, and threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # for the helpers that lie here

# A shell without job control starts what it puts in the background deaf to Ctrl-C, and so are the children of that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under pytest-xdist, tests that start Ray take turns: two sessions at once would starve each other."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if {"tune", "pretraining"} & set(item.path.parts):
                item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture
def ladder(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a strategy that pauses and continues runs, and costs next to nothing."""
    monkeypatch.setitem(STRATEGIES, "ladder", ("ladder", "LadderStrategy", {}))
    return "ladder"
