"""One small private Ray for all tests of a process, whatever the machine has: four slots and no dashboard."""

from __future__ import annotations

import os
import time
from pathlib import Path

import ray

HERE = Path(__file__).parent
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less for each group of workers
os.environ.setdefault("WANDB_MODE", "offline")  # what logs runs is an actor


def start_ray() -> None:
    """Runs Ray to the end of the process, once. Its workers import the package and the tests' helpers, too."""
    if ray.is_initialized():
        return
    paths = [*map(str, (HERE, HERE / "pretraining", HERE.parent)), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)


def all_given_back() -> bool:
    """Whether all slots are free again, be it after a while: Ray's count lags behind."""
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < deadline:
        time.sleep(0.1)
    return ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
