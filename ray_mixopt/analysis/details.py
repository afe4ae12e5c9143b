"""What a history says about the target beyond the recommendation itself: flatness, price of limits, agreement of ranks.

Notation: ``d`` domains, ``n`` mixtures, ``s`` hyper-parameter draws. Answers are those of the default strategy's
surrogate, whatever strategy chose the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.stats import spearmanr

from ray_mixopt.core.history import History
from ray_mixopt.core.objective import Objective
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.recommendation import Agreement, Details, GuardrailCheck, LimitPrice, Recommendation
from ray_mixopt.strategies.candidates import SimplexCandidates
from ray_mixopt.surrogate.belief import Belief
from ray_mixopt.surrogate.posterior import ObjectivePosterior

TOLERANCE = 0.1  # of the gap between the recommendation and the median mixture: regret that counts as "as good"
_LEAST_COMMON = 3  # mixtures, for a rank correlation
_N_RANKED = 256
_N_RANDOM = 512
_N_MOVES = 64
_BINDING = 1e-3  # a share this close to its limit is held by it


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit that the recommendation touches, and the problem without it."""

    name: str
    relaxed: Problem


class Analysis:
    """Answers about the target from one history.

    Args:
        problem: what was searched.
        history: what was seen.
        belief: the models that are known already, so that nothing is fitted twice; fitted here by default.
    """

    def __init__(self, problem: Problem, history: History, belief: Belief | None = None) -> None:
        self.problem, self.history = problem, history
        self.space = problem.space
        self.belief = belief or Belief(problem.settings.seed)

    @cached_property
    def posterior(self) -> ObjectivePosterior | None:
        """The surrogate of the objective; None while a metric has fewer than two values."""
        return self.belief.posterior(self.problem, self.history)

    def of(self, recommendation: Recommendation) -> Recommendation:
        """Another strategy's recommendation with what this surrogate predicts for it."""
        if self.posterior is None:
            return recommendation
        data = self.belief.data(self.problem, self.history).values()
        return replace(
            recommendation,
            **self.posterior.compared(self.space.mixture(recommendation.mixture), self.problem.baselines()),
            calibration=self.posterior.calibration([self.belief.used(values) for values in data]),
        )

    def details(self, recommendation: Recommendation) -> Details | None:
        """All details of a recommendation; None while there is no surrogate."""
        if self.posterior is None:
            return None
        best = self.space.mixture(recommendation.mixture)
        tolerance = self.tolerance(best)
        prices = self.limits(best)
        free = self._optimum(unlimited(self.problem), best) if prices else None
        return Details(
            tolerance=tolerance,
            ranges=self.ranges(best, tolerance),
            limits=tuple(prices),
            unconstrained=None if free is None else self._price("all of them", free, best),
            guardrails=tuple(self.guardrails(best)),
            agreement=tuple(self.agreement()),
        )

    # -- how flat the optimum is

    def tolerance(self, best: np.ndarray) -> float:
        """A tenth of what lies between a mixture ``(d,)`` and the median one, in the objective's unit."""
        assert self.posterior is not None
        median = float(self.posterior.mean(self.space.sample(_N_RANDOM, self._rng(0))).median())
        return TOLERANCE * max(median - float(self.posterior.mean(best[None])), 0.0)

    def ranges(self, best: np.ndarray, tolerance: float) -> dict[str, tuple[float, float]]:
        """Least and largest share of each domain among mixtures predicted within ``tolerance`` of ``best``.

        A search pushes each share up and down; the ranges are those it reached, so that they are never too wide.
        """
        assert self.posterior is not None
        rng, d = self._rng(1), self.space.n_domains
        limit = float(self.posterior.score(best[None])) + tolerance
        inside = best[None]
        towards = np.eye(d)[:, None] - np.eye(d)[None]  # (d, d, d): from the second domain to the first
        moves = towards[~np.eye(d, dtype=bool)]
        for reach in np.geomspace(0.5, 0.02, 8):
            ends = np.unique(np.concatenate([inside.argmin(0), inside.argmax(0)]))
            centers = np.concatenate([best[None], inside[ends]])[:, None]
            some = moves[rng.permutation(len(moves))[:_N_MOVES]]
            swapped = centers + reach * rng.random((len(centers), len(some), 1)) * some
            near = centers + reach * rng.random((len(centers), 16, 1)) * (rng.dirichlet(np.full(d, 0.3), 16) - centers)
            new = self.space.simplex.project(np.concatenate([swapped.reshape(-1, d), near.reshape(-1, d)]))
            inside = np.concatenate([inside, new[self.posterior.score(new).numpy() <= limit]])
        low, high = inside.min(0), inside.max(0)
        return {name: (float(low[i]), float(high[i])) for i, name in enumerate(self.space.domains)}

    # -- what limits cost

    def limits(self, best: np.ndarray) -> list[LimitPrice]:
        """The limits that hold a recommendation ``(d,)``, each with the gain of dropping it alone; dearest first.

        None in a replay of logged runs, where only the mixtures logged could be recommended.
        """
        if self.problem.pool is not None:
            return []
        held = binding(self.problem, best)
        prices = [self._price(limit.name, self._optimum(limit.relaxed, best), best) for limit in held]
        return sorted(prices, key=lambda price: -price.cost.mean)

    def _price(self, name: str, mixture: np.ndarray, best: np.ndarray) -> LimitPrice:
        assert self.posterior is not None
        worse, better = (best, mixture) if self.problem.sign > 0 else (mixture, best)
        return LimitPrice(
            name=name,
            mixture=self.space.named(mixture),
            predicted=self.posterior.prediction(mixture),
            cost=self.posterior.prediction(worse, better),
        )

    def _optimum(self, problem: Problem, best: np.ndarray) -> np.ndarray:
        """The recommendation under other limits, ``(d,)``; ``best`` is among the candidates, so it is never worse."""
        changed = problem.goal != self.problem.goal
        posterior = self.belief.posterior(problem, self.history) if changed else self.posterior
        assert posterior is not None
        rng = self._rng(2)
        candidates = SimplexCandidates(problem.space)
        start = np.concatenate([candidates.at_target(rng, 1024, self.history), best[None]])
        found: np.ndarray = candidates.best(start, posterior.score, rng)[0]
        return found

    def guardrails(self, best: np.ndarray) -> Iterator[GuardrailCheck]:
        """Whether each guardrail holds for a recommendation ``(d,)``."""
        assert self.posterior is not None
        for guard in self.posterior.guards:
            rail = guard.guardrail
            known = guard.posterior
            yield GuardrailCheck(
                name=str(rail),
                probability=float(guard.probability(best[None])[0]),
                confidence=rail.confidence,
                predicted=None if known is None else known.prediction(best),
                baseline=None if known is None else known.prediction(guard.baseline),
            )

    # -- which fidelities rank like the target

    def agreement(self) -> Iterator[Agreement]:
        """How each (scale, rung) ranks mixtures in comparison with the target, by ascending cost.

        The expected rank correlation is over random mixtures within the limits, of the surrogate's means; the
        observed one is of the mixtures that were run at both.
        """
        assert self.posterior is not None
        space = self.space
        mixtures = space.sample(_N_RANKED, self._rng(3))
        target = self.posterior.marginal(mixtures)[0].numpy()
        seen = self._seen()
        goal = seen.get((space.target_scale, space.target_steps), {})
        cells = [(scale, steps) for scale in space.scale_names for steps in space.steps]
        for scale, steps in sorted(cells, key=lambda cell: space.cost(*cell)):
            here = self.posterior.at(scale, steps).marginal(mixtures)[0].numpy()
            both = seen.get((scale, steps), {})
            common = sorted(both.keys() & goal.keys())
            observed = None
            if len(common) >= _LEAST_COMMON:
                observed = rank_correlation(np.array([both[w] for w in common]), np.array([goal[w] for w in common]))
            yield Agreement(
                scale=scale,
                steps=steps,
                cost=space.cost(scale, steps),
                runs=len(both),
                expected=float(np.mean([rank_correlation(a, b) for a, b in zip(here, target, strict=True)])),
                common=len(common),
                observed=observed,
            )

    def _seen(self) -> dict[tuple[str, int], dict[tuple[float, ...], float]]:
        """The objective seen at each fidelity, by mixture."""
        found: dict[tuple[str, int], dict[tuple[float, ...], float]] = {}
        for trial in self.history:
            for step, metrics in trial.observations.items():
                value = self.problem.value(metrics)
                if value is not None:
                    found.setdefault((trial.scale, step), {})[trial.mixture] = value
        return found

    def _rng(self, stream: int) -> np.random.Generator:
        return self.problem.rng(9, stream, len(self.history.arrivals))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two ``(n,)``; 0 where one of them is constant, of which SciPy says NaN."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def binding(problem: Problem, mixture: np.ndarray) -> Iterator[Limit]:
    """The limits that a mixture ``(d,)`` touches."""
    space = problem.space
    for i, domain in enumerate(space.domains):
        upper, lower = space.simplex.upper[i], space.simplex.lower[i]
        if upper < 1 and mixture[i] >= upper - _BINDING:
            epochs = "" if space.upper.get(domain, 1.0) <= upper else f" (at most {space.max_epochs:g} epochs)"
            yield Limit(name=f"{domain} at most {upper:.2%}{epochs}", relaxed=_without_cap(problem, domain))
        if lower > 0 and mixture[i] <= lower + _BINDING:
            rest = {name: share for name, share in space.lower.items() if name != domain}
            relaxed = replace(problem, space=replace(space, lower=rest))
            yield Limit(name=f"{domain} at least {lower:.2%}", relaxed=relaxed)
    for group in space.groups:
        share = sum(mixture[space.domains.index(domain)] for domain in group.domains)
        relaxed = replace(problem, space=replace(space, groups=tuple(g for g in space.groups if g != group)))
        if group.most < 1 and share >= group.most - _BINDING:
            yield Limit(name=f"{group.name} at most {group.most:.2%}", relaxed=relaxed)
        elif group.least > 0 and share <= group.least + _BINDING:
            yield Limit(name=f"{group.name} at least {group.least:.2%}", relaxed=relaxed)
    goal = problem.goal
    if goal is not None:
        for guardrail in goal.guardrails:
            rest_ = tuple(g for g in goal.guardrails if g != guardrail)
            yield Limit(name=str(guardrail), relaxed=_with_goal(problem, replace(goal, guardrails=rest_)))
        if goal.closeness:
            yield Limit(name="closeness to the prior", relaxed=_with_goal(problem, replace(goal, closeness=0.0)))


def unlimited(problem: Problem) -> Problem:
    """The problem without any limit, guardrail or prior."""
    space = problem.space
    free = replace(space, lower={}, upper={}, groups=(), token_supply={}, target_tokens=None, max_epochs=1.0)
    without = replace(problem, space=free)
    if problem.goal is None:
        return without
    # The supply still says what "proportional" is, if the objective is relative to it.
    kept = replace(free, token_supply=space.token_supply)
    return _with_goal(replace(problem, space=kept), replace(problem.goal, guardrails=(), closeness=0.0))


def _with_goal(problem: Problem, goal: Objective) -> Problem:
    return problem.asking(goal)


def _without_cap(problem: Problem, domain: str) -> Problem:
    space = problem.space
    upper = {name: share for name, share in space.upper.items() if name != domain}
    if space.target_tokens is None:
        return replace(problem, space=replace(space, upper=upper))
    # A supply that caps nothing, and still says what "proportional" is for the others.
    plenty = max(space.token_supply.get(domain, 0.0), space.target_tokens / space.max_epochs)
    supply: Mapping[str, float] = dict(space.token_supply) | {domain: plenty}
    return replace(problem, space=replace(space, upper=upper, token_supply=supply))
