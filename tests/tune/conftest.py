"""One small Ray cluster for all tests, without dashboard or authentication."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
from curve import SPACE, curve_tuner
from ray import tune

from ray_mixopt import MixtureSpace

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Ray's workers import the helpers of the tests, too.
_PATHS = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATHS))


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """Four slots, whatever the machine has."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def space() -> MixtureSpace:
    """Three domains, two scales, three rungs."""
    return SPACE


@pytest.fixture
def make_tuner(tmp_path: Path) -> Callable[..., tune.Tuner]:
    """``make_tuner(searcher, ...)``: see ``curve.curve_tuner``."""
    return partial(curve_tuner, tmp_path)


@pytest.fixture
def start_driver() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts ``replay_driver.py``; what is left of it in the end is killed."""
    started: list[subprocess.Popen] = []

    def start(mode: str, folder: Path, concurrency: int, budget: float, seed: int) -> subprocess.Popen:
        script = Path(__file__).parents[1] / "replay_driver.py"
        arguments = [sys.executable, str(script), mode, str(folder), *map(str, (concurrency, budget, seed))]
        driver = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(driver)
        return driver

    yield start
    for driver in started:
        if driver.poll() is None:
            driver.kill()
            driver.wait()
