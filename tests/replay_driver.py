"""A search in a process of its own, to be killed: ``replay_driver.py start|restore FOLDER CONCURRENCY BUDGET SEED``.

A restored search prints two JSON lines: the statuses of all trials after the first step of Tune's loop, and its end.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from curve import load
from ladder import LadderStrategy
from ray import tune
from ray.tune.experiment import Trial
from small_ray import start_ray

import ray_mixopt
from ray_mixopt import MixOptScheduler, MixOptSearcher, simulators
from ray_mixopt.tune.session import trial_name

NAME = "search"


class SlowReplay(simulators.SimulatorTrainable):
    """A simulated run that takes a moment."""

    def step(self) -> dict[str, Any]:
        time.sleep(0.1)
        return super().step()


class FirstStep(tune.Callback):
    """Prints where every trial stands after the first step of Tune's loop."""

    def __init__(self) -> None:
        self.first = True

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self.first:
            print(json.dumps({"first": {trial.trial_id: trial.status for trial in trials}}))
        self.first = False


def trainable() -> Any:
    return tune.with_parameters(SlowReplay, simulator=simulators.load("slimpajama"))


def make_tuner(searcher: MixOptSearcher, folder: str, concurrency: int) -> tune.Tuner:
    simulator = simulators.load("slimpajama")
    # Small scales only: many runs for little.
    space = replace(simulator.space, scales=simulator.space.scales[:3], target=None)
    return tune.Tuner(
        trainable(),
        param_space=space.param_space(),
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            search_alg=searcher,
            scheduler=MixOptScheduler(),
            num_samples=-1,
            max_concurrent_trials=concurrency,
            reuse_actors=True,
            trial_dirname_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            name=NAME,
            verbose=0,
            callbacks=[FirstStep()],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def finish(folder: str) -> None:
    """Goes on with a search that was killed, to its end."""
    results = ray_mixopt.restore(Path(folder, NAME), trainable()).fit()
    history = load(Path(folder, NAME)).optimizer.history
    print(json.dumps({"errors": len(results.errors), "history": history.state_dict()}))


def main(mode: str, folder: str, concurrency: str, budget: str, seed: str) -> None:
    slots = int(concurrency)
    start_ray(slots=slots)
    if mode == "restore":
        finish(folder)
    else:
        searcher = MixOptSearcher(strategy=LadderStrategy, budget=float(budget), seed=int(seed))
        make_tuner(searcher, folder, slots).fit()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
