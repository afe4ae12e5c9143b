"""What every strategy gets and gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ray_mixopt.core.history import History
from ray_mixopt.core.objective import Mode, Objective
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.space import MixtureSpace

__all__ = ["Mode", "Problem", "Proposal", "Strategy", "Suggestion"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is searched, for what, with which money.

    Args:
        space: the search space.
        mode: whether the objective is minimised or maximised.
        objective: weight of each metric in the objective; a single metric has weight 1.
        budget: most that may be committed, in the space's cost unit; None for no limit.
        seed: seed of all random draws.
        pool: the only runs that exist, when logged runs are replayed.
        continuation: whether paused runs may be continued.
        goal: the objective in full, where there is more to it than a weighted sum.
        reference: shares of a mixture to compare recommendations with, by domain.
        min_gain_per_cost: regret that a run must be expected to remove, per unit of cost, to be worth it.
    """

    space: MixtureSpace
    mode: Mode
    objective: Mapping[str, float]
    budget: float | None
    seed: int
    pool: Pool | None = None
    continuation: bool = True
    goal: Objective | None = None
    reference: Mapping[str, float] | None = None
    min_gain_per_cost: float = 0.0

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that matter, those of guardrails included."""
        rails = () if self.goal is None else self.goal.metrics
        return tuple(dict.fromkeys([*self.objective, *rails]))

    def baselines(self) -> dict[str, np.ndarray]:
        """Mixtures to compare a recommendation with, by name, each ``(d,)``."""
        space = self.space
        found = {"uniform": space.uniform(), "proportional": space.proportional()}
        if self.reference is not None:
            found["reference"] = space.mixture(self.reference)
        return {name: mixture for name, mixture in found.items() if mixture is not None}

    @property
    def sign(self) -> float:
        """+1 when minimising, -1 when maximising: ``sign * objective`` is minimised."""
        return 1.0 if self.mode == "min" else -1.0

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """The objective of a report, None where a metric is missing."""
        if not set(self.objective) <= set(metrics):
            return None
        return math.fsum(weight * metrics[name] for name, weight in self.objective.items())

    def rng(self, *stream: int) -> np.random.Generator:
        """A random stream that depends on the seed and the given numbers only."""
        return np.random.default_rng([self.seed, *stream])

    def affordable(self, history: History) -> float:
        """What may still be committed."""
        return math.inf if self.budget is None else self.budget - history.committed


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a strategy wants to run: a new trial, or the continuation of a paused one.

    ``acquisition`` is kept with a new trial, for strategies whose later answers depend on it. ``again`` marks the
    repetition of a lost run, which is no new suggestion of the strategy's.
    """

    mixture: np.ndarray  # (d,)
    scale: str
    steps: int
    continues: str | None = None
    acquisition: float | None = None
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What to run next.

    Attributes:
        trial_id: name of the run; a continued run keeps its own.
        mixture: share of training tokens by domain; sums to 1.
        scale: name of the model scale.
        steps: the rung to reach, in training steps; every rung passed is to be reported.
        continues: the paused trial to go on with (then equal to ``trial_id``), or None for a new run.
        cost: what it adds to the bill, in the space's cost unit: for a continued run only the further steps.
    """

    trial_id: str
    mixture: dict[str, float]
    scale: str
    steps: int
    continues: str | None
    cost: float


class Strategy(Protocol):
    """A policy over histories. Pure: the same history gives the same answer."""

    def __init__(self, problem: Problem) -> None: ...

    def propose(self, history: History) -> Proposal | None:
        """The next run; None when nothing useful fits the budget."""
        ...

    def recommend(self, history: History) -> Recommendation:
        """The best mixture for the target as far as the history tells."""
        ...
