"""Which trials Tune is busy with. Holds only while one Tune run lasts; never saved."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from ray_mixopt.core.history import History

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

logger = logging.getLogger(__name__)

MAX_FAILURES = 10  # in a row, before the first report; Tune itself would try for ever


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
        """Tune shows a trial."""
        self.unconfirmed.discard(trial.trial_id)
        self._trials[trial.trial_id] = trial

    def trial(self, trial_id: str) -> Trial | None:
        """Tune's trial of that name, if Tune has shown it."""
        return self._trials.get(trial_id)

    def start(self, trial_id: str) -> None:
        """A trial was asked for, or is to go on."""
        self._live.add(trial_id)

    def end(self, trial_id: str) -> None:
        """A trial is over."""
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
            run.status = "lost"
            self.end(run.trial_id)
        self.unconfirmed.difference_update(trial_ids)
