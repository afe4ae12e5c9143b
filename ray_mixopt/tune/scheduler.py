"""``MixOptScheduler``: runs trials rung by rung, pausing and continuing them as the optimizer wants."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.result import TRAINING_ITERATION
from ray.tune.schedulers import SCHEDULER_IMPORT, TrialScheduler
from ray.util.debug import log_once

from ray_mixopt.core.history import is_sound
from ray_mixopt.tune.reports import metrics_of, training_step
from ray_mixopt.tune.searcher import MixOptSearcher
from ray_mixopt.tune.state import snapshot_often
from ray_mixopt.tune.trials import search_below

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

logger = logging.getLogger(__name__)

CONTINUABLE = "continuable"
"""Key that the scheduler sets to True in the configuration of the trials of a ``MixOptSearcher``.

A trainable that would end by itself (``done=True``) at ``config["steps"]`` does not, then: it reports, and is paused
there or stopped. It may be resumed from its checkpoint with larger ``steps``. A trainable that knows nothing of the key
and reports on and on is paused and stopped just the same.
"""


class MixOptScheduler(TrialScheduler):
    """Pauses a trial at the rung it was asked for, and resumes it when ``MixOptSearcher`` wants more of it.

    Diverged trials are stopped at once, paused ones when the search is over. With any other searcher a trial is
    stopped at ``config["steps"]``. What it asks of a trainable: reports with "step", checkpoints to resume from, and
    that it heeds ``CONTINUABLE`` if it ends by itself.

    The scheduler holds no state, since Tune never saves a scheduler's; all it needs is in the searcher. Setting either
    up sets the environment variable ``TUNE_GLOBAL_CHECKPOINT_S`` to 1 (seconds between snapshots of the experiment)
    unless it is set already: what happens between two snapshots is lost when the driver is killed.
    """

    _supports_buffered_results = False  # a run must not go on past its rung while its reports wait

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Takes over Tune's metric; may be called again, by another Tuner."""
        snapshot_often()
        self._metric = metric or self._metric
        return True

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Readies a new trial, or one of a restored experiment: Tune would start all unfinished ones at once."""
        searcher = _mixopt_searcher(tune_controller)
        if searcher is None:
            return
        searcher.storage.context = trial.storage
        searcher.roster.pausing = searcher.roster.shown = searcher.roster.undisturbed = True
        restored = searcher.is_restored(trial)
        if not restored:
            space = searcher.optimizer.space
            goes_on = any(len(space.rungs(name)) > 1 for name in space.scale_names)
            branches = bool(space.phase_names) and searcher.optimizer.settings.branches
            searcher.roster.check_trainable(trial, pauses=goes_on or branches)
        full = searcher.max_concurrent and searcher.roster.busy() >= searcher.max_concurrent
        run = searcher.admit(trial)
        if run is None or trial.is_finished():
            return
        if not restored:
            if run.status in ("done", "diverged"):  # tried again, with nothing left to train
                tune_controller.stop_trial(trial)
                return
        # Tune files a restored trial by its status right after this hook.
        elif run.status == "paused" or (run.status == "running" and full):
            trial.set_status(Trial.PAUSED)
        elif run.status in ("done", "diverged"):
            trial.set_status(Trial.TERMINATED)
        _set_config(trial, {searcher.layout.steps: run.steps, CONTINUABLE: True})

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Decides whether a trial goes on, pauses or stops."""
        searcher = _mixopt_searcher(tune_controller)
        run = None if searcher is None else searcher.run_of(trial.trial_id, result)
        step = training_step(result)
        if searcher is None or run is None:
            over = _is_over(trial, step, result) or _diverged(result, filter(None, [self._metric]))
            return self.STOP if over else self.CONTINUE
        rungs = searcher.optimizer.space.rungs(run.scale)
        searcher.reports.count(run, result, rungs)
        if searcher.reports.astray(run, rungs) or _diverged(result, searcher.metric_names):
            return self.STOP
        if step is None or step < run.steps:
            return self.CONTINUE
        if not searcher.is_of_use(run) or tune_controller.search_alg.is_finished():
            return self.STOP
        if result.get("checkpoint_dir_name", "") is None:  # a function's report; a class is asked for its checkpoint
            searcher.reports.warn_once(
                f"Trial {trial.trial_id} reported its rung without a checkpoint: such a run is ended there, for to go "
                "on it would train all its steps again. Use tune.report(metrics, checkpoint=...).",
                "no checkpoint",
            )
            return self.STOP
        return self.PAUSE

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """A paused trial that is to go on. Tune starts new ones by itself.

        Raises:
            LeaseError: if another driver searches in the experiment's folder.
        """
        searcher = _mixopt_searcher(tune_controller)
        trials = tune_controller.get_trials()
        paused = [trial for trial in trials if trial.status == Trial.PAUSED]
        if searcher is None:
            return paused[0] if paused else None
        if not searcher.storage.attend():
            return None
        searcher.settle()
        full = searcher.max_concurrent and searcher.roster.busy() >= searcher.max_concurrent
        over = tune_controller.search_alg.is_finished()
        for trial in paused:
            run = searcher.run_of(trial.trial_id)
            if run is not None and run.status != "running":
                if over:
                    tune_controller.stop_trial(trial)
            elif not full and not (run is not None and searcher.roster.is_needed(run, searcher.optimizer.history)):
                if run is not None:
                    _set_config(trial, {searcher.layout.steps: run.steps})
                return trial
        return None

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Nothing to do: the searcher is told."""

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing to do: the searcher is told."""

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Nothing to do: the searcher is told."""

    def debug_string(self) -> str:
        """One line for Tune's reporter."""
        return "Using MixOptScheduler."


def _mixopt_searcher(tune_controller: TuneController) -> MixOptSearcher | None:
    """The ``MixOptSearcher`` under Tune's wrappers; None if the searcher is another."""
    searcher = search_below(tune_controller.search_alg)
    return searcher if isinstance(searcher, MixOptSearcher) else None


def _is_over(trial: Trial, step: int | None, result: Mapping[str, Any]) -> bool:
    """Whether a trial of another searcher is at ``config["steps"]``, or reports no step to tell it by."""
    steps = training_step({"step": trial.config.get("steps")})  # text that holds a number is one, here, too
    if steps is None:
        if log_once("mixopt_no_steps"):
            logger.warning(
                "Trial %s has config['steps'] = %r, so that MixOptScheduler cannot tell when it is to be stopped, and "
                "leaves it alone. Have the number of training steps there, or return done=True.",
                trial.trial_id,
                trial.config.get("steps"),
            )
        return False
    if step is None and (result.get("step") != 0 or result.get(TRAINING_ITERATION, 1) > 1):
        if log_once("mixopt_no_step"):
            logger.warning(
                "Trial %s reports no training step as 'step', so that it cannot be stopped at config['steps']: such "
                "trials are ended at once.",
                trial.trial_id,
            )
        return True
    return step is not None and step >= steps


def _set_config(trial: Trial, changes: Mapping[str, Any]) -> None:
    config = {**trial.config, **changes}
    if config != trial.config:
        trial.set_config(config)


def _diverged(result: Mapping[str, Any], metrics: Iterable[str]) -> bool:
    return not all(map(is_sound, metrics_of(result, metrics).values()))


SCHEDULER_IMPORT["mixopt"] = MixOptScheduler
