"""Ray's callbacks for Weights & Biases, MLflow and TensorBoard, for runs that pause and go on.

Tune starts a run that goes on once more, with more steps; and a run that was paused when a search was interrupted may
end in the resumed search without having started there. MLflow's callback breaks down at both, that of Weights & Biases
at the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback, TBXLoggerCallback


class Wandb(WandbLoggerCallback):
    """A run in Weights & Biases for each trial."""

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Ends the run, if there is one."""
        if trial in self._trial_queues:
            super().log_trial_end(trial, failed)


class MLflow(MLflowLoggerCallback):
    """A run in MLflow for each trial; its parameter ``steps`` is what the trial was first asked for."""

    def log_trial_start(self, trial: Trial) -> None:
        """Starts a run, once: MLflow refuses a parameter that has changed."""
        if trial not in self._trial_runs:
            super().log_trial_start(trial)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Ends the run, if there is one."""
        if trial in self._trial_runs:
            super().log_trial_end(trial, failed)


TRACKERS: Mapping[str, Callable[[str], LoggerCallback]] = {
    "tensorboard": lambda project: TBXLoggerCallback(),
    # A resumed search goes on with the runs that are there.
    "wandb": lambda project: Wandb(project=project, resume="allow"),
    "mlflow": lambda project: MLflow(experiment_name=project),
}
"""Makes the callback of a service, by its name in the configuration, for a project of the given name."""
