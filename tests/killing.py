"""Searches in processes of their own, which are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from curve import load
from ladder import wait_until

from ray_mixopt.core.history import History


def printed(out: str) -> dict[str, Any]:
    """What a restored search has printed."""
    first, end = (json.loads(line) for line in out.splitlines() if line.startswith("{"))
    return first | end


def saved(folder: Path) -> History | None:
    """The history in the newest snapshot of the driver's experiment; None before there is one."""
    try:
        return load(folder / "search").optimizer.history
    except (ValueError, RuntimeError):
        return None


def kill_after(driver: subprocess.Popen, folder: Path, n_observations: int) -> History:
    """Kills the driver as soon as a snapshot has so many observations and a paused run."""

    def ripe() -> bool:
        assert driver.poll() is None, f"the driver ended by itself: {driver.communicate()[1][-3000:]}"
        history = saved(folder)
        return history is not None and len(history.arrivals) >= n_observations and len(history.paused()) > 0

    wait_until(ripe, timeout_s=120, what="a snapshot that is worth a kill")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    history = saved(folder)
    assert history is not None
    return history


def paused_stayed_paused(before: History, end: dict[str, Any]) -> bool:
    """Whether paused runs were so after the restored experiment's first step, but for one that may have gone on."""
    return sum(end["first"].get(run.trial_id) != "PAUSED" for run in before.paused()) <= 1
