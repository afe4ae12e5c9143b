"""The core imports no Ray, and neither do its tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

USE_THE_CORE = """
import importlib, pkgutil, sys
import ray_mixopt, ray_mixopt.analysis, ray_mixopt.report
import ray_mixopt.optimizer, ray_mixopt.simulators
import ray_mixopt.cli.benchmark, ray_mixopt.benchmark.campaign, ray_mixopt.benchmark.markdown
from ray_mixopt.strategies import STRATEGIES

for module, _, _ in STRATEGIES.values():
    importlib.import_module(module)
for room in (ray_mixopt.analysis, ray_mixopt.report):
    for module in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        importlib.import_module(module.name)
space = ray_mixopt.MixtureSpace(
    domains=("a", "b"), scales=(ray_mixopt.Scale("s", 1.0),), steps=(10, 20), upper={"a": 0.6}
)
optimizer = ray_mixopt.MixtureOptimizer(space, strategy="paper")
for _ in range(22):
    run = optimizer.ask()
    optimizer.tell(run.trial_id, run.steps, run.mixture["a"] ** 2)
    optimizer.finish(run.trial_id)
optimizer.recommend()
for name in ray_mixopt.simulators.names():
    ray_mixopt.simulators.load(name)
print(sorted(name for name in sys.modules if name.split(".")[0] == "ray"))
"""

LOAD_THE_TESTS = """
import importlib, sys
for name in ("conftest", "test_space", "test_simplex", "test_history", "test_optimizer", "test_paper"):
    importlib.import_module(name)
print(sorted(name for name in sys.modules if name.split(".")[0] == "ray"))
"""


def ray_modules_after(code: str) -> str:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


def test_the_core_imports_no_ray() -> None:
    assert ray_modules_after(USE_THE_CORE) == "[]"


def test_its_tests_import_no_ray() -> None:
    assert ray_modules_after(LOAD_THE_TESTS) == "[]"


def test_the_check_can_fail() -> None:
    assert "'ray.tune'" in ray_modules_after("import ray.tune\n" + USE_THE_CORE)
