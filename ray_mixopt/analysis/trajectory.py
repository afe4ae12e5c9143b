"""What a search would have recommended after each part of its spending."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ray_mixopt.core.branches import cost_of
from ray_mixopt.core.history import History
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.optimizer import MixtureOptimizer

_EASY = 160**2 * 20  # ``size``, below, of a search up to which no point is left out


def prefix(history: History, n: int) -> History:
    """The history as it was after its first ``n`` reports: without runs that had not reported by then."""
    part = History(history.space)
    part.arrivals = history.arrivals[:n]
    seen = set(part.arrivals)
    for trial in history:
        observations = {step: values for step, values in trial.observations.items() if (trial.trial_id, step) in seen}
        if observations:
            whole = len(observations) == len(trial.observations)
            part.add(replace(trial, observations=observations, status=trial.status if whole else "running"))
    part.n_asked = len(part)
    return part


def costs(history: History) -> np.ndarray:
    """What had been spent after each report, in the space's cost unit, ``(n_reports,)``."""
    reached: dict[str, int] = {}
    steps = []
    for trial_id, step in history.arrivals:
        trial, before = history[trial_id], reached.get(trial_id, 0)
        paid = 0.0 if trial.evaluated or step <= before else cost_of(history.space, trial, step, start=before)
        steps.append(paid)
        reached[trial_id] = max(step, before)
    return np.cumsum(steps)


def trajectory(optimizer: MixtureOptimizer, n_points: int = 20) -> list[Recommendation]:
    """Recommendations from prefixes of the history, at costs spread evenly on a log axis.

    Args:
        optimizer: the optimizer after its search. It is not changed.
        n_points: most recommendations to compute; each takes as long as a first ``optimizer.recommend()``.

    Returns:
        The recommendations by ascending cost, the last of all of the history; an empty list where nothing was paid.
    """
    history = optimizer.history
    spent = costs(history)
    paid = spent[spent > 0]
    if not len(paid):
        return []
    grid = np.geomspace(max(paid[0], paid[-1] / 100), paid[-1], n_points)
    # Of the reports paid by then, all; the tolerance is for the rounding of the grid's ends.
    lengths = np.unique(np.searchsorted(spent, grid * (1 + 1e-9), side="right"))
    quiet = replace(optimizer.settings, callbacks=())
    past = MixtureOptimizer(optimizer.space, quiet, pool=optimizer.problem.pool)
    points = []
    for n in lengths[:-1].tolist():
        past.history = prefix(history, n)
        points.append(past.answer())
    return [*points, optimizer.answer()]  # whose models are fitted already


def sensible_points(optimizer: MixtureOptimizer, most: int) -> int:
    """How many recommendations on the way to compute: each has models of its own, which many values make slow.

    Args:
        optimizer: the optimizer after its search.
        most: as many as for a search that is not large; a quarter of it for one whose models take longest.
    """
    belief = optimizer.belief
    models = belief.data(optimizer.problem, optimizer.history).values()
    used = [min(len(values.y), belief.settings.most_fitted) for values in models]
    size = sum(n**2 for n in used) * (optimizer.space.n_domains + 12)  # what a step of a fit takes, more or less
    return max(most // 4, min(most, int(most * _EASY / max(size, 1))))
