"""One small private Ray for all tests of a process, whatever the machine has: four slots and no dashboard."""

from __future__ import annotations

import os
import tempfile
import time
from functools import partialmethod
from pathlib import Path
from unittest.mock import patch

import forked_worker
import ray
from ray._private.parameter import RayParams

from ray_mixopt.tune.session import start

HERE = Path(__file__).parent
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less for each group of workers
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # before there is a job nothing is forked
os.environ.setdefault("WANDB_MODE", "offline")  # what logs runs is an actor


FORKS = tempfile.TemporaryDirectory(prefix="forks-")


def start_ray(*imports: str, slots: int = 4) -> None:
    """Runs Ray to the end of the process, once. Its workers import the package and the tests' helpers, too.

    Args:
        *imports: modules that workers will import: they take long, and are imported once for all workers to come.
        slots: CPUs that Ray counts.
    """
    with Path(FORKS.name, forked_worker.IMPORTS).open("a") as file:
        file.writelines(f"{module}\n" for module in ("curve", *imports))
    if ray.is_initialized():
        return
    paths = [*map(str, (HERE, HERE / "pretraining", HERE.parent)), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ[forked_worker.FOLDER] = FORKS.name
    forking = partialmethod(RayParams.__init__, worker_path=forked_worker.__file__)
    with patch.object(RayParams, "__init__", forking):
        start(address="local", num_cpus=slots, include_dashboard=False)


def all_given_back() -> bool:
    """Whether all slots are free again, be it after a while: Ray's count lags behind."""
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < deadline:
        time.sleep(0.1)
    return ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
