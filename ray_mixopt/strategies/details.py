"""What else a history says of a recommendation: how flat the optimum is, what limits cost, which fidelities agree.

Notation: ``d`` domains, ``n`` mixtures, ``s`` hyper-parameter draws. Answers are of the models in a belief, whatever
strategy chose the runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial import KDTree
from scipy.stats import spearmanr

from ray_mixopt.core.baselines import moved
from ray_mixopt.core.details import Agreement, Details, GuardrailCheck, LimitPrice, MoreData
from ray_mixopt.core.history import History
from ray_mixopt.core.phased import phased
from ray_mixopt.core.phases import Phase, searched
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.simplex import SAME_SHARE
from ray_mixopt.core.supply import passes
from ray_mixopt.core.words import by_name
from ray_mixopt.strategies.candidates import PhasedCandidates, SimplexCandidates
from ray_mixopt.strategies.hindsight import hindsight
from ray_mixopt.strategies.order import reordered
from ray_mixopt.surrogate.belief import Belief
from ray_mixopt.surrogate.posterior import ObjectivePosterior

TOLERANCE = 0.1  # of the gap between the recommendation and the median mixture: regret that counts as "as good"
_LEAST_COMMON = 3  # mixtures, for a rank correlation
_N_RANKED = 256
_MOST_CELLS = 64
_N_RANDOM = 512
_N_MOVES, _N_NEAR = 64, 16  # new mixtures from each of those found
_MOST_NEW = 4000  # of all those found
_BINDING = 1e-3  # a share this close to its limit is held by it


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit that a mixture touches.

    Attributes:
        name: what must hold.
        relaxed: the problem without it.
    """

    name: str
    relaxed: Problem


def detailed(recommendation: Recommendation, problem: Problem, history: History, belief: Belief) -> Recommendation:
    """A recommendation with its details; as it is while a metric has fewer than two values.

    Where its strategy has no model, it gets the predictions of the belief's, too.

    Args:
        recommendation: of any strategy, from this history.
        problem: what is searched.
        history: what was seen.
        belief: the models of all metrics.
    """
    posterior = belief.posterior(problem, history)
    if posterior is None:
        return recommendation
    best = problem.space.mixture(recommendation.mixture)
    if recommendation.predicted is None:
        used = [belief.used(values) for values in belief.data(problem, history).values()]
        predicted = posterior.compared(best, problem.baselines())
        recommendation = replace(recommendation, **predicted, calibration=posterior.calibration(used))
        recommendation = replace(recommendation, furthest=history.furthest, nearest=history.nearest)
        recommendation = replace(recommendation, hindsight=hindsight(problem, history, belief))
    return replace(recommendation, details=_Inquiry(problem, history, belief, posterior, best).details())


