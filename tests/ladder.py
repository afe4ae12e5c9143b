"""A cheap strategy that climbs the rungs, for tests of pausing and continuing; and what it searches."""

from __future__ import annotations

import time
from typing import Any

from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.strategies.random import best_observed

WIDTH = 3  # paused runs that it takes to continue the best of them


class LadderStrategy:
    """New mixtures at the first rung, scale by scale; of every few paused runs the best climbs one rung."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def propose(self, history: History) -> Proposal | None:
        problem, space = self.problem, self.problem.space
        climbs = [self._climb(run) for run in sorted(history.paused(), key=self._loss) if self._further(run)]
        affordable = [climb for climb in climbs if problem.affords(climb, history)]
        scale = space.scale_names[history.n_asked % len(space.scales)]
        new = Proposal(
            mixture=space.sample(1, problem.rng(history.n_asked))[0], scale=scale, steps=space.rungs(scale)[0]
        )
        if affordable and (len(climbs) >= WIDTH or not problem.affords(new, history)):
            return affordable[0]
        return new if problem.affords(new, history) else None

    def recommend(self, history: History) -> Recommendation:
        return best_observed(self.problem, history, target_only=False)

    def _climb(self, run: Trial) -> Proposal:
        mixture = self.problem.space.mixture(run.mixture)
        return Proposal(mixture=mixture, scale=run.scale, steps=self._further(run)[0], continues=run.trial_id)

    def _further(self, run: Trial) -> list[int]:
        return [rung for rung in self.problem.space.rungs(run.scale) if rung > run.steps]

    def _loss(self, run: Trial) -> float:
        value = self.problem.value(run.observations[run.reached]) if run.observations else None
        return float("inf") if value is None else self.problem.sign * value


def observations(history: History) -> list[tuple[Any, ...]]:
    """All that was seen, in order of arrival, without the runs' names."""
    return [
        (history[name].mixture, history[name].scale, step, history[name].observations[step])
        for name, step in history.arrivals
    ]


def wait_until(condition: Any, *, timeout_s: float, what: str) -> Any:
    """Polls until ``condition()`` is true, and returns what it gave."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {timeout_s} s.")
