"""Removes the checkpoints of runs that no search will continue: they are most of what a search leaves on the disk."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

from pyarrow import fs
from ray import tune
from ray.tune.experiment import Trial

from ray_mixopt.core.problem import may_go_on
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.tune.searcher import MixOptSearcher

_SAFE_SECONDS = 20.0  # Tune keeps what has happened every second, and a driver that dies goes on from there
_OVER = (Trial.TERMINATED, Trial.PAUSED)  # an errored trial may be tried again


class Pruning(tune.Callback):
    """Removes the checkpoints of each run of a search that can no longer be continued, a while after that is known.

    A pickled copy removes nothing until it is told of the search.

    Args:
        searcher: of the search.
        storage: folder or URI that holds a folder for each run, named after its trial.
    """

    def __init__(self, searcher: MixOptSearcher, storage: str) -> None:
        self._searcher: MixOptSearcher | None = searcher
        self._storage = storage
        self._since: dict[str, float] = {}  # seconds of a clock at which runs were seen to be over
        self._removed: set[str] = set()

    @staticmethod
    def restored(tuner: tune.Tuner) -> None:
        """Tells of a restored search, if it had a ``Pruning``: a Tuner gives out neither of the two."""
        local: Any = tuner._local_tuner
        for callback in local._run_config.callbacks:
            if isinstance(callback, Pruning):
                callback._searcher = local._tune_config.search_alg

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Removes what has been of no use for long enough."""
        if self._searcher is None:
            return
        now = time.monotonic()
        ended = [trial.trial_id for trial in trials if trial.status in _OVER and trial.trial_id not in self._removed]
        for name in over(self._searcher.optimizer, ended):
            if now - self._since.setdefault(name, now) >= _SAFE_SECONDS:
                self._removed.add(name)
                remove(self._storage, [name])

    def __getstate__(self) -> dict[str, Any]:
        return {"_searcher": None, "_storage": self._storage, "_since": {}, "_removed": set()}


def over(optimizer: MixtureOptimizer, names: Iterable[str]) -> list[str]:
    """Those of some runs that can no longer be continued, nor be where others begin."""
    history, budget, branches = optimizer.history, optimizer.settings.budget, optimizer.settings.branches
    left = math.inf if budget is None else budget - history.spent
    known = [name for name in names if name in history.trials]
    return [name for name in known if not may_go_on(history[name], history.space, left, branches)]


def remove(storage: str, names: Iterable[str]) -> None:
    """Removes all that is kept of runs; what is not there is removed already."""
    filesystem, path = fs.FileSystem.from_uri(storage)
    for name in names:
        if filesystem.get_file_info(f"{path}/{name}").type == fs.FileType.Directory:
            filesystem.delete_dir(f"{path}/{name}")
