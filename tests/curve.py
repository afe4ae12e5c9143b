"""A trainable whose best mixture is known, and a callback that watches Tune run it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ladder import LadderStrategy
from ray import tune
from ray.tune.experiment import Trial
from worlds import TINY

from ray_mixopt import MixOptScheduler, MixOptSearcher


class Curve(tune.Trainable):
    """Reports every 10 steps; lowest where half of the tokens are web."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.settings, self.reached = new_config, 0
        return True

    def step(self) -> dict[str, Any]:
        self.reached += 10
        report = {"step": self.reached, "loss": self.loss(), "web": self.share("web")}
        return report | {"done": self.reached >= self.settings["steps"] and not self.settings.get("continuable")}

    def loss(self) -> float:
        return (self.share("web") - 0.5) ** 2 + 1 / self.reached + (0.1 if self.settings["scale"] == "20M" else 0.0)

    def share(self, domain: str) -> float:
        return float(self.settings["mixture"][domain] / sum(self.settings["mixture"].values()))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "step").write_text(str(self.reached))

    def load_checkpoint(self, checkpoint: str) -> None:
        self.reached = int(Path(checkpoint, "step").read_text())


class Watch(tune.Callback):
    """Counts what runs and what is paused at the end of every step of Tune's loop, and all reports."""

    def __init__(self) -> None:
        self.most_running = self.most_busy = self.most_paused = 0
        self.reports: list[tuple[str, int, float]] = []

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        count = {
            status: sum(trial.status == status for trial in trials)
            for status in Trial.__dict__.values()
            if isinstance(status, str)
        }
        self.most_running = max(self.most_running, count[Trial.RUNNING])
        self.most_busy = max(self.most_busy, count[Trial.RUNNING] + count[Trial.PENDING])
        self.most_paused = max(self.most_paused, count[Trial.PAUSED])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self.reports.append((trial.trial_id, result.get("step", -1), result.get("loss", float("nan"))))


load = partial(MixOptSearcher.load, strategy=LadderStrategy)  # of whose strategy the files have only the name


def curve_tuner(
    folder: Path,
    searcher: Any,
    scheduler: Any = None,
    trainable: Any = Curve,
    *,
    param_space: dict[str, Any] | None = None,
    name: str = "run",
    watch: Watch | None = None,
    max_failures: int = 0,
    fail_fast: bool = False,
    callbacks: Sequence[tune.Callback] = (),
    stop: Any = None,
    at_end: bool = False,
    **settings: Any,
) -> tune.Tuner:
    """A small, quiet Tuner over ``TINY`` in ``folder/name``; ``settings`` go to ``TuneConfig``.

    One trial at a time in one process unless told otherwise, for it is the start of processes that takes long.
    """
    defaults = {"metric": "loss", "mode": "min", "reuse_actors": True, "max_concurrent_trials": 1}
    return tune.Tuner(
        trainable,
        param_space=TINY.param_space() if param_space is None else param_space,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=MixOptScheduler() if scheduler is None else scheduler,
            trial_dirname_creator=lambda trial: trial.trial_id,
            **(defaults | settings),
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            name=name,
            verbose=0,
            stop=stop,
            callbacks=[*callbacks, *([] if watch is None else [watch])],
            failure_config=tune.FailureConfig(max_failures=max_failures, fail_fast=fail_fast),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=at_end),
        ),
    )