class _Inquiry:
    """Questions about one mixture at the target.

    Args:
        problem: what is searched.
        history: what was seen.
        belief: the models of all metrics.
        posterior: what it says of the objective.
        best: the mixture, ``(d,)``.
    """

    def __init__(
        self, problem: Problem, history: History, belief: Belief, posterior: ObjectivePosterior, best: np.ndarray
    ) -> None:
        self.problem, self.space, self.history = problem, problem.space, history
        self.belief, self.posterior, self.best = belief, posterior, best

    def details(self) -> Details:
        """All answers."""
        tolerance = self.tolerance()
        prices = self.limits()
        free = self._optimum(unlimited(self.problem)) if prices else None
        return Details(
            tolerance=tolerance,
            ranges=self.ranges(tolerance),
            limits=tuple(prices),
            unconstrained=None if free is None else self._price("all of them", free),
            more_data=tuple(self.more_data()),
            reordered=tuple(reordered(self.posterior, self.best)) if self.space.phase_names else (),
            guardrails=tuple(self.guardrails()),
            agreement=tuple(self.agreement()),
        )

    # -- how flat the optimum is

    def tolerance(self) -> float:
        """A tenth of what lies between the mixture and the median one, in the objective's unit."""
        median = float(self.posterior.mean(self.space.sample(_N_RANDOM, self._rng(0))).median())
        return TOLERANCE * max(median - float(self.posterior.mean(self.best[None])), 0.0)

    def ranges(self, tolerance: float) -> dict[str, tuple[float, float]]:
        """Least and largest share of each domain among mixtures predicted within ``tolerance`` of this one.

        A search pushes each share up and down; the ranges are those it reached, so that they are never too wide.
        """
        rng, d, best, n_phases = self._rng(1), self.space.n_domains, self.best, len(self.space.phase_names) or 1
        limit = float(self._predicted(best[None])[0]) + tolerance
        inside = best[None]
        towards = np.eye(d)[:, None] - np.eye(d)[None]  # (d, d, d): from the second domain to the first
        moves = towards[~np.eye(d, dtype=bool)]
        if n_phases > 1:  # of one phase, or the same in all
            each = [np.kron(of, moves) for of in np.eye(n_phases)[:, None]]
            moves = np.concatenate([*each, np.tile(moves, (1, n_phases))])
        for reach in np.geomspace(0.5, 0.02, 8):
            ends = np.unique(np.concatenate([inside.argmin(0), inside.argmax(0)]))
            centers = np.concatenate([best[None], inside[ends]])[:, None]
            share = min(1.0, _MOST_NEW / (len(centers) * (_N_MOVES + _N_NEAR)))  # hundreds of domains have many centers
            some = moves[rng.permutation(len(moves))[: math.ceil(share * _N_MOVES)]]
            n_near = math.ceil(share * _N_NEAR)
            swapped = centers + reach * rng.random((len(centers), len(some), 1)) * some
            lengths = reach * rng.random((len(centers), n_near, 1))
            anywhere = rng.dirichlet(np.full(d, 0.3), (n_near, n_phases)).reshape(n_near, -1)
            near = centers + lengths * (anywhere - centers)
            n = n_phases * d
            new = self.space.simplex.project(np.concatenate([swapped.reshape(-1, n), near.reshape(-1, n)]))
            inside = np.concatenate([inside, new[self._predicted(new) <= limit]])
        low, high = inside.min(0), inside.max(0)
        return {name: (float(low[i]), float(high[i])) for i, name in enumerate(by_name(self.space.named(best)))}

    def _predicted(self, mixtures: np.ndarray) -> np.ndarray:
        """The mean of each of ``c x d`` mixtures, far above it where a guardrail does not hold, ``(c,)``."""
        return self.posterior.shunned(mixtures, self.posterior.mean(mixtures)).numpy()

    # -- what limits cost

    def limits(self) -> list[LimitPrice]:
        """The limits that hold the mixture, each with the gain of dropping it alone; dearest first.

        An empty list in a replay of logged runs, where only the mixtures logged could be recommended.
        """
        if self.problem.pool is not None:
            return []
        prices = [self._price(limit.name, self._optimum(limit.relaxed)) for limit in binding(self.problem, self.best)]
        return sorted(prices, key=lambda price: -price.cost.mean)

    def _price(self, name: str, mixture: np.ndarray) -> LimitPrice:
        worse, better = (self.best, mixture) if self.problem.sign > 0 else (mixture, self.best)
        return LimitPrice(
            name=name,
            mixture=self.space.named(mixture),
            predicted=self.posterior.prediction(mixture),
            cost=self.posterior.prediction(worse, better),
        )

    def _optimum(self, problem: Problem) -> np.ndarray:
        """The best mixture under other limits, ``(d,)``; this one is among the candidates, so it is never worse."""
        changed = problem.goal != self.problem.goal
        posterior = self.belief.posterior(problem, self.history) if changed else self.posterior
        assert posterior is not None  # fewer metrics than those that are known
        rng = self._rng(2)
        candidates = (PhasedCandidates if problem.space.phase_names else SimplexCandidates)(problem.space)
        start = np.concatenate([candidates.at_target(rng, 1024, self.history), self.best[None]])
        found: np.ndarray = candidates.best(start, posterior.score, rng)[0]
        return found

    def more_data(self) -> list[MoreData]:
        """What twice the tokens of each domain that the mixture repeats would be worth, most first.

        An empty list where the space does not say what is repeated.
        """
        space, found = self.space, list[MoreData]()
        if not space.repetition:
            return found
        often = passes(self.best[None], space.rates(space.target_scale, space.target_steps))[0]
        for domain, n in zip(space.domains, often.tolist(), strict=True):
            if n > 1 and space.token_supply[domain]:
                twice = {**space.token_supply, domain: 2 * space.token_supply[domain]}
                gain = self.posterior.gain(self.best, replace(space, token_supply=twice))
                found.append(MoreData(domain=domain, passes=n, gain=gain))
        return sorted(found, key=lambda more: -more.gain.mean)

    def guardrails(self) -> Iterator[GuardrailCheck]:
        """Whether each guardrail holds for the mixture."""
        for guard in self.posterior.guards:
            known = guard.posterior
            yield GuardrailCheck(
                name=guard.guardrail.named(moved(self.space)),
                probability=float(guard.probability(self.best[None])[0]),
                confidence=guard.guardrail.confidence,
                predicted=None if known is None else known.prediction(self.best),
                baseline=None if known is None else known.prediction(guard.baseline),
            )

    # -- which fidelities rank like the target

    def agreement(self) -> Iterator[Agreement]:
        """How each (scale, rung) ranks mixtures in comparison with the target, by ascending cost.

        Where there are many, as in a table whose scales have lengths of their own, those that were seen.

        The expected rank correlation is over random mixtures within the limits, of the models' means; the observed one
        is of the mixtures that were run at both.
        """
        space = self.space
        mixtures = space.sample(_N_RANKED, self._rng(3))
        target = self.posterior.marginal(mixtures)[0].numpy()
        seen = self._seen()
        goal = seen.get((space.target_scale, space.target_steps), {})
        cells = list(space.fidelities)
        if len(cells) > _MOST_CELLS:
            cells = [cell for cell in cells if cell in seen]
        for scale, steps in sorted(cells, key=lambda cell: space.cost(*cell)):
            here = self.posterior.at(scale, steps).marginal(mixtures)[0].numpy()
            ours, theirs = _of_the_same(seen.get((scale, steps), {}), goal)
            yield Agreement(
                scale=scale,
                steps=steps,
                cost=space.cost(scale, steps),
                runs=len(seen.get((scale, steps), {})),
                expected=float(np.mean([rank_correlation(a, b) for a, b in zip(here, target, strict=True)])),
                common=len(ours),
                observed=rank_correlation(ours, theirs) if len(ours) >= _LEAST_COMMON else None,
            )

    def _seen(self) -> dict[tuple[str, int], dict[tuple[float, ...], float]]:
        """The objective seen at each fidelity, by mixture; the mean of runs that repeat one."""
        found: dict[tuple[str, int], dict[tuple[float, ...], list[float]]] = {}
        for trial in self.history:
            for step, metrics in trial.observations.items():
                value = self.problem.value(metrics)
                if value is not None:
                    found.setdefault((trial.scale, step), {}).setdefault(trial.mixture, []).append(value)
        return {cell: {w: float(np.mean(of)) for w, of in seen.items()} for cell, seen in found.items()}

    def _rng(self, stream: int) -> np.random.Generator:
        return self.problem.rng(9, stream, len(self.history.arrivals))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two ``(n,)``; 0 where one of them is constant, of which SciPy says NaN."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def _of_the_same(
    here: Mapping[tuple[float, ...], float], there: Mapping[tuple[float, ...], float]
) -> tuple[np.ndarray, np.ndarray]:
    """The values here and there, each ``(n,)``, of the mixtures that are in both."""
    if not here or not there:
        return np.empty(0), np.empty(0)
    distance, rows = KDTree(list(there)).query(list(here), p=np.inf)
    same = distance <= SAME_SHARE
    return np.array([*here.values()])[same], np.array([*there.values()])[rows[same]]


