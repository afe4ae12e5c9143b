"""What a flattened Tune result says: how far the run is, and its metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray.tune.result import AUTO_RESULT_KEYS

from ray_mixopt.core.history import Trial
from ray_mixopt.optimizer import MixtureOptimizer

logger = logging.getLogger(__name__)

_OF_TUNE = {*AUTO_RESULT_KEYS, "step", "done", "trial_id", "checkpoint_dir_name"}
_KINDS_OF_TUNE = ("config/", "timers/", "perf/")


def training_step(result: Mapping[str, Any]) -> int | None:
    """The training step: "step", else "training_iteration"; None where that is no number >= 1."""
    value = result.get("step", result.get("training_iteration"))
    try:
        return int(value) if value is not None and value >= 1 else None
    except (TypeError, ValueError, OverflowError):
        return None


def metrics_of(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Those of the named metrics that are there and are numbers, NaN and infinity among them."""
    found = {}
    for name in names:
        try:
            found[name] = float(result[name])
        except (KeyError, TypeError, ValueError):
            continue
    return found


def others_of(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What a trial reported itself besides the named metrics."""
    known = {*_OF_TUNE, *names}
    return {key: value for key, value in result.items() if key not in known and not key.startswith(_KINDS_OF_TUNE)}


class Reports:
    """Takes in the reports of runs, and warns once of what they lack."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def observe(
        self, optimizer: MixtureOptimizer, run: Trial, result: Mapping[str, Any], names: Sequence[str]
    ) -> int | None:
        """Records a report of the named metrics; gives its step, None where there is nothing to record."""
        step, metrics = training_step(result), metrics_of(result, names)
        if step is None and not metrics:
            return None  # no report: what Tune has of a trial that ended before its first one
        if "step" not in result:
            self.warn_once("Trials do not report 'step': their training_iteration is taken for the training step.")
        if not metrics:
            self.warn_once(
                f"Trial {run.trial_id} reported no number for {', '.join(names)}: nothing is learned from such a "
                "report, though it is paid for. Report the metric with every step."
            )
            if "step" not in result:
                return None
        if step is not None:
            optimizer.tell(run.trial_id, step, others_of(result, names) | metrics)
        return step

    def warn_once(self, message: str) -> None:
        """Logs a warning, unless it was logged before."""
        if message not in self._told:
            self._told.add(message)
            logger.warning("%s", message)
