"""How long Tune's loop stands still for a suggestion, at four workers, with and without a thread.

    python experiments/soak/stall.py [--known 400] [--trials 40] [--no-tune] [--out experiments/results/soak]

The search begins with many known runs, so that suggestions take their time. A stall is the time between two steps of
Tune's loop, in which no report is heard and no trial started. Writes ``stall.json``. With ``--no-tune`` the searcher is
asked and told as Tune does it, and a stall is the time that ``suggest`` takes while trials run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.tune.experiment import Trial
from soak import METRIC, four_at_once

from ray_mixopt import MixOptSearcher, simulators


class Paced(simulators.SimulatorTrainable):
    """A simulated run whose rungs take half a second."""

    def step(self) -> dict[str, Any]:
        """Reports the next rung."""
        time.sleep(0.5)
        return super().step()


class Stalls(tune.Callback):
    """Times between steps of Tune's loop once trials run."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.seconds: list[float] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"last": None, "seconds": []}

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Takes the time."""
        now = time.perf_counter()
        if self.last is not None and any(trial.status == Trial.RUNNING for trial in trials):
            self.seconds.append(now - self.last)
        self.last = now


def prepared(known: int, max_wait_s: float | None) -> tuple[simulators.Simulator, MixOptSearcher]:
    """A simulator, and a searcher that knows some runs of its smallest scale."""
    simulator = simulators.load("slimpajama", steps=(2000, 6000, 19700))
    space = simulator.space
    scale, steps = space.scale_names[0], space.steps[0]
    searcher = MixOptSearcher(seed=100, max_wait_s=max_wait_s)
    for mixture in space.sample(known, np.random.default_rng(1)):
        point = {"mixture": space.named(mixture), "scale": scale, "steps": steps}
        searcher.add_evaluated_point(point, simulator.observe(mixture, scale, steps)[METRIC])
    return simulator, searcher


def suggestions(known: int, trials: int, max_wait_s: float | None) -> dict[str, Any]:
    """The same without Tune."""
    simulator, searcher = prepared(known, max_wait_s)
    space = simulator.space
    searcher.set_search_properties(METRIC, "min", space.param_space())
    searcher.set_max_concurrency(4)
    searcher.optimizer.history.n_asked = 50  # past the initial design, which takes no time
    running: dict[str, dict[str, Any]] = {}
    seconds: list[float] = []
    started = 0
    while started < trials:
        begin = time.perf_counter()
        config = searcher.suggest(f"trial_{started}")
        if running:
            seconds.append(time.perf_counter() - begin)
        if config is None:
            time.sleep(0.1)
        else:
            running[f"trial_{started}"] = config
            started += 1
        if len(running) == 4:
            name = next(iter(running))
            done = running.pop(name)
            mixture = space.mixture(done["mixture"])
            value = simulator.observe(mixture, done["scale"], done["steps"])[METRIC]
            searcher.on_trial_complete(name, {"step": done["steps"], METRIC: value})
    return {"max_wait_s": max_wait_s, "longest_s": max(seconds), "suggestions": len(seconds), "known": known}


def stalls(known: int, trials: int, max_wait_s: float | None) -> dict[str, Any]:
    """Runs a search and gives what was measured."""
    simulator, searcher = prepared(known, max_wait_s)
    watch = Stalls()
    with tempfile.TemporaryDirectory() as folder:
        trainable = tune.with_resources(tune.with_parameters(Paced, simulator=simulator), {"CPU": 0.5})
        four_at_once(folder, trainable, simulator, searcher, watch, trials).fit()
    seconds = np.array(watch.seconds)
    return {
        "max_wait_s": max_wait_s,
        "longest_s": float(seconds.max()),
        "p99_s": float(np.quantile(seconds, 0.99)),
        "steps": len(seconds),
        "observations": len(searcher.optimizer.history.arrivals),
    }


def main() -> None:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=400)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--no-tune", action="store_true", help="ask and tell the searcher, without Ray")
    parser.add_argument("--out", type=Path, default=Path("experiments/results/soak"))
    arguments = parser.parse_args()
    if arguments.no_tune:
        found = [suggestions(arguments.known, arguments.trials, wait) for wait in (None, 0.05)]
    else:
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        found = [stalls(arguments.known, arguments.trials, wait) for wait in (None, 0.05)]
        ray.shutdown()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"stall{'-no-tune' if arguments.no_tune else ''}.json").write_text(
        json.dumps(found, indent=1) + "\n"
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
