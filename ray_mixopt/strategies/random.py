"""Random search: uniform mixtures, each trained in full at the target (the paper's first baseline)."""

from __future__ import annotations

import numpy as np

from ray_mixopt.core.history import History
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.strategy import Proposal


class RandomStrategy:
    """Mixtures from Dirichlet(1) at the target; recommends the best one seen there.

    Args:
        problem: what is searched.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def propose(self, history: History) -> Proposal | None:
        """A uniform draw from the capped simplex, or from the pool's untried mixtures."""
        problem, space = self.problem, self.problem.space
        if space.target_cost > problem.affordable(history):
            return None
        rng = problem.rng(history.n_asked)
        if problem.pool is None:
            mixture = space.sample(1, rng)[0]
        else:
            there, tried = problem.pool.logged_at(space.target_scale, space.target_steps), history.mixtures()
            left = [w for w in there if not same_mixture(tried, w).any()]
            if not left:
                return None
            mixture = left[rng.integers(len(left))]
        return Proposal(mixture=mixture, scale=space.target_scale, steps=space.target_steps)

    def recommend(self, history: History) -> Recommendation:
        """The best observation at the target; the uniform mixture before there is one."""
        return best_observed(self.problem, history, target_only=True)


def best_observed(problem: Problem, history: History, *, target_only: bool) -> Recommendation:
    """The mixture of the best observation, at the target only or whatever its fidelity."""
    space = problem.space
    best: tuple[float, np.ndarray] | None = None
    for trial_id, step in history.arrivals:
        trial = history[trial_id]
        value = problem.value(trial.observations[step])
        if value is None or (target_only and (trial.scale, step) != (space.target_scale, space.target_steps)):
            continue
        if best is None or problem.sign * value < best[0]:
            best = problem.sign * value, np.array(trial.mixture)
    return Recommendation(
        mixture=space.named(space.uniform() if best is None else best[1]),
        scale=space.target_scale,
        steps=space.target_steps,
        predicted=None,
        uniform=None,
        spent=history.spent,
        target_runs=history.spent / space.target_cost,
        elsewhere=history.spent_elsewhere,
        diverged=sum(t.status == "diverged" for t in history),
    )
