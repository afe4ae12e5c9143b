"""A Tune searcher that takes in all that Tune has of its trials, what Tune tells no searcher among it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from ray_mixopt.core.history import Trial as Run
from ray_mixopt.core.objective import Mode
from ray_mixopt.io.search_state import SearchState
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.tune.layout import Layout
from ray_mixopt.tune.reports import Reports, training_step
from ray_mixopt.tune.state import SnapshotSearcher
from ray_mixopt.tune.storage import Storage
from ray_mixopt.tune.trials import Roster, last_result, loop_of_call, machine_failed, search_below

logger = logging.getLogger(__name__)


class HearingSearcher(SnapshotSearcher):
    """What becomes of the reports and ends of trials. A subclass makes the suggestions.

    Under ``MixOptScheduler`` the trials are shown by that. Under any other scheduler they are looked up in Tune's loop,
    which has more than it tells: last reports whose checkpoint failed, trials that ended unheard, and where all is
    kept. Such a scheduler cannot be asked to pause a run. But a run that is to end is told so: Tune then ends it with
    its next report, if it makes one.

    Attributes:
        layout: where a configuration holds what.
        reports: what runs have reported.
        roster: the trials.
        storage: of the experiment.
    """

    layout: Layout
    _search: SearchState

    def __init__(self, metric: str | None = None, mode: Mode | None = None) -> None:
        super().__init__(metric=metric, mode=mode)
        self.reports = Reports()
        self.roster = Roster()
        self.storage = Storage(self.note)

    @property
    def optimizer(self) -> MixtureOptimizer:
        """The optimizer behind this searcher, with its ``history``.

        Raises:
            RuntimeError: if the space, the metric or the mode is unknown, or the state could not be restored.
        """
        if self.damage is not None:
            raise RuntimeError(self.damage)
        return self._search.optimizer

    @property
    def metric_names(self) -> list[str]:
        """The metrics of the objective, those of its guardrails included."""
        return self._search.metrics

    def note(self, incident: str) -> None:
        """Keeps a sentence about what befell the search, for its report."""
        if self._search.history is not None:
            self._search.history.note(incident)

    # -- what Tune tells

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Takes in a report. Unknown, late and repeated ones do no harm.

        Raises:
            RuntimeError: if the trial trains on beyond the steps that it was asked for, and nothing can stop it.
        """
        self.roster.exhausted = False
        self.look()
        run = self.run_of(trial_id, result)
        if run is None:
            return
        before, rungs = run.reached, self.optimizer.space.rungs(run.scale)
        step = self._observe(run, result)
        if self.roster.pausing:
            if run.status == "running" and step is not None and step >= run.steps:
                self.optimizer.finish(trial_id)
        elif not self.roster.sees(trial_id):
            self.reports.check_end(run, before, rungs)
        elif run.status == "diverged" or run.reached >= run.steps or self.reports.astray(run, rungs):
            self.roster.stop(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Takes in the end of a trial, with its last report if it has one."""
        self.roster.exhausted = False
        self.look()
        trial = self.roster.trial(trial_id)
        if not result and trial is not None:
            result = last_result(trial)  # Tune has it, and tells nobody where a checkpoint fails or a pause ends
        run = self.run_of(trial_id, result)
        lost = error and machine_failed(trial)
        by_itself = not error and trial is not None and self.roster.undisturbed and not trial.stopping_criterion
        self.roster.end(trial_id)
        if run is None:
            return
        if result and training_step(result) not in run.observations:
            self._observe(run, result)
        self.reports.bill(self.optimizer, run, result, by_itself=by_itself)
        if not self.roster.pausing:
            self.reports.warn_of_excess(run)
        self.optimizer.finish(trial_id, failed=error, lost=lost, continuable=False)
        if error and not run.observations:
            self.roster.failures += 1

    # -- what Tune has

    def look(self) -> None:
        """Looks up the trials in Tune's loop, if that calls and no ``MixOptScheduler`` shows them.

        Raises:
            ValueError: if Tune is going to ask a trial for a checkpoint that its class does not make, or if a Repeater
                stands between Tune and this searcher.
        """
        loop = None if self.roster.pausing else loop_of_call()
        if loop is None:
            return
        search_below(loop.search_alg)
        self.roster.undisturbed = type(loop.scheduler_alg) is FIFOScheduler
        new = self.roster.unseen(loop)
        for trial in new:
            if not self.is_restored(trial):
                self.roster.check_trainable(trial, pauses=False)
            self.storage.context = trial.storage
            self.admit(trial)
        if new:
            self.reports.warn_once(
                f"Under {type(loop.scheduler_alg).__name__} a run of this search is over for good at its rung, and one "
                "that diverges, or trains on after its rung, ends with its next report only. "
                "TuneConfig(scheduler=MixOptScheduler()) continues runs that are worth it, and ends those at once.",
                "scheduler",
            )
        for trial in self.roster.live():
            if trial.status == trial.PENDING and last_result(trial):  # Tune tries it again
                self.admit(trial)

    def is_restored(self, trial: Trial) -> bool:
        """Whether a trial that Tune shows was not asked for by this process, but is part of a restored experiment."""
        return trial.trial_id in self.roster.unconfirmed or self.run_of(trial.trial_id) is None

    def admit(self, trial: Trial) -> Run | None:
        """Makes a trial that is new, to be retried, or part of a restored experiment known to the search.

        Returns:
            Its run; None if its configuration does not fit the space.
        """
        roster, restored = self.roster, self.is_restored(trial)
        roster.confirm(trial)
        run = self.run_of(trial.trial_id, config=trial.config)
        if run is None:
            return None
        if trial.is_finished():
            # The state may be older than the experiment, and not know of the end.
            if run.status in ("running", "paused"):
                roster.start(trial.trial_id)
                self.settle()
            return run
        self.hear(trial)
        if run.status not in ("done", "diverged"):
            if run.reached >= run.steps:
                # It has shown all that it was asked for, whether or not its last checkpoint is there: it would train
                # again.
                if run.status in ("failed", "lost"):
                    self.optimizer.history.retry(trial.trial_id)
                self.optimizer.finish(trial.trial_id, continuable=roster.pausing and restored and self.is_of_use(run))
            elif run.status in ("failed", "lost") or (run.status == "paused" and not restored):
                self.optimizer.history.retry(trial.trial_id)
            if run.status == "running":
                roster.start(trial.trial_id)
        if run.status in ("done", "diverged") and not roster.pausing:
            roster.stop(trial.trial_id)
        return run

    def is_of_use(self, run: Run) -> bool:
        """Whether the checkpoint of a run at its rung may be needed: it can go on, or others can branch from it."""
        optimizer = self.optimizer
        branches = bool(optimizer.space.phase_names) and optimizer.settings.branches
        return branches or run.steps < optimizer.space.rungs(run.scale)[-1]

    def settle(self) -> None:
        """Takes in the end of trials of which Tune did not tell."""
        for trial in self.roster.live():
            if trial.is_finished():
                self.on_trial_complete(trial.trial_id, last_result(trial), error=trial.status == trial.ERROR)

    def hear(self, trial: Trial) -> None:
        """Takes in the last report that Tune has of a trial, if the search has it not."""
        result = last_result(trial)
        run = self.run_of(trial.trial_id, result)
        if run is not None and result and training_step(result) not in run.observations:
            self._observe(run, result)

    def save(self, checkpoint_path: str) -> None:
        """Writes the state, with all that Tune knows of its trials by now and has not told.

        Raises:
            ValueError: as ``look`` does.
            RuntimeError: if the experiment's folder has been missing for long.
            LeaseError: if another driver searches there.
        """
        self.look()
        for trial in self.roster.live():
            if trial.status == trial.ERROR:
                self.on_trial_complete(trial.trial_id, error=True)
            else:
                self.hear(trial)
        super().save(checkpoint_path)
        if not self.roster.pausing:
            self.storage.attend()

    def run_of(
        self, trial_id: str, result: Mapping[str, Any] | None = None, *, config: Mapping[str, Any] | None = None
    ) -> Run | None:
        """The optimizer's record of a trial. One that it does not know is adopted from its configuration.

        Args:
            trial_id: Tune's name of the trial.
            result: a flattened result, which repeats the configuration under "config/".
            config: the configuration.

        Returns:
            The run; None for an unknown trial whose configuration is not known or does not fit the space.
        """
        history = self._search.history
        if history is None or trial_id in history.trials:
            return None if history is None else history[trial_id]
        config = self.layout.config_of(result or {}) if config is None else config
        if not config:
            return None
        try:
            run = self.layout.adopted(trial_id, config, history)
        except ValueError as error:
            self.reports.warn_once(f"Trial {trial_id} is not of this search and is ignored: {error}.")
            return None
        self.roster.start(trial_id)
        return run

    def _observe(self, run: Run, result: Mapping[str, Any]) -> int | None:
        step = self.reports.observe(self.optimizer, run, result, self.metric_names)
        if step is not None:
            self.roster.failures = 0
        return step
