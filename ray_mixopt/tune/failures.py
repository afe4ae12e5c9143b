"""Whose fault it was that a Tune trial failed: its own, or its machine's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ray.cloudpickle
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_MACHINE = (RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError)


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
