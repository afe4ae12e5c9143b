"""Optuna's samplers with its pruners, over softmax logits and the steps of the target scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ray_mixopt.benchmark.problem import Task
from ray_mixopt.benchmark.rivals.base import Rival, geometric_rungs
from ray_mixopt.core.strategy import Suggestion


class OptunaSearch(Rival):
    """One trial at a time goes from rung to rung until the pruner ends it.

    Args:
        task: what is searched.
        sampler: "tpe" (multivariate) or "gp".
        pruner: "hyperband" or "successive-halving" (asynchronous).
        bound: logits are between -bound and bound.
        eta: factor between rungs.
        smallest: the first rung, as a share of the target's steps.
        bootstrap: trials that must have reached a rung before one may go beyond it. Without it the first trial is run
            to the end.
    """

    def __init__(
        self, task: Task, *, sampler: str, pruner: str, bound: float, eta: int, smallest: float, bootstrap: int
    ) -> None:
        super().__init__(task)
        self.rungs = geometric_rungs(task, eta, smallest * task.space.target_steps)
        self.task = task.with_rungs(self.rungs) if task.any_steps else task
        self.bound = bound
        self._study = _study(sampler, pruner, task.seed, self.rungs, eta, bootstrap)
        self._trial: Any = None  # the one on its way, and its run
        self._run = ""

    def ask(self) -> Suggestion:
        """The next rung of the trial on its way, or a new trial."""
        if self._trial is not None:
            run = self.runs[self._run]
            return self.go_on(run, self.rungs[self.rungs.index(run.steps) + 1])
        self._trial = self._study.ask()
        logits = [self._trial.suggest_float(f"logit_{i}", -self.bound, self.bound) for i in range(self.d)]
        suggestion = self.start(self.softmax(np.array(logits)), self.space.target_scale, self.rungs[0])
        self._run = suggestion.trial_id
        return suggestion

    def finish(self, trial_id: str, failed: bool = False) -> None:
        """Tells Optuna, which goes on with the trial or ends it."""
        from optuna.trial import TrialState

        super().finish(trial_id, failed)
        run, trial = self.runs[trial_id], self._trial
        if failed or run.steps not in run.losses:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            trial.report(run.losses[run.steps], run.steps)
            if run.steps == self.rungs[-1]:
                self._study.tell(trial, run.losses[run.steps])
            elif trial.should_prune():
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                return
        self._trial = None


def _study(sampler: str, pruner: str, seed: int, rungs: tuple[int, ...], eta: int, bootstrap: int) -> Any:
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    samplers = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed),
    }
    pruners = {
        "hyperband": lambda: optuna.pruners.HyperbandPruner(
            min_resource=rungs[0], max_resource=rungs[-1], reduction_factor=eta, bootstrap_count=bootstrap
        ),
        "successive-halving": lambda: optuna.pruners.SuccessiveHalvingPruner(
            min_resource=rungs[0], reduction_factor=eta, bootstrap_count=bootstrap
        ),
    }
    # Hyperband picks a trial's bracket by the study's name.
    return optuna.create_study(study_name="mixture", sampler=samplers[sampler](), pruner=pruners[pruner]())
