"""A benchmark problem: what a method may see of it, and the exact truth that it may not.

Notation: ``n`` mixtures of ``d`` domains. A *loss* is the objective, signed so that less is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from ray_mixopt.analysis.truth import SAMPLES, dense_minimiser
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.problem import Mode
from ray_mixopt.core.space import MixtureSpace

TARGET_RUNS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)  # costs at which problems are scored, in target runs
UNKNOWN_REGRET = 1.0  # of a mixture that was never measured at the target: as if drawn at random


class Source(Protocol):
    """Where metrics come from: a simulator, a table of logged runs, a landscape."""

    @property
    def space(self) -> MixtureSpace:
        """Domains, scales and rungs."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        ...

    def evaluate(self, mixtures: np.ndarray, scale: str, steps: int) -> np.ndarray:
        """Metrics of ``n x d`` mixtures without noise, ``n x n_metrics``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a method is told: everything but the truth.

    Args:
        space: the search space.
        mode: whether the objective is minimised or maximised.
        objective: weight of each metric in the objective.
        budget: most that may be spent, in the space's cost unit.
        seed: of the method's own draws.
        pool: the only runs that exist, when logged runs are replayed.
        any_steps: whether runs may stop and report at any step up to the last rung, not only at the space's rungs.
    """

    space: MixtureSpace
    mode: Mode
    objective: Mapping[str, float]
    budget: float
    seed: int
    pool: Pool | None = None
    any_steps: bool = True

    def loss(self, metrics: Mapping[str, float]) -> float | None:
        """The objective of a report, signed so that less is better; None where a metric is missing."""
        if not set(self.objective) <= set(metrics):
            return None
        total = math.fsum(weight * metrics[name] for name, weight in self.objective.items())
        return total if self.mode == "min" else -total

    def with_rungs(self, steps: Sequence[int]) -> Task:
        """The same task with other rungs, at which runs may stop and report; the target stays."""
        return replace(self, space=replace(self.space, steps=tuple(sorted({*steps, self.space.target_steps}))))


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A search problem with a known truth.

    Args:
        name: how it is asked for.
        id: ``name`` with the source spelt out: results with the same id are about the same problem.
        group: problems that are averaged in one table.
        source: knows the metrics.
        space: the search space; its target is where regret is measured.
        mode: whether the objective is minimised or maximised.
        objective: weight of each metric in the objective.
        cost_unit: what a cost of 1 means.
        noise: standard deviation of an observed metric's Gaussian noise, as a share of that metric's standard deviation
            over Dirichlet(1) mixtures at the target. Independent across metrics, rungs and runs.
        noise_factor: what that standard deviation is multiplied with, a function of ``n x d`` mixtures.
        failures: probability that a run fails before it gets where it was asked to.
        pool: the only runs that exist, for tables of logged runs.
        optimum: the best mixture ``(d,)`` where it is known by construction; searched for otherwise.
        score_costs: costs at which the problem is scored; ``TARGET_RUNS`` by default.
    """

    name: str
    id: str
    group: str
    source: Source
    space: MixtureSpace
    mode: Mode
    objective: Mapping[str, float]
    cost_unit: str
    noise: float = 0.0
    noise_factor: Callable[[np.ndarray], np.ndarray] | None = None
    failures: float = 0.0
    pool: Pool | None = None
    optimum: np.ndarray | None = None
    score_costs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.objective) - set(self.source.metrics))
        if unknown:
            raise ValueError(f"Problem {self.name!r} has no metrics {unknown}: use {', '.join(self.source.metrics)}.")
        if not 0 <= self.noise < math.inf or not 0 <= self.failures < 1:
            raise ValueError(
                f"noise must be >= 0 and failures in [0, 1), got {self.noise!r} and {self.failures!r} in {self.name!r}."
            )
        if not self.score_costs:
            object.__setattr__(self, "score_costs", tuple(n * self.space.target_cost for n in TARGET_RUNS))

    def task(self, budget: float, seed: int) -> Task:
        """What a method is told."""
        return Task(
            space=self.space,
            mode=self.mode,
            objective=self.objective,
            budget=budget,
            seed=seed,
            pool=self.pool,
            any_steps=self.pool is None,
        )

    # -- what a method sees

    def logged(self, mixture: np.ndarray, scale: str, steps: int) -> bool:
        """Whether that run of a mixture ``(d,)`` exists; always, where there is no pool."""
        return self.pool is None or self.pool.has(mixture, scale, steps)

    def observe(self, mixture: np.ndarray, scale: str, steps: int, seed: Sequence[int]) -> dict[str, float]:
        """What a run of the mixture ``(d,)`` reports at a step, by metric; metrics never measured are left out.

        The noise is a pure function of ``seed``, the scale and the step: another seed gives a replicate.
        """
        values = self.source.evaluate(mixture[None], scale, steps)[0]
        if self.noise > 0:
            rng = np.random.default_rng([*seed, self.space.scale_names.index(scale), steps])
            factor = 1.0 if self.noise_factor is None else float(self.noise_factor(mixture[None])[0])
            values = values + self.noise * factor * self.spread * rng.standard_normal(len(values))
        return {name: v for name, v in zip(self.source.metrics, values.tolist(), strict=True) if not math.isnan(v)}

    # -- the truth

    def losses(self, mixtures: np.ndarray) -> np.ndarray:
        """The loss of ``n x d`` mixtures at the target without noise, ``(n,)``."""
        columns = [self.source.metrics.index(name) for name in self.objective]
        values = self.source.evaluate(mixtures, self.space.target_scale, self.space.target_steps)[:, columns]
        losses: np.ndarray = values @ np.array(list(self.objective.values()))
        return losses if self.mode == "min" else -losses

    def regret(self, mixture: np.ndarray) -> float:
        """Normalised regret of a mixture ``(d,)`` at the target: 0 is the best mixture, 1 the median random one.

        A mixture that was never measured at the target counts as ``UNKNOWN_REGRET``.
        """
        if not self.logged(mixture, self.space.target_scale, self.space.target_steps):
            return UNKNOWN_REGRET
        best, median = self.landmarks
        loss = float(self.losses(mixture[None])[0])
        return UNKNOWN_REGRET if math.isnan(loss) else (loss - best) / (median - best)

    @cached_property
    def landmarks(self) -> tuple[float, float]:
        """Loss of the best mixture and the median over Dirichlet(1), or both over those logged at the target."""
        if self.pool is not None:
            losses = self.losses(self.pool.logged_at(self.space.target_scale, self.space.target_steps))
            return float(np.nanmin(losses)), float(np.nanmedian(losses))
        median = float(np.median(self.losses(self.space.sample(SAMPLES, np.random.default_rng(0)))))
        optimum = dense_minimiser(self.losses, self.space) if self.optimum is None else self.optimum
        return float(self.losses(optimum[None])[0]), median

    @cached_property
    def spread(self) -> np.ndarray:
        """Standard deviation of each metric over Dirichlet(1) mixtures at the target, ``(n_metrics,)``."""
        return spread(self.source, self.space)


def spread(source: Source, space: MixtureSpace) -> np.ndarray:
    """Standard deviation of each metric over Dirichlet(1) mixtures at a space's target, ``(n_metrics,)``."""
    mixtures = space.sample(50_000, np.random.default_rng(2))
    deviations: np.ndarray = source.evaluate(mixtures, space.target_scale, space.target_steps).std(axis=0)
    return deviations
