"""SMAC 3: a random forest under Hyperband, over softmax logits."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt.benchmark.problem import Task
from ray_mixopt.benchmark.rivals.base import Rival, RivalRun
from ray_mixopt.core.strategy import Suggestion

ENDLESS = 10**7  # trials: the budget is counted elsewhere


class SmacHyperband(Rival):
    """SMAC's multi-fidelity facade with training steps, or the scale, as its budget.

    Args:
        task: what is searched.
        bound: logits are between -bound and bound.
        eta: Hyperband's factor between budgets.
        axis: "steps": all runs are at the target's scale. "scale": all are of the target's length, and the budget is
            the cost of a run, rounded to the nearest scale on a log axis.
        smallest: smallest budget on the steps axis, as a share of the target's steps.
        initial: random configurations before the forest is used, for each domain.
    """

    def __init__(self, task: Task, *, bound: float, eta: int, axis: str, smallest: float, initial: int) -> None:
        super().__init__(task)
        self.axis = axis
        space = task.space
        if axis == "scale":
            self._scales = list(dict.fromkeys(scale for scale, _ in self.cells()))
            low, high = (space.cost(name, space.target_steps) for name in (self._scales[0], space.target_scale))
        else:
            low, high = smallest * space.target_steps, float(space.target_steps)
            n = math.floor(math.log(high / low) / math.log(eta))
            self.task = task.with_rungs([round(high / eta**k) for k in range(n + 1)])
        self._folder = tempfile.TemporaryDirectory(prefix="smac-")
        self._smac = self._facade(bound, eta, low, high, initial)
        self._info: dict[str, Any] = {}  # what SMAC waits for, by trial
        self._by_configuration: dict[Any, RivalRun] = {}

    def ask(self) -> Suggestion:
        """SMAC's next trial."""
        info = self._smac.ask()
        mixture = self.softmax(np.array([info.config[f"logit_{i}"] for i in range(self.d)]))
        scale, steps = self._fidelity(float(info.budget))
        run = self._by_configuration.get(info.config)
        if run is not None and run.scale == scale and not run.failed and run.steps < steps:
            suggestion = self.go_on(run, steps)
        else:
            suggestion = self.start(mixture, scale, steps)
            self._by_configuration[info.config] = self.runs[suggestion.trial_id]
        self._info[suggestion.trial_id] = info
        return suggestion

    def finish(self, trial_id: str, failed: bool = False) -> None:
        """Tells SMAC the run's loss at its rung, or that it crashed."""
        from smac.runhistory.dataclasses import TrialValue
        from smac.runhistory.enumerations import StatusType

        super().finish(trial_id, failed)
        run = self.runs[trial_id]
        broken = failed or run.steps not in run.losses
        status = StatusType.CRASHED if broken else StatusType.SUCCESS
        cost = float("inf") if broken else run.losses[run.steps]
        self._smac.tell(self._info.pop(trial_id), TrialValue(cost=cost, status=status))

    def _fidelity(self, budget: float) -> tuple[str, int]:
        space = self.space
        if self.axis == "steps":
            return space.target_scale, min(space.steps, key=lambda z: abs(z - budget))
        distance = {name: abs(math.log(space.cost(name, space.target_steps) / budget)) for name in self._scales}
        return min(self._scales, key=distance.__getitem__), space.target_steps

    def _facade(self, bound: float, eta: int, low: float, high: float, initial: int) -> Any:
        from ConfigSpace import ConfigurationSpace, Float
        from smac import MultiFidelityFacade, Scenario

        configurations = ConfigurationSpace(seed=self.task.seed)
        configurations.add([Float(f"logit_{i}", (-bound, bound), default=0.0) for i in range(self.d)])
        scenario = Scenario(
            configurations,
            deterministic=True,
            n_trials=ENDLESS,
            min_budget=low,
            max_budget=high,
            seed=self.task.seed,
            output_directory=Path(self._folder.name),
        )
        design = MultiFidelityFacade.get_initial_design(scenario, n_configs=initial * self.d)
        return MultiFidelityFacade(
            scenario,
            lambda config, seed=0, budget=0: 0.0,  # never called: trials are told
            initial_design=design,
            intensifier=MultiFidelityFacade.get_intensifier(scenario, eta=eta),
            overwrite=True,
            logging_level=False,
        )
