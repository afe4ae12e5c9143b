"""BOHB (Falkner et al., 2018): Hyperband whose configurations come from hpbandster's model, as in Ray's TuneBOHB."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from ray_mixopt.benchmark.problem import Task
from ray_mixopt.benchmark.rivals.base import Rival, geometric_rungs
from ray_mixopt.core.strategy import Suggestion


class Bohb(Rival):
    """hpbandster's density model over softmax logits, under synchronous Hyperband over the target scale's steps.

    Args:
        task: what is searched.
        bound: logits are between -bound and bound.
        eta: Hyperband's factor between rungs.
        smallest: the first rung, as a share of the target's steps.
        model: keyword arguments of hpbandster's BOHB.
    """

    def __init__(self, task: Task, *, bound: float, eta: int, smallest: float, model: dict[str, Any]) -> None:
        from ConfigSpace import ConfigurationSpace, Float
        from hpbandster.optimizers.config_generators.bohb import BOHB

        super().__init__(task)
        self.rungs = geometric_rungs(task, eta, smallest * task.space.target_steps)
        self.task = task.with_rungs(self.rungs) if task.any_steps else task
        self.eta = eta
        space = ConfigurationSpace(seed=task.seed)
        space.add([Float(f"logit_{i}", (-bound, bound)) for i in range(self.d)])
        with _without_its_warnings():
            self._model = BOHB(space, **model)
        self._configurations: dict[str, dict[str, float]] = {}  # by trial
        self._schedule = self._hyperband()

    def ask(self) -> Suggestion:
        """The next run of Hyperband."""
        return next(self._schedule)

    def finish(self, trial_id: str, failed: bool = False) -> None:
        """Tells the model the run's loss at its rung, or that there is none."""
        super().finish(trial_id, failed)
        run = self.runs[trial_id]
        loss = run.losses.get(run.steps)
        kwargs = {"budget": float(run.steps), "config": self._configurations[trial_id]}
        result = None if failed or loss is None else {"loss": loss}
        job = SimpleNamespace(id=trial_id, kwargs=kwargs, result=result, exception=None, timestamps={})
        with _without_its_warnings():
            self._model.new_result(job)

    def _hyperband(self) -> Iterator[Suggestion]:
        most = len(self.rungs) - 1
        while True:
            for s in range(most, -1, -1):  # a bracket starts at rung most - s
                first = self.rungs[most - s]
                runs = []
                for _ in range(math.ceil((most + 1) / (s + 1) * self.eta**s)):
                    configuration = self._configuration(first)
                    logits = np.array([configuration[f"logit_{i}"] for i in range(self.d)])
                    suggestion = self.start(self.softmax(logits), self.space.target_scale, first)
                    self._configurations[suggestion.trial_id] = configuration
                    runs.append(self.runs[suggestion.trial_id])
                    yield suggestion
                for rung in self.rungs[most - s + 1 :]:
                    n_kept = len(runs) // self.eta
                    runs = sorted((run for run in runs if not run.failed), key=lambda run: run.loss)[:n_kept]
                    for run in runs:
                        yield self.go_on(run, rung)

    def _configuration(self, rung: int) -> dict[str, float]:
        """The model's next configuration; it draws from numpy's global stream, which is put back afterwards."""
        before = np.random.get_state()
        np.random.seed(int(self.rng.integers(2**32)))
        try:
            with _without_its_warnings():
                return dict(self._model.get_config(float(rung))[0])
        finally:
            np.random.set_state(before)


@contextmanager
def _without_its_warnings() -> Iterator[None]:
    """Hpbandster is of 2018, and much of what it calls is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
