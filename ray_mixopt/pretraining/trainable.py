"""Real pre-training as a Ray Tune trainable: one ``step()`` trains to the next rung and reports it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from ray_mixopt.core.trial import BRANCH, Wanted
from ray_mixopt.pretraining.config import MEAN_LOSS, PretrainConfig
from ray_mixopt.pretraining.group import TrainingGroup

_CHECKPOINT_FILE = "training_run.json"


class PretrainTrainable(tune.Trainable):
    """Trains a model with a group of Ray Train workers that is sized by its scale.

    Use it as ``tune.with_parameters(PretrainTrainable, settings=...)`` with a ``PretrainConfig`` as JSON. The trial
    itself needs next to no resources: the workers have their own, from the rung before to the rung at which the trial
    is paused or ends. They are given back before Tune hears of that rung.

    The configuration holds ``mixture`` (non-negative weights by domain, normalised here), ``scale`` and ``steps``; for
    ``continuable`` see ``MixOptScheduler``. Each report holds ``step`` and what ``train`` says, and ``mean_loss``, the
    mean of the domains' validation losses. The checkpoint is only a pointer: the weights are with Ray Train, under the
    trial's id, in the experiment's storage. Of a run of several phases they are those where its first phase ends, at
    which a branch begins.

    Raises:
        ValueError: if the configuration lacks one of its keys, or does not fit the settings.
    """

    _reached: int
    _report: dict[str, Any] | None
    _weights: str | None  # where Ray Train has the last checkpoint

    def setup(self, config: dict[str, Any], settings: str = "") -> None:
        """Prepares the run that ``config`` describes."""
        self._group: TrainingGroup | None = None
        self._settings = PretrainConfig.model_validate_json(settings)
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Trains to the next rung, and returns its report."""
        if self._report is not None and (self._reached >= self._steps or _diverged(self._report)):
            return {**self._report, "done": True}  # neither paused nor given more steps
        if self._group is None:
            run = self._settings.run(self._mixture, self._scale, self._steps, repeat=self._repeat)
            self._group = TrainingGroup(
                run,
                name=self.trial_id,
                storage=runs_storage(self._settings),
                resources=self._settings.scale(self._scale).resources,
                seen=self._reached,
                retries=self._settings.retries,
                begins=self._beginning(),
            )
        report = self._group.next_report()
        self._report = with_mean(report)
        self._reached = int(report["step"])
        diverged = _diverged(self._report)
        if self._reached >= self._steps or diverged:
            group, self._group = self._group, None
            group.join()  # the workers are gone before Tune hears of it
            self._weights = group.checkpoint
        end = max(self._steps, self._settings.rungs(self._scale)[-1]) if self._continuable else self._steps
        if self._continuable and self._settings.phases:
            return {**self._report, "done": diverged}  # others may begin where its last rung did
        return {**self._report, "done": self._reached >= end or diverged}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes how far the run is; the weights are in Ray Train's storage."""
        content = {"step": self._reached, "report": self._report, "weights": self._weights}
        Path(checkpoint_dir, _CHECKPOINT_FILE).write_text(json.dumps(content))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Goes on from a checkpoint directory."""
        content = json.loads(Path(checkpoint, _CHECKPOINT_FILE).read_text())
        self._reached, self._report, self._weights = int(content["step"]), content["report"], content.get("weights")

    def cleanup(self) -> None:
        """Ends the workers, if there are any, and gives back their resources."""
        if self._group is not None:
            group, self._group = self._group, None
            group.abort()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turns this process to another run."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: Mapping[str, Any]) -> None:
        wanted = Wanted.of(config, phased=bool(self._settings.phases))
        self._mixture, self._scale = wanted.weights, wanted.scale
        self._steps, self._continuable, self._repeat = wanted.steps, wanted.continuable, wanted.repeat
        self._reached, self._report, self._weights = 0, None, None
        self._branch: Mapping[str, Any] | None = config.get(BRANCH)

    def _beginning(self) -> str | None:
        """Where the weights are that a branch begins with, unless it has begun."""
        if self._branch is None or self._reached:
            return None
        with tune.Checkpoint(str(self._branch["checkpoint"])).as_directory() as folder:
            found: str | None = json.loads(Path(folder, _CHECKPOINT_FILE).read_text())["weights"]
        return found


def with_mean(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report with the mean of its domains' validation losses."""
    losses = [value for name, value in report.items() if name.startswith("val_loss/")]
    return {**report, MEAN_LOSS: sum(losses) / len(losses)}


def runs_storage(settings: PretrainConfig) -> str:
    """Folder or URI in which Ray Train keeps the checkpoints of all runs of a search."""
    return f"{settings.experiment}/runs"


def _diverged(report: Mapping[str, Any]) -> bool:
    return not math.isfinite(report[MEAN_LOSS])
