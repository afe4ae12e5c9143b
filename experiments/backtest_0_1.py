"""The backtests of ``backtest.py`` by the surrogate of version 0.1, which runs in a process of its own from a worktree.

    git worktree add ../ray-mixopt-0.1 771842d
    python experiments/backtest_0_1.py --tree ../ray-mixopt-0.1 --draws 5 --processes 2

771842d is the last commit with that surrogate. Adds its scores to experiments/results/backtest, as the method
``version-0.1``, and writes tables and figures anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

NAME = "version-0.1"
TREE = "MIXOPT_TREE_0_1"  # where the processes of a pool find the worktree


def main() -> None:
    """Answers what is not answered yet, and writes the tables and figures."""
    from backtest import Cells, chosen, fill, write_all
    from harness import arguments

    filters = {"tables": "*", "questions": "*", "methods": "*"}
    given = arguments(__doc__, processes=2, draws=5, part="all", tree="../ray-mixopt-0.1", **filters)
    if not (Path(given.tree) / "ray_mixopt").is_dir():
        raise SystemExit(f"There is no worktree of 0.1 at {given.tree}: git worktree add {given.tree} 771842d")
    os.environ[TREE] = str(Path(given.tree).resolve())
    questions, names = chosen(given, [NAME])
    fill(Cells(given.out / "backtest"), questions, names, given, answer_0_1)
    write_all(given.out)


def answer_0_1(*job: Any) -> Any:
    """The scores of version 0.1 for an objective."""
    from backtest import answer

    return answer(*job, methods={NAME: version_0_1})


def version_0_1(problem: Any, given: Any, asked: Any) -> Any:
    """What version 0.1 says of the hidden mixtures: a method of ``analysis.backtest``."""
    from ray_mixopt.analysis.scores import Hindcast

    space = problem.space
    request = {
        "domains": space.domains,
        "scales": [(scale.name, scale.cost_per_step, scale.parameters) for scale in space.scales],
        "steps": space.steps,
        "target": (space.target_scale, space.target_steps),
        "weights": problem.weights,
        "mode": problem.settings.mode,
        "seed": problem.settings.seed,
        "runs": [
            (trial.trial_id, trial.mixture, trial.scale, trial.steps, list(trial.observations.items()))
            for trial in given
        ],
        "asked": asked.tolist(),
    }
    child = _child(os.environ[TREE])
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps(request) + "\n")
    child.stdin.flush()
    said = child.stdout.readline()
    if not said:
        raise RuntimeError(f"The process of version 0.1 ended: see its words above. Is {os.environ[TREE]} at 771842d?")
    import numpy as np

    return Hindcast(**{name: np.array(value) for name, value in json.loads(said).items()})


@cache
def _child(tree: str) -> subprocess.Popen[str]:
    """The process of version 0.1, one for each process that asks."""
    return subprocess.Popen(
        [sys.executable, __file__, "--child"],
        env={**os.environ, "PYTHONPATH": tree},
        cwd=tree,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def serve() -> None:
    """Answers requests, a line each, until there are no more; in the process of version 0.1."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        import torch

        torch.set_num_threads(1)
        for line in sys.stdin:
            print(json.dumps(_predicted(json.loads(line))), file=answers, flush=True)


def _predicted(of: Mapping[str, Any]) -> dict[str, Any]:
    import numpy as np

    from ray_mixopt import MixtureSpace, Scale
    from ray_mixopt.core.history import History, Trial
    from ray_mixopt.core.problem import Settings
    from ray_mixopt.optimizer import MixtureOptimizer

    space = MixtureSpace(
        domains=tuple(of["domains"]),
        scales=tuple(Scale(*scale) for scale in of["scales"]),
        steps=tuple(of["steps"]),
        target=tuple(of["target"]),
    )
    history = History(space)
    for name, mixture, scale, steps, observations in of["runs"]:
        trial = Trial(trial_id=name, mixture=tuple(mixture), scale=scale, steps=steps, status="done", evaluated=True)
        trial.observations = {step: metrics for step, metrics in observations}
        history.add(trial)
        history.arrivals += [(name, step) for step in trial.observations]
    settings = Settings(objective=of["weights"], mode=of["mode"], seed=of["seed"])
    forecast = MixtureOptimizer.of_history(history, settings).predict(np.array(of["asked"]))
    return {"mean": forecast.mean.tolist(), "covariance": forecast.covariance.tolist()}


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--child"] else main()
