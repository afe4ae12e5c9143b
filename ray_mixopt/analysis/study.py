"""A search, and all that a report shows of it, computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ray_mixopt.analysis.curves import LearningCurve, curves
from ray_mixopt.analysis.final import FinalRun
from ray_mixopt.analysis.landscape import Residuals, Slice, Surface, half_widths, level, slices, surfaces
from ray_mixopt.analysis.ledger import Ledger
from ray_mixopt.analysis.order import Move, moves
from ray_mixopt.analysis.pareto import TradeOff, pareto_front
from ray_mixopt.analysis.result import Course
from ray_mixopt.analysis.trajectory import sensible_points, trajectory
from ray_mixopt.core.details import Reordered
from ray_mixopt.core.forecast import NORMAL_95, Prediction
from ray_mixopt.core.history import Trial
from ray_mixopt.core.objective import Mode, Objective
from ray_mixopt.core.phases import searched
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.words import by_phase, fidelity
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.strategies.hindsight import Hidden, hidden
from ray_mixopt.surrogate.posterior import ObjectivePosterior

N_POINTS = 16  # of the way there, fewer where each takes long
_SETTLED, _DOUBTFUL = 0.95, 0.8  # probability of being better than a baseline


@dataclass(frozen=True, kw_only=True)
class Waypoint:
    """What was recommended when part of the money was spent.

    Attributes:
        cost: spent by then, in full runs at the target.
        mixture: recommended then, by domain, or by phase and domain.
        then: what was predicted for it; None where nothing was.
        now: what is predicted for it with all that is known in the end; None where nothing is.
    """

    cost: float
    mixture: dict[str, Any]
    then: Prediction | None
    now: Prediction | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The recommended mixture against a baseline.

    Attributes:
        name: of the baseline.
        predicted: the baseline's objective at the target.
        probability: that the recommended mixture is better; None where it is the same one.
    """

    name: str
    predicted: Prediction
    probability: float | None

    @property
    def settled(self) -> bool:
        """Whether the recommended mixture is as good as certainly better."""
        return self.probability is not None and self.probability >= _SETTLED

    @property
    def doubtful(self) -> bool:
        """Whether it may well not be better."""
        return self.probability is not None and self.probability < _DOUBTFUL


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """``n`` reports of one metric as predicted from all other runs, in the metric's unit.

    Attributes:
        metric: its name.
        observed: what was reported, ``(n,)``.
        predicted: what the other runs predict, ``(n,)``.
        half: half the width of the 95% interval of the prediction, ``(n,)``.
        scales: the scale of each run, ``n`` names.
        runs: the name of each.
    """

    metric: str
    observed: np.ndarray
    predicted: np.ndarray
    half: np.ndarray
    scales: tuple[str, ...]
    runs: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Share of the reports inside their 95% interval."""
        return float((np.abs(self.observed - self.predicted) <= self.half).mean())


@dataclass(frozen=True, kw_only=True)
class Front:
    """The best trade-offs between two metrics at the target, and where known mixtures lie.

    Attributes:
        metrics: names of the two metrics.
        modes: "min" or "max" for each.
        points: the mixtures that no other is predicted to beat in both, best of the first metric first.
        marks: expected metrics of the recommended and of the uniform mixture, by name.
    """

    metrics: tuple[str, str]
    modes: tuple[Mode, Mode]
    points: list[TradeOff]
    marks: dict[str, tuple[float, float]]


class Study:
    """What a report is about.

    Args:
        optimizer: the search; it is not changed, and must not change while the study is in use.
        name: what it is called.
        tick: called before each slow step with what it is about.
        course: the truth, where the search was a replay; it counts if domains and objective are those of the replay.
        final: the run at the target that followed the search, if there was one.
    """

    def __init__(
        self,
        optimizer: MixtureOptimizer,
        name: str,
        tick: Callable[[str], None] = lambda what: None,
        course: Course | None = None,
        final: FinalRun | None = None,
    ) -> None:
        self.optimizer, self.name, self.tick = optimizer, name, tick
        self.problem, self.history = optimizer.problem, optimizer.history
        self.space: MixtureSpace = optimizer.space
        self.ledger = Ledger(self.history)
        self.final = final
        self.course = course if course is not None and course.fits(self.problem) else None

    @property
    def objective_name(self) -> str:
        """The objective in a few words."""
        goal = self.problem.goal
        weights = self.problem.weights if goal is None else goal.weights
        if len(weights) == 1 and (goal is None or goal.relative_to is None):
            return next(iter(weights))
        parts = [f"{weight:g} {metric}" for metric, weight in self.problem.weights.items()]
        text = " + ".join(parts).replace("+ -", "- ")
        return text if len(text) <= 60 else f"objective of {len(parts)} metrics"

    @property
    def target_name(self) -> str:
        """The target in a few words."""
        return fidelity(self.space.target_scale, self.space.target_steps)

    def full_runs(self, cost: float) -> float:
        """A cost, given in the space's unit, in full runs at the target."""
        return cost / self.space.target_cost

    # -- the answer

    @cached_property
    def posterior(self) -> ObjectivePosterior | None:
        """What is known of the objective at the target; None while a metric has fewer than two values."""
        return self.optimizer.posterior()

    @cached_property
    def recommendation(self) -> Recommendation:
        """The search's answer, with its details."""
        self.tick("What is recommended, and how sure that is")
        return self.optimizer.recommend(details=True)

    @cached_property
    def best(self) -> np.ndarray:
        """The recommended mixture, ``(n_shares,)``."""
        return self.space.mixture(self.recommendation.mixture)

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """The recommended shares by phase that is searched, and domain; by no name where a run has no phases."""
        each = by_phase(self.recommendation.mixture)
        names = [phase.name for phase in searched(self.space.phases)] or [""]
        return {name: dict(of) for name, of in zip(names, each.values(), strict=True)}

    @cached_property
    def beside(self) -> dict[str, np.ndarray]:
        """The mixtures that it stands beside, ``(n_shares,)``, by name: the baselines, and phases trained already."""
        found = dict(self.problem.baselines())
        for phase in self.space.phases:
            if phase.mixture is not None:
                trained = self.space.mixture({name: phase.mixture.get(name, 0.0) for name in self.space.domains})
                if not any(same_mixture(trained, other) for other in found.values()):
                    found[f"{phase.name}, trained already"] = trained
        return found

    def is_tied(self, mixture: np.ndarray) -> bool:
        """Whether a mixture, ``(n_shares,)``, is the same in all phases that are searched."""
        each = self.space.simplex.apart(mixture[None])[0]
        return bool(same_mixture(each, each[:1]).all())

    @property
    def comparisons(self) -> list[Comparison]:
        """The recommended mixture against each baseline; an empty list while nothing is predicted."""
        answer = self.recommendation
        baselines = {"uniform": answer.uniform, "proportional": answer.proportional, "reference": answer.reference}
        return [
            Comparison(name=name, predicted=predicted, probability=answer.probability_better.get(name))
            for name, predicted in baselines.items()
            if predicted is not None
        ]

    @cached_property
    def way(self) -> list[Waypoint]:
        """What would have been recommended on the way, by cost; an empty list where nothing was paid."""
        self.tick("What would have been recommended on the way")
        known = self.posterior
        return [
            Waypoint(
                cost=self.full_runs(answer.spent),
                mixture=answer.mixture,
                then=answer.predicted,
                now=None if known is None else known.prediction(self.space.mixture(answer.mixture)),
            )
            for answer in trajectory(self.optimizer, sensible_points(self.optimizer, N_POINTS))
        ]

    # -- how far to trust it

    @cached_property
    def left_out(self) -> list[LeftOut]:
        """The reports of each metric that its model holds, each run predicted from all the others.

        An empty list while there is no model.
        """
        if self.posterior is None:
            return []
        self.tick("Every run as predicted from the others")
        found = []
        belief = self.optimizer.belief
        seen = belief.data(self.problem, self.history)
        for (metric, values), model in zip(seen.items(), self.posterior.models, strict=True):
            data = belief.used(values)
            rows: dict[str, list[int]] = {}
            for row, run in enumerate(data.runs):
                rows.setdefault(run, []).append(row)
            errors, variances = np.zeros(len(data.y)), np.zeros(len(data.y))
            for group in rows.values():
                error, variance = model.leave_out(group)
                errors[group], variances[group] = error.numpy(), variance.numpy()
            unit = model.standardise.spread
            observed = data.y.numpy()
            found.append(
                LeftOut(
                    metric=metric,
                    observed=observed,
                    predicted=observed - unit * errors,
                    half=NORMAL_95 * unit * np.sqrt(variances),
                    scales=tuple(self.history[run].scale for run in data.runs),
                    runs=data.runs,
                )
            )
        return found

    @cached_property
    def hidden(self) -> Hidden | None:
        """The largest runs as predicted from the smaller ones; None where there are too few to say."""
        if self.posterior is None:
            return None
        return hidden(self.problem, self.history, self.optimizer.belief)

    def curves(self, metric: str) -> list[LearningCurve]:
        """What runs of each scale reported of a metric, and the law fitted to all of them, through the same runs."""
        known = self.metric(metric) if metric in self.history.metrics else None
        return curves(self.history, metric, self.mode(metric), known)

    # -- what matters

    @cached_property
    def slices(self) -> list[Slice]:
        """The prediction along each domain, through the recommended mixture; an empty list while nothing is known."""
        known = self.posterior
        return [] if known is None or self.residuals is None else slices(known, self.best, self.residuals)

    def half_widths(self, line: Slice | Move) -> tuple[np.ndarray, np.ndarray]:
        """Half the widths of the 95% intervals along a slice, of the value and of what is apart from the answer's."""
        assert self.posterior is not None  # without which there is no slice
        return half_widths(self.posterior, self.best, line.mixtures)

    @cached_property
    def moves(self) -> list[Move]:
        """The prediction along each domain's share in each later phase; an empty list where order says nothing."""
        return [] if self.posterior is None or not self.space.phase_names else moves(self.posterior, self.best)

    @property
    def reordered(self) -> tuple[Reordered, ...]:
        """The recommended data in other orders; an empty tuple where nothing is known, or all phases are the same."""
        details = self.recommendation.details
        return () if details is None else details.reordered

    @cached_property
    def surfaces(self) -> list[Surface]:
        """The prediction over several shares at once; an empty list while nothing is known, or for two domains."""
        return [] if self.posterior is None else surfaces(self.posterior, self.best, self.slices)

    @cached_property
    def residuals(self) -> Residuals | None:
        """The objective in the last report of every run that has all metrics there, against its prediction.

        None while nothing is known.
        """
        posterior = self.posterior
        if posterior is None:
            return None
        cells: dict[tuple[str, int], list[Trial]] = {}
        for trial in self.history:
            if self.problem.value(trial.observations.get(trial.reached, {})) is not None:
                cells.setdefault((trial.scale, trial.reached), []).append(trial)
        goal = self.problem.goal
        relative = goal is not None and goal.relative_to is not None
        weights = _weights(posterior, self.problem.weights) if relative else self.problem.weights
        mixtures, values = [np.empty((0, self.space.n_shares))], [np.empty(0)]
        runs: list[tuple[str, str, int]] = []
        for cell, trials in cells.items():
            mixtures.append(np.array([trial.mixture for trial in trials]))
            seen = [sum(w * trial.observations[trial.reached][m] for m, w in weights.items()) for trial in trials]
            values.append(np.array(seen) - level(posterior.at(*cell), mixtures[-1]))
            runs += [(trial.trial_id, *cell) for trial in trials]
        target = self.space.target_scale, self.space.target_steps
        return Residuals(
            mixtures=np.concatenate(mixtures),
            values=np.concatenate(values),
            at_target=np.array([(scale, step) == target for _, scale, step in runs], dtype=bool),
            runs=tuple(runs),
        )

    @cached_property
    def front(self) -> Front | None:
        """The front between the two metrics of largest weight; None where the objective has only one metric.

        The second may be that of a guardrail.
        """
        goal: Objective | None = self.problem.goal
        weights = self.problem.weights if goal is None else goal.weights
        names = sorted(weights, key=lambda metric: -abs(weights[metric]))[:2]
        if goal is not None and len(names) == 1 and goal.guardrails:
            names.append(goal.guardrails[0].metric)
        if len(names) < 2 or not set(names) <= set(self.history.metrics):
            return None
        self.tick("The best trade-offs between two metrics")
        a, b = names
        points = pareto_front(
            self.problem, self.history, {name: self.mode(name) for name in names}, self.optimizer.belief
        )
        first, second = (self.metric(name) for name in names) if points else (None, None)
        marks = {"recommended": self.best, "uniform": self.space.uniform()}
        return Front(
            metrics=(a, b),
            modes=(self.mode(a), self.mode(b)),
            points=points,
            marks={
                name: (first.prediction(mixture).mean, second.prediction(mixture).mean)
                for name, mixture in marks.items()
                if first is not None and second is not None
            },
        )

    def metric(self, name: str) -> ObjectivePosterior | None:
        """What is known of one metric alone; None while it has fewer than two values."""
        alone = self.problem.asking({name: 1.0}, self.mode(name))
        return self.optimizer.belief.posterior(alone, self.history)

    def mode(self, metric: str) -> Mode:
        """The direction in which a metric is better."""
        goal = self.problem.goal
        for guardrail in () if goal is None else goal.guardrails:
            if guardrail.metric == metric and metric not in self.problem.weights:
                return guardrail.mode
        return "min" if self.problem.sign * self.problem.weights.get(metric, 1.0) > 0 else "max"


def _weights(posterior: ObjectivePosterior, objective: Mapping[str, float]) -> dict[str, float]:
    """The weights in the objective's own direction, normalisation included."""
    pairs = zip(objective, posterior.weights, posterior.models, strict=True)
    return {m: posterior.sign * w / s.standardise.spread for m, w, s in pairs}