def binding(problem: Problem, mixture: np.ndarray) -> Iterator[Limit]:
    """The limits that a mixture ``(n_shares,)`` touches."""
    if problem.space.phase_names:
        yield from _of_phases(problem, mixture)
    else:
        yield from _of_shares(problem, mixture)
    goal = problem.goal
    if goal is not None:
        for guardrail in goal.guardrails:
            rest_ = tuple(g for g in goal.guardrails if g != guardrail)
            name = guardrail.named(moved(problem.space))
            yield Limit(name=name, relaxed=problem.asking(replace(goal, guardrails=rest_)))
        if goal.closeness:
            yield Limit(name="closeness to the prior", relaxed=problem.asking(replace(goal, closeness=0.0)))


def _of_phases(problem: Problem, mixture: np.ndarray) -> Iterator[Limit]:
    """The limits on the shares of several phases, and on what all of them take of a domain."""
    space, simplex = problem.space, phased(problem.space.simplex)
    each = zip(searched(space.phases), simplex.blocks, simplex.apart(mixture[None])[0], strict=True)
    for phase, block, shares in each:
        lower, upper = (dict(zip(space.domains, of.tolist(), strict=True)) for of in (block.lower, block.upper))
        groups = space.groups if phase.groups is None else phase.groups

        def without(phase: Phase = phase, **limits: Any) -> Problem:
            changed = tuple(replace(p, **limits) if p == phase else p for p in space.phases)
            return problem.within(replace(space, phases=changed))

        for domain, share in zip(space.domains, shares, strict=True):
            name = f"{domain} in {phase.name}"
            if upper[domain] < 1 and share >= upper[domain] - _BINDING:
                relaxed = without(domains=None, upper={**upper, domain: 1.0})
                yield Limit(name=f"{name} at most {upper[domain]:.2%}", relaxed=relaxed)
            if lower[domain] > 0 and share <= lower[domain] + _BINDING:
                yield Limit(name=f"{name} at least {lower[domain]:.2%}", relaxed=without(lower={**lower, domain: 0.0}))
        for group, (members, least, most) in zip(groups, block.limits, strict=True):
            share, rest = shares[members].sum(), tuple(other for other in groups if other != group)
            if most < 1 and share >= most - _BINDING:
                yield Limit(name=f"{group.name} in {phase.name} at most {most:.2%}", relaxed=without(groups=rest))
            elif least > 0 and share <= least + _BINDING:
                yield Limit(name=f"{group.name} in {phase.name} at least {least:.2%}", relaxed=without(groups=rest))
    for domain, share, cap in zip(space.domains, simplex.mean(mixture[None])[0], simplex.caps, strict=True):
        if cap < 1 and share >= cap - _BINDING:
            name = f"{domain} at most {cap:.2%} of all phases (at most {space.max_epochs:g} epochs)"
            yield Limit(name=name, relaxed=_without_cap(problem, domain))


