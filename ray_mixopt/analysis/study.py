"""A search, and all that a report shows of it, computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ray_mixopt.analysis.details import Analysis
from ray_mixopt.analysis.pareto import TradeOff, pareto_front
from ray_mixopt.analysis.trajectory import trajectory
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.objective import Mode, Objective
from ray_mixopt.core.recommendation import Prediction, Recommendation
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.surrogate.encoding import observations
from ray_mixopt.surrogate.posterior import ObjectivePosterior

N_POINTS = 16  # of the way there


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Reports of one metric as predicted from all other runs, each ``(n,)``."""

    metric: str
    observed: np.ndarray
    predicted: np.ndarray
    deviation: np.ndarray
    scales: tuple[str, ...]

    @property
    def inside(self) -> np.ndarray:
        """Which ones lie inside their 95% interval."""
        return np.abs(self.observed - self.predicted) <= 1.96 * self.deviation


@dataclass(frozen=True, kw_only=True)
class Residual:
    """By how much a run's objective differs from what is predicted there."""

    mixture: np.ndarray  # (d,)
    value: float
    at_target: bool


class Study:
    """What a report is about.

    Args:
        optimizer: the search; it is not changed.
        name: what it is called.
        tick: called before each slow step with what it is about.
    """

    def __init__(self, optimizer: MixtureOptimizer, name: str, tick: Callable[[str], None] = lambda what: None) -> None:
        self.optimizer, self.name, self.tick = optimizer, name, tick
        self.problem, self.history = optimizer.problem, optimizer.history
        self.space: MixtureSpace = optimizer.space
        self.analysis = Analysis(self.problem, self.history)

    @property
    def posterior(self) -> ObjectivePosterior | None:
        """The surrogate of the objective."""
        return self.analysis.posterior

    @cached_property
    def recommendation(self) -> Recommendation:
        """With its details."""
        self.tick("What is recommended, and how sure that is")
        return self.optimizer.recommend(details=True)

    @cached_property
    def best(self) -> np.ndarray:
        """The recommended mixture, ``(d,)``."""
        return self.space.mixture(self.recommendation.mixture)

    @cached_property
    def way(self) -> list[Recommendation]:
        """What would have been recommended on the way; empty where nothing was paid."""
        self.tick("What would have been recommended on the way")
        return trajectory(self.optimizer, N_POINTS)

    @property
    def objective_name(self) -> str:
        """The objective in a few words."""
        goal = self.problem.goal
        weights = self.problem.objective if goal is None else goal.weights
        if len(weights) == 1 and (goal is None or goal.relative_to is None):
            return next(iter(weights))
        parts = [f"{weight:g} {metric}" for metric, weight in self.problem.objective.items()]
        text = " + ".join(parts).replace("+ -", "- ")
        return text if len(text) <= 60 else f"objective of {len(parts)} metrics"

    def full_runs(self, cost: float) -> float:
        """A cost in full runs at the target."""
        return cost / self.space.target_cost

    def hindsight(self, mixture: dict[str, float]) -> Prediction | None:
        """What is predicted for a mixture with all that is known now."""
        return None if self.posterior is None else self.posterior.prediction(self.space.mixture(mixture))

    @cached_property
    def left_out(self) -> list[LeftOut]:
        """Every metric's reports, each run predicted from all the others."""
        if self.posterior is None:
            return []
        self.tick("Every run as predicted from the others")
        found = []
        for (metric, weight), surrogate in zip(self.problem.objective.items(), self.posterior.surrogates, strict=True):
            data = observations(self.space, self.history, metric, worst=self.problem.sign * weight)
            rows: dict[str, list[int]] = {}
            for row, run in enumerate(data.runs):
                rows.setdefault(run, []).append(row)
            errors, variances = np.zeros(len(data.y)), np.zeros(len(data.y))
            for group in rows.values():
                error, variance = surrogate.leave_out(group)
                errors[group], variances[group] = error.numpy(), variance.numpy()
            unit = surrogate.standardisation.spread
            observed = data.y.numpy()
            found.append(
                LeftOut(
                    metric=metric,
                    observed=observed,
                    predicted=observed - unit * errors,
                    deviation=unit * np.sqrt(variances),
                    scales=tuple(self.history[run].scale for run in data.runs),
                )
            )
        return found

    @cached_property
    def residuals(self) -> list[Residual]:
        """The objective in the last report of every run, against its prediction there."""
        if self.posterior is None:
            return []
        weights = _weights(self.posterior, self.problem.objective)
        cells: dict[tuple[str, int], list[Trial]] = {}
        for trial in self.history:
            if self.problem.value(trial.observations.get(trial.reached, {})) is not None:
                cells.setdefault((trial.scale, trial.reached), []).append(trial)
        found = []
        for cell, trials in cells.items():
            mixtures = np.array([trial.mixture for trial in trials])
            there = self.posterior.at(*cell)
            penalty = there.penalty(mixtures).numpy()
            predicted = self.problem.sign * (there.mean(mixtures).numpy() - penalty)
            for trial, mixture, value in zip(trials, mixtures, predicted, strict=True):
                seen = sum(weight * trial.observations[trial.reached][m] for m, weight in weights.items())
                at_target = cell == (self.space.target_scale, self.space.target_steps)
                found.append(Residual(mixture=mixture, value=float(seen - value), at_target=at_target))
        return found

    @cached_property
    def front(self) -> tuple[tuple[str, str], list[TradeOff]] | None:
        """The two metrics of largest weight and the front between them; None where the objective has only one."""
        goal: Objective | None = self.problem.goal
        weights = self.problem.objective if goal is None else goal.weights
        names = sorted(weights, key=lambda metric: -abs(weights[metric]))[:2]
        if goal is not None and len(names) == 1 and goal.guardrails:
            names.append(goal.guardrails[0].metric)
        if len(names) < 2 or not set(names) <= set(self.history.metrics):
            return None
        self.tick("The best trade-offs between two metrics")
        return (names[0], names[1]), pareto_front(self.problem, self.history, {m: self.mode(m) for m in names})

    def metric(self, name: str) -> ObjectivePosterior:
        """What is known of one metric alone, which was observed twice or more."""
        alone = replace(self.problem, mode=self.mode(name), objective={name: 1.0}, goal=None)
        posterior = Analysis(alone, self.history).posterior
        assert posterior is not None
        return posterior

    def mode(self, metric: str) -> Mode:
        """The direction in which a metric is better."""
        goal = self.problem.goal
        for guardrail in () if goal is None else goal.guardrails:
            if guardrail.metric == metric and metric not in self.problem.objective:
                return guardrail.mode
        return "min" if self.problem.sign * self.problem.objective.get(metric, 1.0) > 0 else "max"

    def slices(self, n: int = 41) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """For each domain: its shares ``(n,)`` and the mixtures ``n x d`` that keep the proportions of the others."""
        for i, domain in enumerate(self.space.domains):
            shares = np.linspace(0, 1, n)
            rest = np.delete(self.best, i)
            rest = rest / rest.sum() if rest.sum() > 1e-9 else np.full(len(rest), 1 / len(rest))
            mixtures = np.insert((1 - shares)[:, None] * rest, i, shares, axis=1)
            yield domain, shares, mixtures


def _weights(posterior: ObjectivePosterior, objective: Mapping[str, float]) -> dict[str, float]:
    """The weights in the objective's own direction, normalisation included."""
    pairs = zip(objective, posterior.weights, posterior.surrogates, strict=True)
    return {m: posterior.sign * w / s.standardisation.spread for m, w, s in pairs}


def history_by_status(history: History) -> dict[str, int]:
    """Number of runs in each status, given ones apart."""
    counts: dict[str, int] = {}
    for trial in history:
        key = "given" if trial.evaluated else trial.status
        counts[key] = counts.get(key, 0) + 1
    return counts
