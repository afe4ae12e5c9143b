"""One small Ray for all tests, and searches in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from curve import curve_tuner
from ray import tune
from small_ray import start_ray
from worlds import TINY

from ray_mixopt import MixtureSpace


@pytest.fixture(scope="module", autouse=True)
def cluster() -> None:
    """One Ray for all tests."""
    start_ray()


@pytest.fixture
def space() -> MixtureSpace:
    """Three domains, two scales, three rungs."""
    return TINY


@pytest.fixture
def make_tuner(tmp_path: Path) -> Callable[..., tune.Tuner]:
    """``make_tuner(searcher, ...)``: see ``curve.curve_tuner``."""
    return partial(curve_tuner, tmp_path)


@pytest.fixture
def start_driver() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts ``replay_driver.py``, or another script; what is left of it in the end is killed."""
    started: list[subprocess.Popen] = []

    def start(mode: str, folder: Path, *given: float, script: str = "replay_driver.py") -> subprocess.Popen:
        file = Path(__file__).parents[1] / script
        arguments = [sys.executable, str(file), mode, str(folder), *map(str, given)]
        driver = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(driver)
        return driver

    yield start
    for driver in started:
        if driver.poll() is None:
            driver.kill()
            driver.wait()