def _of_shares(problem: Problem, mixture: np.ndarray) -> Iterator[Limit]:
    """The limits on the shares of one mixture."""
    space = problem.space
    for i, domain in enumerate(space.domains):
        upper, lower = space.simplex.upper[i], space.simplex.lower[i]
        if upper < 1 and mixture[i] >= upper - _BINDING:
            epochs = "" if space.upper.get(domain, 1.0) <= upper else f" (at most {space.max_epochs:g} epochs)"
            yield Limit(name=f"{domain} at most {upper:.2%}{epochs}", relaxed=_without_cap(problem, domain))
        if lower > 0 and mixture[i] <= lower + _BINDING:
            rest = {name: share for name, share in space.lower.items() if name != domain}
            relaxed = problem.within(replace(space, lower=rest))
            yield Limit(name=f"{domain} at least {lower:.2%}", relaxed=relaxed)
    for group in space.groups:
        share = sum(mixture[space.domains.index(domain)] for domain in group.domains)
        relaxed = problem.within(replace(space, groups=tuple(g for g in space.groups if g != group)))
        if group.most < 1 and share >= group.most - _BINDING:
            yield Limit(name=f"{group.name} at most {group.most:.2%}", relaxed=relaxed)
        elif group.least > 0 and share <= group.least + _BINDING:
            yield Limit(name=f"{group.name} at least {group.least:.2%}", relaxed=relaxed)


def unlimited(problem: Problem) -> Problem:
    """The problem without any limit, guardrail or prior."""
    if problem.goal is not None:
        problem = problem.asking(replace(problem.goal, guardrails=(), closeness=0.0))
    # The supply still says what "proportional" is; without the target's tokens it caps nothing.
    phases = tuple(Phase(phase.name, phase.fraction, mixture=phase.mixture) for phase in problem.space.phases)
    free = replace(problem.space, lower={}, upper={}, groups=(), phases=phases, repetition=None)
    return problem.within(replace(free, target_tokens=None, max_epochs=1.0))


def _without_cap(problem: Problem, domain: str) -> Problem:
    space = problem.space
    upper = {name: share for name, share in space.upper.items() if name != domain}
    if space.target_tokens is None:
        return problem.within(replace(space, upper=upper))
    # A supply that caps nothing, and still says what "proportional" is for the others.
    plenty = max(space.token_supply.get(domain, 0.0), space.target_tokens / space.max_epochs)
    supply: Mapping[str, float] = dict(space.token_supply) | {domain: plenty}
    return problem.within(replace(space, upper=upper, token_supply=supply))
