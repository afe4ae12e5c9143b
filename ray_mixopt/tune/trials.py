"""Tune's trials: which it is busy with, what it has of them, and whose fault a failure was."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.cloudpickle
from pyarrow import fs
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.result import TRAINING_ITERATION
from ray.tune.search.repeater import Repeater
from ray.tune.trainable import Trainable
from ray.tune.utils import flatten_dict

from ray_mixopt.core.history import History
from ray_mixopt.core.history import Trial as Run

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

logger = logging.getLogger(__name__)

MAX_FAILURES = 10  # in a row, before the first report; Tune itself would try for ever
_BARE = {name: getattr(Trainable, name) for name in ("save_checkpoint", "load_checkpoint")}
_DEPTH = 12  # of calls, at most, between Tune's loop and here
_MACHINE = (RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError)


class Roster:
    """Trials that hold or wait for resources, as far as the searcher is told.

    Args:
        history: runs of a restored state; None for a new search.

    Attributes:
        pausing: whether ``MixOptScheduler`` runs the trials.
        shown: whether all trials that Tune has were shown at least once.
        unconfirmed: runs of a restored state that Tune has not shown yet.
        undisturbed: whether no scheduler ends a trial early, but one of this search.
        exhausted: whether nothing fitted the budget, and nothing has happened since.
        failures: runs that failed before they showed anything, since the last report of any.
    """

    def __init__(self, history: History | None = None) -> None:
        runs = [] if history is None else [run for run in history if not run.evaluated]
        self.pausing = False
        self.shown = False
        self.undisturbed = False
        self.exhausted = False
        self.failures = 0
        self.unconfirmed = {run.trial_id for run in runs}
        self._live = {run.trial_id for run in runs if run.status == "running"}
        self._trials: dict[str, Trial] = {}
        self._confirmed: set[str] = set()
        self._checked: set[str] = set()

    def check_failures(self) -> None:
        """Raises RuntimeError if trial after trial has failed before its first report."""
        if self.failures >= MAX_FAILURES:
            raise RuntimeError(
                f"{MAX_FAILURES} trials in a row failed before their first report: see their errors, then go on with "
                "ray_mixopt.restore. Failed trials cost nothing, so that this search would never end."
            )

    def check_trainable(self, trial: Trial, *, pauses: bool) -> None:
        """Checks that what a trial trains with has checkpoints, where Tune is going to ask for one.

        Args:
            trial: a new trial.
            pauses: whether its runs may be paused, and go on.

        Raises:
            ValueError: if it has none.
        """
        if trial.trainable_name in self._checked:
            return
        self._checked.add(trial.trainable_name)
        made = trial.get_trainable_cls()
        missing = [name for name in _BARE if getattr(made, name, None) is _BARE[name]]
        if pauses and missing:
            raise ValueError(
                f"{trial.trainable_name} has no {' and no '.join(missing)}: runs are paused at their rungs and go on "
                "from a checkpoint. Write both methods, of tune.Trainable, or leave MixOptScheduler out and give "
                "RunConfig(checkpoint_config=CheckpointConfig(checkpoint_at_end=False))."
            )
        if "save_checkpoint" in missing and (trial.checkpoint_at_end or trial.checkpoint_freq):
            raise ValueError(
                f"{trial.trainable_name} has no save_checkpoint, and Tune is going to ask for a checkpoint of every "
                "trial, without which the trial fails. Write save_checkpoint and load_checkpoint, of tune.Trainable, "
                "or give RunConfig(checkpoint_config=CheckpointConfig(checkpoint_at_end=False))."
            )

    def confirm(self, trial: Trial) -> None:
        """Takes note of a trial that Tune shows."""
        self.unconfirmed.discard(trial.trial_id)
        self._confirmed.add(trial.trial_id)
        self._trials[trial.trial_id] = trial

    def unseen(self, loop: TuneController) -> list[Trial]:
        """Trials of Tune's loop that are not confirmed yet."""
        trials = loop.get_live_trials() if self.shown else loop.get_trials()
        self.shown = True
        return [trial for trial in trials if trial.trial_id not in self._confirmed]

    def sees(self, trial_id: str) -> bool:
        """Whether Tune has shown a trial whose end it has not told."""
        return trial_id in self._trials

    def stop(self, trial_id: str) -> None:
        """Has Tune end a trial, which it has shown, with its next report."""
        trial = self._trials[trial_id]
        trial.stopping_criterion = {**trial.stopping_criterion, TRAINING_ITERATION: 0}

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

    def saving(self, history: History) -> bool:
        """Whether a run that is at its rung is still to be paused by Tune, which saves it first."""
        return any(
            trial.status == trial.RUNNING and history[trial.trial_id].status == "paused" for trial in self.live()
        )

    def checkpoint(self, trial_id: str) -> str | None:
        """Where the last checkpoint of a trial is, a path or a URI; None where there is none."""
        trial = self._trials.get(trial_id)
        if trial is None or trial.checkpoint is None:
            return None
        return place_of(trial.checkpoint)

    def is_needed(self, run: Run, history: History) -> bool:
        """Whether the last checkpoint of a run, which it replaces when it goes on, is where one on its way begins."""
        return any(child.branch is not None and child.branch.parent == run.trial_id for child in history.pending())

    def live(self) -> list[Trial]:
        """Trials that Tune has shown and whose end it has not told."""
        return [trial for trial_id, trial in self._trials.items() if trial_id in self._live]

    def busy(self) -> int:
        """Number of trials that hold or wait for resources, as Tune has it: none that is paused."""
        return sum(trial.status in (trial.PENDING, trial.RUNNING) for trial in self.live())

    def lose(self, trial_ids: Collection[str], history: History) -> None:
        """Gives up unfinished runs that Tune does not know. What they showed is kept."""
        for run in [run for run in history if run.trial_id in trial_ids and run.status in ("running", "paused")]:
            logger.warning("Tune does not know trial %s: it is lost after step %d.", run.trial_id, run.reached)
            history.finish(run.trial_id, lost=True)
            self.end(run.trial_id)
        self.unconfirmed.difference_update(trial_ids)


def loop_of_call() -> TuneController | None:
    """Tune's loop, if it is what calls; None elsewhere.

    Tune hands it to schedulers only, though it is the searcher that has to know what became of the trials: it is
    looked up among the callers.
    """
    frame = inspect.currentframe()
    for _ in range(_DEPTH):
        if frame is None:
            break
        if isinstance(caller := frame.f_locals.get("self"), TuneController):
            return caller
        frame = frame.f_back
    return None


def search_below(search: Any) -> Any:
    """The search algorithm under Tune's wrappers.

    Raises:
        ValueError: if one of them is a Repeater.
    """
    while hasattr(search, "searcher"):
        if isinstance(search, Repeater):
            raise ValueError("Repeater hides the reports below the last rung: use MixOptSearcher without it.")
        search = search.searcher
    return search


def place_of(checkpoint: Any) -> str:
    """Where a checkpoint is, a path or a URI."""
    path, where = checkpoint.path, checkpoint.filesystem
    return str(path) if where is None or isinstance(where, fs.LocalFileSystem) else f"{where.type_name}://{path}"


def last_result(trial: Trial) -> dict[str, Any]:
    """The last report that Tune has of a trial, flattened; empty before the first one."""
    return flatten_dict(trial.run_metadata.last_result or {})


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
