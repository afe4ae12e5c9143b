"""Shared by all tests; imports no Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ray_mixopt.strategies import STRATEGIES

# Before torch is imported, and for child processes: its matrices are small here, and threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # for the helpers that lie here


@pytest.fixture
def ladder(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a strategy that pauses and continues runs, and costs next to nothing."""
    monkeypatch.setitem(STRATEGIES, "ladder", ("ladder", "LadderStrategy", {}))
    return "ladder"
