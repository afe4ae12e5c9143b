"""The best trade-offs between two metrics at the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from botorch.utils.multi_objective.pareto import is_non_dominated
from torch import Tensor

from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.history import History
from ray_mixopt.core.objective import Mode
from ray_mixopt.core.problem import Problem
from ray_mixopt.strategies.candidates import candidates_of
from ray_mixopt.surrogate.belief import Belief
from ray_mixopt.surrogate.phased import belief_of

_N_WEIGHTS = 9  # weighted sums whose optima are looked for
_N_RANDOM = 2048
_MOST_POINTS = 24


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """A mixture that no other is predicted to beat in both metrics.

    Attributes:
        mixture: share of training tokens by domain.
        first: prediction of the first metric at the target.
        second: prediction of the second.
    """

    mixture: dict[str, float]
    first: Prediction
    second: Prediction


def pareto_front(
    problem: Problem, history: History, modes: Mapping[str, Mode], belief: Belief | None = None
) -> list[TradeOff]:
    """The best trade-offs between two metrics.

    Candidates are the optima of weighted sums, what was met on the way to them, and random mixtures; what is on the
    front is said by the predicted means, so that it need not be convex.

    Args:
        problem: its space and pool say what can be recommended; its objective does not matter.
        history: what was seen.
        modes: "min" or "max" for each of the two metrics.
        belief: the models that are known already, such as ``optimizer.belief``; fitted here by default.

    Returns:
        At most 24 mixtures, best of the first metric first; an empty list while one metric has fewer than two values.

    Raises:
        ValueError: unless there are two metrics.
    """
    if len(modes) != 2:
        raise ValueError(f"A Pareto front is between two metrics, got {list(modes)}.")
    belief = belief or belief_of(problem)
    first, second = (belief.posterior(problem.asking({metric: 1.0}, m), history) for metric, m in modes.items())
    if first is None or second is None:
        return []
    rng = problem.rng(11, len(history.arrivals))
    space = problem.space
    candidates = candidates_of(problem)
    start = candidates.at_target(rng, _N_RANDOM, history)
    spread = [float(p.mean(start).std()) or 1.0 for p in (first, second)]
    found = [start]
    for share in np.linspace(0, 1, _N_WEIGHTS):
        a, b = (1 - share) / spread[0], share / spread[1]

        def score(w: np.ndarray, a: float = a, b: float = b) -> Tensor:
            return a * first.mean(w) + b * second.mean(w)

        found.append(candidates.best(start, score, rng)[:64])
    mixtures = np.concatenate(found)
    values = np.stack([first.mean(mixtures).numpy(), second.mean(mixtures).numpy()], axis=1)
    chosen = _thinned(values, undominated(values))
    return [
        TradeOff(
            mixture=space.named(mixtures[i]), first=first.prediction(mixtures[i]), second=second.prediction(mixtures[i])
        )
        for i in chosen
    ]


def undominated(values: np.ndarray) -> np.ndarray:
    """Indices of the rows of ``n x 2`` values (less is better) that no other beats, by ascending first value.

    Of equal rows the first one counts.
    """
    rows = np.flatnonzero(is_non_dominated(torch.from_numpy(values), maximize=False).numpy())
    order: np.ndarray = rows[values[rows, 0].argsort()]
    return order


def _thinned(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """At most ``_MOST_POINTS`` of the rows, evenly spread along the front; its ends are kept."""
    if len(rows) <= _MOST_POINTS:
        return rows
    scaled = (values[rows] - values[rows].min(0)) / np.maximum(np.ptp(values[rows], axis=0), 1e-12)
    along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(scaled, axis=0)).sum(1))])
    return rows[np.unique(np.searchsorted(along, np.linspace(0, along[-1], _MOST_POINTS) - 1e-12))]
