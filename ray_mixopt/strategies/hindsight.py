"""Would the model have been right? A search's own largest runs, predicted from its smaller ones.

Neighbours that are left out one by one are predicted well by a model that extrapolates badly: what intervals at the
target are worth shows where runs at a larger scale were predicted without any of its size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import spearmanr

from ray_mixopt.core.forecast import NORMAL_95, Forecast, Hindsight, contrast_deviations
from ray_mixopt.core.history import History
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.scale import by_size
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.surrogate.belief import Belief

LEAST_MIXTURES = 5  # at the scale that is predicted: fewer say nothing of intervals


@dataclass(frozen=True, kw_only=True, eq=False)
class Hidden:
    """``n`` mixtures at the largest scale of a search, as they were seen and as its smaller runs predict them.

    Attributes:
        scale: the scale that is predicted, from smaller ones only.
        steps: the length.
        mixtures: of the runs there, ``n x d``.
        seen: the objective that they reported, the mean of runs that repeat one, ``(n,)``.
        forecast: of the same.
        scatter: standard deviation of what was seen, as far as noise is said, ``(n,)``.
    """

    scale: str
    steps: int
    mixtures: np.ndarray
    seen: np.ndarray
    forecast: Forecast
    scatter: np.ndarray

    @property
    def measured(self) -> np.ndarray:
        """What was seen, less the mean of all, ``(n,)``."""
        return np.asarray(self.seen - self.seen.mean())

    @property
    def predicted(self) -> np.ndarray:
        """What was expected, less the mean of all, ``(n,)``."""
        return np.asarray(self.forecast.mean - self.forecast.mean.mean())

    @property
    def half(self) -> np.ndarray:
        """Half the width of the 95% interval of each difference from the mean of all, ``(n,)``."""
        return NORMAL_95 * contrast_deviations(self.forecast.covariance + np.diag(np.square(self.scatter)))

    @property
    def inside(self) -> np.ndarray:
        """Which of the differences are inside their interval, ``(n,)``."""
        return np.asarray(np.abs(self.predicted - self.measured) <= self.half)

    @property
    def score(self) -> Hindsight:
        """How well they were predicted."""
        constant = np.ptp(self.forecast.mean) == 0 or np.ptp(self.seen) == 0
        return Hindsight(
            scale=self.scale,
            steps=self.steps,
            n=len(self.seen),
            coverage=float(self.inside.mean()),
            rank=None if constant else float(spearmanr(self.forecast.mean, self.seen).statistic),
        )


def hindsight(problem: Problem, history: History, belief: Belief) -> Hindsight | None:
    """How well the largest scale at which enough mixtures are known is predicted from all smaller ones.

    None where no scale has five mixtures at one length and a smaller one to learn from; the arguments are ``hidden``'s.
    """
    found = hidden(problem, history, belief)
    return None if found is None else found.score


def hidden(problem: Problem, history: History, belief: Belief) -> Hidden | None:
    """The largest scale at which enough mixtures are known, predicted from all smaller ones.

    Args:
        problem: what is searched.
        history: what was seen.
        belief: the models of all runs, which has those of the smaller ones made alike and keeps them.

    Returns:
        The mixtures there, one by one; None where no scale has five mixtures at one length and a smaller one to learn
        from.
    """
    # Compared is what was measured, and that is the weighted sum; runs asked for may be at scales that are hidden.
    settings = replace(
        problem.settings, objective=dict(problem.weights), mode=problem.mode, reference=None, points_to_evaluate=()
    )
    seen: dict[tuple[str, int], dict[tuple[float, ...], list[float]]] = {}
    for trial in history:
        for step, metrics in trial.observations.items():
            value = problem.value(metrics)
            if value is not None:
                seen.setdefault((trial.scale, step), {}).setdefault(trial.mixture, []).append(value)
    names = [scale.name for scale in by_size((*history.space.scales, *history.space.earlier_scales))]
    size = {name: place for place, name in enumerate(names)}
    known = [cell for cell, found in seen.items() if len(found) >= LEAST_MIXTURES]
    for scale in sorted({scale for scale, _ in known}, key=lambda name: -size[name]):
        steps = max((len(seen[cell]), cell[1]) for cell in known if cell[0] == scale)[1]
        asked = Problem(space=up_to(history.space, scale, steps), settings=settings)
        smaller = _only(history, asked.space)
        posterior = belief.apart.posterior(asked, smaller) if len(smaller) else None
        if posterior is None:
            continue
        mixtures, values = np.array(list(seen[scale, steps])), list(seen[scale, steps].values())
        return Hidden(
            scale=scale,
            steps=steps,
            mixtures=mixtures,
            seen=np.array([np.mean(of) for of in values]),
            forecast=posterior.forecast(mixtures),
            scatter=_scatter(problem, belief) / np.sqrt([len(of) for of in values]),
        )
    return None


def up_to(space: MixtureSpace, scale: str, steps: int) -> MixtureSpace:
    """The space of a scale, which is its target, and all smaller ones: what is predicted is asked as the answer is.

    Args:
        space: the whole.
        scale: name of the scale.
        steps: the length that is asked of it, a rung or not.
    """
    ordered = by_size((*space.scales, *space.earlier_scales))
    kept = list(ordered[: [known.name for known in ordered].index(scale) + 1])
    if any(known.parameters is None for known in ordered):  # sizes are by cost: of these alone they might not be
        kept = [replace(known, parameters=None) for known in kept]
    scales = [replace(known, steps=space.rungs(known.name)) for known in kept]  # the space's may be of none of them
    scales[-1] = replace(kept[-1], steps=tuple(sorted({*space.rungs(scale), steps})))
    tokens = space.repeats_as(scale, steps) if space.repetition else space.target_tokens
    return replace(
        space, scales=tuple(scales), steps=(), target=(scale, steps), target_tokens=tokens, earlier_scales=()
    )


def _scatter(problem: Problem, belief: Belief) -> float:
    """Standard deviation of a report of the objective, of the noise that is said of its metrics."""
    return math.hypot(*(weight * belief.noise.get(metric, 0.0) for metric, weight in problem.weights.items()))


def _only(history: History, space: MixtureSpace) -> History:
    """The runs at the scales of a space but its target's, as if given."""
    result = History(space)
    for trial in history:
        if trial.scale in space.scale_names[:-1]:
            result.add(replace(trial, evaluated=True, status=trial.status if not trial.pending else "done"))
    result.arrivals = [arrival for arrival in history.arrivals if arrival[0] in result.trials]
    return result
