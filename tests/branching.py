"""A search of two phases in a process of its own, to be killed: ``branching.py start|restore FOLDER``.

Training is a recursion over the mixtures, so that a run tells by its loss what it was trained on, and in which order.
A restored search prints what ``replay_driver.py`` does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from curve import load
from ray import tune
from replay_driver import NAME, FirstStep
from small_ray import start_ray
from worlds import DOMAINS

import ray_mixopt
from ray_mixopt import MixOptScheduler, MixOptSearcher, MixtureSpace, Phase, Proposal, Scale
from ray_mixopt.core.history import History
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.strategies.random import best_observed
from ray_mixopt.tune.session import trial_name

SPACE = MixtureSpace(
    domains=DOMAINS,
    scales=(Scale("20M", 1.0, 20e6), Scale("60M", 3.0, 60e6)),
    steps=(10, 20, 40),
    phases=(Phase("main", 0.8), Phase("anneal", 0.2)),
)
BUDGET = 460.0


def trained(weights: float, mixture: dict[str, float], steps: int) -> float:
    """What weights become in so many steps on a mixture."""
    for _ in range(steps):
        weights = 0.95 * weights + 0.05 * (mixture["web"] - 2 * mixture["math"])
    return weights


def whole(mixture: dict[str, dict[str, float]], rung: int) -> float:
    """The loss of a run that was trained from its start."""
    border = round(0.8 * rung)
    return trained(trained(1.0, mixture["main"], border), mixture["anneal"], rung - border)


class Trainer(tune.Trainable):
    """Keeps its weights at the end of the main phase; a branch begins with those of its parent."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.settings, self.reached, self.trunk = new_config, 0, (0, 1.0)
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self.settings.get("pause", 0.0))
        branch, mixture = self.settings.get("branch"), self.settings["mixture"]
        first = 0
        if branch is not None and self.reached == 0:
            self.load_checkpoint(branch["checkpoint"])
            assert self.trunk[0] == branch["from_step"], f"{branch} has {self.trunk}"
            self.reached, first = 0, branch["steps"]
        rung = min(rung for rung in SPACE.rungs(self.settings["scale"]) if rung > self.reached and rung >= first)
        border = round(0.8 * rung)
        begun = self.trunk[0]
        self.trunk = border, trained(self.trunk[1], mixture["main"], border - begun)
        self.reached = rung
        return {
            "step": rung,
            "loss": trained(self.trunk[1], mixture["anneal"], rung - border),
            "steps_trained": rung - begun,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "run.json").write_text(json.dumps([self.reached, self.trunk]))

    def load_checkpoint(self, checkpoint: str) -> None:
        self.reached, self.trunk = json.loads(Path(checkpoint, "run.json").read_text())


class TreeStrategy:
    """Of every five suggestions one is a main run, one goes on, and three branch, of any paused runs."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def propose(self, history: History) -> Proposal | None:
        problem, space, n = self.problem, self.problem.space, history.n_asked
        rng = problem.rng(n)
        found = []
        paused = sorted(history.paused(), key=lambda run: run.reached)
        if n % 5 == 4:
            found = [self._further(run) for run in paused if run.reached < 40 and run.branch is None][-1:]
        elif n % 5 and paused:
            run = paused[int(rng.integers(len(paused)))]
            late = rng.dirichlet([1.0] * 3)
            mixture = np.concatenate([run.mixture[:3], late])
            found = [Proposal(mixture=mixture, scale=run.scale, steps=run.reached, parent=run.trial_id)]
        if not found:
            found = [Proposal(mixture=space.sample(1, rng)[0], scale=space.scale_names[n % 2], steps=10)]
        return found[0] if problem.affords(found[0], history) else None

    def _further(self, run: Any) -> Proposal:
        steps = next(rung for rung in self.problem.space.steps if rung > run.reached)
        mixture = self.problem.space.mixture(run.mixture)
        return Proposal(mixture=mixture, scale=run.scale, steps=steps, continues=run.trial_id)

    def recommend(self, history: History) -> Recommendation:
        return best_observed(self.problem, history, target_only=False)


def make_tuner(
    searcher: MixOptSearcher,
    folder: str,
    *,
    pause: float = 0.0,
    at_once: int = 1,
    callbacks: Sequence[tune.Callback] = (),
    **checkpoints: Any,
) -> tune.Tuner:
    return tune.Tuner(
        Trainer,
        param_space={**SPACE.param_space(), "pause": pause},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            search_alg=searcher,
            scheduler=MixOptScheduler(),
            num_samples=-1,
            max_concurrent_trials=at_once,
            reuse_actors=True,
            trial_dirname_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            name=NAME,
            verbose=0,
            callbacks=[FirstStep(), *callbacks],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, **checkpoints),
        ),
    )


def check_tree(history: History, within: float = 1e-12) -> None:
    """Each run has been trained as it was to be, by itself or by its parents, and children have those of their cell."""
    for run in history:
        mixture = SPACE.named(run.mixture)
        for step, report in run.observations.items():
            assert report["loss"] == pytest.approx(whole(mixture, step), abs=within), (run.trial_id, step)
        if run.branch is None:
            continue
        parent = history[run.branch.parent]
        assert (parent.scale, parent.mixture[:3]) == (run.scale, pytest.approx(run.mixture[:3]))
        assert run.branch.from_step == round(0.8 * run.branch.steps) and run.branch.steps in parent.observations
        assert min(run.observations, default=run.branch.steps) == run.branch.steps


def paid(history: History) -> float:
    """Cost of the steps that trainables say they trained."""
    trained = [
        report["steps_trained"] * SPACE.scale(run.scale).cost_per_step
        for run in history
        for report in run.observations.values()
    ]
    return sum(trained)


def searcher() -> MixOptSearcher:
    return MixOptSearcher(strategy=TreeStrategy, budget=BUDGET, seed=3)


def finish(folder: str) -> None:
    """Goes on with a search that was killed, to its end."""
    results = ray_mixopt.restore(Path(folder, NAME), Trainer).fit()
    history = load(Path(folder, NAME)).optimizer.history
    print(json.dumps({"errors": len(results.errors), "history": history.state_dict()}))


def main(mode: str, folder: str) -> None:
    start_ray(slots=1)
    if mode == "restore":
        finish(folder)
    else:
        make_tuner(searcher(), folder, pause=0.1).fit()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
