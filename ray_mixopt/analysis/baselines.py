"""What is asked to predict hidden runs: the surrogate, and what needs no model.

A method gets the problem, whose target is the hidden scale and length, the runs that are given, and the mixtures that
are asked for; most of the simple ones look only at the largest scale given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ray_mixopt.analysis.scores import SURROGATE, Cell, Hindcast
from ray_mixopt.core.history import History, Status, Trial
from ray_mixopt.core.problem import Problem
from ray_mixopt.optimizer import MixtureOptimizer

Mixture = tuple[float, ...]
Cells = dict[Cell, dict[Mixture, float]]

Method = Callable[[Problem, History, np.ndarray], Hindcast | None]
"""Of a problem, the runs given and ``n x d`` mixtures: what is said of these; None where there is too little to say."""


def by_cell(history: History, problem: Problem) -> Cells:
    """The objective at each scale and length by mixture, the mean over repeats."""
    seen: dict[Cell, dict[Mixture, list[float]]] = {}
    for trial in history:
        for step, metrics in trial.observations.items():
            value = problem.value(metrics)
            if value is not None:
                seen.setdefault((trial.scale, step), {}).setdefault(trial.mixture, []).append(value)
    return {cell: {mixture: float(np.mean(y)) for mixture, y in found.items()} for cell, found in seen.items()}


@dataclass(frozen=True, kw_only=True)
class OneScale:
    """What is known at the largest scale given, at the length at which most of its mixtures are known.

    Attributes:
        cell: the scale and the length.
        values: the objective there by mixture.
    """

    cell: Cell
    values: Mapping[Mixture, float]

    @classmethod
    def of(cls, history: History, problem: Problem) -> OneScale | None:
        """The largest scale below the target's at which anything is known; of equal lengths the longest."""
        cells = by_cell(history, problem)
        for scale in reversed(problem.space.scale_names[:-1]):
            places = [cell for cell in cells if cell[0] == scale]
            if places:
                cell = max(places, key=lambda cell: (len(cells[cell]), cell[1]))
                return cls(cell=cell, values=cells[cell])
        return None

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Mixtures ``n x d`` and their values ``(n,)``."""
        return np.array(list(self.values)), np.array(list(self.values.values()))


def surrogate(problem: Problem, given: History, asked: np.ndarray) -> Hindcast:
    """The surrogate of the problem's strategy, given everything."""
    forecast = MixtureOptimizer.of_history(given, problem.settings).predict(asked)
    return Hindcast(mean=forecast.mean, covariance=forecast.covariance)


def surrogate_of_largest(problem: Problem, given: History, asked: np.ndarray) -> Hindcast | None:
    """The same, given only what the largest scale showed at one length."""
    largest = OneScale.of(given, problem)
    if largest is None or len(largest.values) < 2:
        return None
    alone = History(given.space)
    for trial in given:
        if trial.scale == largest.cell[0] and largest.cell[1] in trial.observations:
            add(alone, trial, [largest.cell[1]])
    return surrogate(problem, alone, asked)


def same_differences(problem: Problem, given: History, asked: np.ndarray) -> Hindcast | None:
    """What the largest scale showed of the very mixtures that ran there."""
    largest = OneScale.of(given, problem)
    if largest is None:
        return None
    return Hindcast(mean=np.array([largest.values.get(tuple(w), np.nan) for w in asked.tolist()]), has_level=False)


def linear_regression(problem: Problem, given: History, asked: np.ndarray) -> Hindcast | None:
    """Linear in the shares, of the largest scale; of all fits the smallest where there are several."""
    largest = OneScale.of(given, problem)
    if largest is None:
        return None
    mixtures, values = largest.arrays()
    equal = 1 / mixtures.shape[1]
    slopes, *_ = np.linalg.lstsq(mixtures - equal, values - values.mean(), rcond=None)
    return Hindcast(mean=(asked - equal) @ slopes + values.mean(), has_level=False)


METHODS: Mapping[str, Method] = {
    SURROGATE: surrogate,
    "surrogate of the largest scale": surrogate_of_largest,
    "same differences": same_differences,
    "linear regression": linear_regression,
}
"""By the names under which they are scored."""


def add(history: History, trial: Trial, steps: Sequence[int]) -> None:
    """Adds a run with what it showed at some of its steps."""
    seen = {step: trial.observations[step] for step in steps}
    status: Status = "diverged" if trial.status == "diverged" else "done"
    history.add(replace(trial, observations=seen, status=status, evaluated=True))
    history.arrivals += [(trial.trial_id, step) for step in steps]
