"""What does without Ray: the ask/tell core, answers from files, and their tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE_THE_CORE = """
import importlib, pkgutil, sys
import ray_mixopt, ray_mixopt.optimizer, ray_mixopt.simulators

for room in ("core", "surrogate", "acquisition", "strategies", "io", "analysis", "report", "benchmark", "cli"):
    package = importlib.import_module(f"ray_mixopt.{room}")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
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
"""

RUN_COMMANDS = """
import json, sys
from click.testing import CliRunner
from ray_mixopt.cli.main import main

for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
print(sorted(name for name in sys.modules if name.split(".")[0] in sys.argv[2:]))
"""

LOAD_THE_TESTS = """
import importlib, sys
for name in ("conftest", "test_space", "test_simplex", "test_history", "test_optimizer", "test_paper"):
    importlib.import_module(name)
"""

LIST_RAY = """
import sys
print(sorted(name for name in sys.modules if name.split(".")[0] == "ray"))
"""


def modules_after(code: str, *arguments: str) -> str:
    """What a program prints, which is a list of modules."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    child = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout.strip()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the same runs are: a tidy table, and the folder of a Tune experiment."""
    from ray_mixopt import MixOptSearcher, MixtureSpace, Scale
    from ray_mixopt.io.export import WRITERS

    folder = tmp_path_factory.mktemp("runs")
    space = MixtureSpace(domains=("a", "b"), scales=(Scale("s", 0.1), Scale("l", 1.0)), steps=(10, 20))
    searcher = MixOptSearcher(space, metric="loss", mode="min", strategy="random", budget=20.0)
    for i in range(12):
        share, scale = i / 11, ("s", "l")[i % 2]
        searcher.optimizer.add_evaluated_point({"a": share, "b": 1 - share}, scale, 20, {"loss": (share - 0.3) ** 2})
    (experiment := folder / "search").mkdir()
    searcher.save_to_dir(str(experiment), "2026-01-01")
    return {"table": str(WRITERS["csv"](searcher.optimizer.history, folder)[0]), "experiment": str(experiment)}


def test_the_core_imports_no_ray() -> None:
    assert modules_after(USE_THE_CORE + LIST_RAY) == "[]"


def test_answers_from_files_import_no_ray(places: dict[str, str], tmp_path: Path) -> None:
    commands = (
        "recommend --from {table} --json",
        "backtest --runs {table} --mixtures all",
        "suggest --from {table} --state {state} -n 2 --json",
        "recommend --from {experiment} --json",
        "export --from {table} --format csv --out {out}/1",
        "export --from {experiment} --format csv --out {out}/2",
        "report {experiment} --out {out}",
    )
    words = [
        [word.format(**places, out=tmp_path / "out", state=tmp_path / "by-hand.json") for word in command.split()]
        for command in commands
    ]
    assert modules_after(RUN_COMMANDS, json.dumps(words), "ray") == "[]"


def test_the_list_of_commands_imports_next_to_nothing() -> None:
    assert modules_after(RUN_COMMANDS, json.dumps([["--help"]]), "ray", "torch", "numpy", "pandas", "rich") == "[]"


def test_its_tests_import_no_ray() -> None:
    assert modules_after(LOAD_THE_TESTS + LIST_RAY) == "[]"


def test_the_check_can_fail() -> None:
    assert "'ray.tune'" in modules_after("import ray.tune" + LIST_RAY)
