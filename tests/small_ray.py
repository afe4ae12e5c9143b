"""A small private Ray for tests, whatever the machine has: four slots, no dashboard, no authentication."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")


@contextmanager
def four_slots(*helpers: Path) -> Iterator[None]:
    """Runs Ray. Its workers import the package and the modules in the folders ``helpers``, too."""
    paths = [*map(str, (*helpers, Path(__file__).parent, Path(__file__).parents[1])), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()
