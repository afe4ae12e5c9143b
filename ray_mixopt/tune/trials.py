"""Tune's trials: which it is busy with, what their results say, and whose fault a failure was."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.cloudpickle
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError
from ray.tune.result import AUTO_RESULT_KEYS

from ray_mixopt.core.history import History
from ray_mixopt.core.history import Trial as Run
from ray_mixopt.optimizer import MixtureOptimizer

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

logger = logging.getLogger(__name__)

MAX_FAILURES = 10  # in a row, before the first report; Tune itself would try for ever
_OF_TUNE = {*AUTO_RESULT_KEYS, "step", "done", "trial_id", "checkpoint_dir_name"}
_KINDS_OF_TUNE = ("config/", "timers/", "perf/")
_MACHINE = (RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError)


class Roster:
    """Trials that hold or wait for resources, as far as the searcher is told.

    Args:
        history: runs of a restored state; None for a new search.

    Attributes:
        pausing: whether ``MixOptScheduler`` runs the trials.
        unconfirmed: runs of a restored state that Tune has not shown yet.
        exhausted: whether nothing fitted the budget, and nothing has happened since.
        failures: runs that failed before they showed anything, since the last report of any.
    """

    def __init__(self, history: History | None = None) -> None:
        runs = [] if history is None else [run for run in history if not run.evaluated]
        self.pausing = False
        self.exhausted = False
        self.failures = 0
        self.unconfirmed = {run.trial_id for run in runs}
        self._live = {run.trial_id for run in runs if run.status == "running"}
        self._trials: dict[str, Trial] = {}

    def check_failures(self) -> None:
        """Raises RuntimeError if trial after trial has failed before its first report."""
        if self.failures >= MAX_FAILURES:
            raise RuntimeError(
                f"{MAX_FAILURES} trials in a row failed before their first report: see their errors, then go on with "
                "ray_mixopt.restore. Failed trials cost nothing, so that this search would never end."
            )

    def confirm(self, trial: Trial) -> None:
        """Takes note of a trial that Tune shows."""
        self.unconfirmed.discard(trial.trial_id)
        self._trials[trial.trial_id] = trial

    def trial(self, trial_id: str) -> Trial | None:
        """Tune's trial of that name, if Tune has shown it."""
        return self._trials.get(trial_id)

    def start(self, trial_id: str) -> None:
        """Takes note that a trial was asked for, or is to go on."""
        self._live.add(trial_id)

    def end(self, trial_id: str) -> None:
        """Takes note that a trial is over."""
        self._live.discard(trial_id)
        self._trials.pop(trial_id, None)

    def running(self, history: History) -> int:
        """Number of trials that hold or wait for resources. A paused one does until Tune has saved it."""
        for trial_id in list(self._live & self._trials.keys()):
            trial = self._trials[trial_id]
            if trial.status == trial.PAUSED and history[trial_id].status == "paused":
                self._live.discard(trial_id)
        return len(self._live)

    def ended_unheard(self) -> list[Trial]:
        """Trials that Tune ended without a word, as it does when time is up or an actor cannot be reused."""
        live = (self._trials[trial_id] for trial_id in self._live & self._trials.keys())
        return [trial for trial in live if trial.is_finished()]

    def lose(self, trial_ids: Collection[str], history: History) -> None:
        """Gives up unfinished runs that Tune does not know. What they showed is kept."""
        for run in [run for run in history if run.trial_id in trial_ids and run.status in ("running", "paused")]:
            logger.warning("Tune does not know trial %s: it is lost after step %d.", run.trial_id, run.reached)
            history.finish(run.trial_id, lost=True)
            self.end(run.trial_id)
        self.unconfirmed.difference_update(trial_ids)


def training_step(result: Mapping[str, Any]) -> int | None:
    """The training step of a flattened result: its "step", else "training_iteration"; None unless that is >= 1."""
    value = result.get("step", result.get("training_iteration"))
    try:
        return int(value) if value is not None and value >= 1 else None
    except (TypeError, ValueError, OverflowError):
        return None


def metrics_of(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Values of those of the named metrics that a flattened result has as numbers, NaN and infinity among them."""
    found = {}
    for name in names:
        try:
            found[name] = float(result[name])
        except (KeyError, TypeError, ValueError):
            continue
    return found


def others_of(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The entries of a flattened result that are neither Tune's own nor among the named metrics."""
    known = {*_OF_TUNE, *names}
    return {key: value for key, value in result.items() if key not in known and not key.startswith(_KINDS_OF_TUNE)}


class Reports:
    """Takes in the reports of runs, and warns once of what they lack."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._last: dict[str, tuple[int, int]] = {}

    def observe(
        self, optimizer: MixtureOptimizer, run: Run, result: Mapping[str, Any], names: Sequence[str]
    ) -> int | None:
        """Tells the optimizer of a report.

        Args:
            optimizer: of the search.
            run: the run that reported.
            result: what it reported, flattened.
            names: the metrics that matter.

        Returns:
            The training step of the report; None where there was nothing to tell.
        """
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
            optimizer.history.unkept += self._repeated(optimizer, run, result, step)
            optimizer.tell(run.trial_id, step, others_of(result, names) | metrics)
        return step

    def _repeated(self, optimizer: MixtureOptimizer, run: Run, result: Mapping[str, Any], step: int) -> float:
        """Cost of steps that were trained again, from an older checkpoint, to get to a report that is known already.

        A process that only says the same twice did not train for it.
        """
        iteration = result.get("iterations_since_restore")
        if not isinstance(iteration, int):
            return 0.0
        before, self._last[run.trial_id] = self._last.get(run.trial_id), (iteration, step)
        if step not in run.observations:
            return 0.0
        if before is not None and before[0] < iteration:  # the same process
            start = before[1]
        else:
            start = max((earlier for earlier in run.observations if earlier < step), default=0)
        return optimizer.space.cost(run.scale, step, start=start) if start < step else 0.0

    def warn_once(self, message: str) -> None:
        """Logs a warning, unless the same was logged before."""
        if message not in self._told:
            self._told.add(message)
            logger.warning("%s", message)


def machine_failed(trial: Trial | None) -> bool:
    """Whether a trial's process or node died, rather than that its code raised an error.

    A process that runs out of memory is killed, and so is one whose node goes away: they cannot be told apart. Running
    out of an accelerator's memory is different: that is an error that the code raises.

    Args:
        trial: a trial that failed in this process; None if Tune did not show it.
    """
    if trial is None or not trial.pickled_error_file or not Path(trial.pickled_error_file).is_file():
        return False
    # Tune wrote it a moment ago, in this process. Trial.get_pickled_error reads the storage, where it may not be yet.
    error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    if isinstance(error, RayTaskError):
        error = error.as_instanceof_cause()
    return isinstance(error, _MACHINE)
