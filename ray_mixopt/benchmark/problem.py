"""A benchmark problem: its name, what a method may see of it, and the exact truth that it may not.

Names have the form ``family/objective[@scale[:steps]][+noise[=share]][+failures[=rate]]``, for instance
``slimpajama/val_loss/c4``, ``slimpajama/sum/losses@300M+noise``, ``regmix/loss``,
``synthetic/mixing_law+failures=0.1``.

Notation: ``n`` mixtures of ``d`` domains. A *loss* is the objective, signed so that less is better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ray_mixopt.analysis.truth import Oracle, Truth
from ray_mixopt.core.objective import Mode
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.space import MixtureSpace

NOISE, FAILURES = 0.01, 0.1  # what "+noise" and "+failures" mean without a number
TARGET_RUNS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)  # costs at which problems are scored, in target runs
UNKNOWN_REGRET = 1.0  # of a mixture that was never measured at the target: as if drawn at random

_NAME = re.compile(r"(?P<family>[a-z]+)/(?P<objective>[^@+]+)(@(?P<target>[^+]+))?(?P<options>(\+[^+]+)*)")


@dataclass(frozen=True, kw_only=True)
class ProblemName:
    """A name, taken apart.

    Args:
        text: the whole name.
        family: which family of problems.
        objective: which member of it.
        target: scale, and steps or None for the family's own; None for the family's own target.
        noise: of observed metrics, as a share of each metric's standard deviation over mixtures at the target.
        failures: probability that a run fails.
    """

    text: str
    family: str
    objective: str
    target: tuple[str, int | None] | None = None
    noise: float = 0.0
    failures: float = 0.0

    @classmethod
    def parse(cls, text: str) -> ProblemName:
        """Takes a name apart.

        Raises:
            ValueError: if it is not of the form above.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} names no problem: the form is family/objective[@scale[:steps]][+noise[=share]]"
                "[+failures[=rate]], for instance slimpajama/val_loss/c4@300M+noise."
            )
        target: tuple[str, int | None] | None = None
        if match["target"] is not None:
            scale, _, steps = match["target"].partition(":")
            if steps and not steps.isdecimal():
                raise ValueError(f"The steps {steps!r} in {text!r} are not a whole number.")
            target = scale, int(steps) if steps else None
        options = {"noise": 0.0, "failures": 0.0}
        for option in match["options"].split("+")[1:]:
            key, _, number = option.partition("=")
            if key not in options:
                raise ValueError(f"Unknown option +{option} in {text!r}: use +noise[=share] or +failures[=rate].")
            try:
                options[key] = float(number) if number else {"noise": NOISE, "failures": FAILURES}[key]
            except ValueError:
                raise ValueError(f"{number!r} in {text!r} is not a number.") from None
        return cls(text=text, family=match["family"], objective=match["objective"], target=target, **options)

    def identity(self, family: str, objective: str | None = None) -> str:
        """The name in full, under another family (and objective)."""
        target = "" if self.target is None else "@" + ":".join(str(part) for part in self.target if part is not None)
        options = (("noise", self.noise), ("failures", self.failures))
        rest = "".join(f"+{key}={value:g}" for key, value in options if value > 0)
        return f"{family}/{objective or self.objective}{target}{rest}"


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
class BenchmarkProblem:
    """A search problem with a known truth.

    Args:
        name: how it is asked for.
        id: ``name`` with the source spelt out: results with the same id are about the same problem.
        group: problems that are averaged in one table.
        oracle: knows the metrics; the target of its space is where regret is measured.
        mode: whether the objective is minimised or maximised.
        objective: weight of each metric in the objective.
        cost_unit: what a cost of 1 means.
        noise: standard deviation of an observed metric's Gaussian noise, as a share of that metric's standard deviation
            over Dirichlet(1) mixtures at the target. Independent across metrics, rungs and runs.
        noise_factor: what that standard deviation is multiplied with, a function of ``n x d`` mixtures.
        failures: probability that a run fails before it gets where it was asked to.
        optimum: the best mixture ``(d,)`` where it is known by construction; searched for otherwise.
        score_costs: costs at which the problem is scored; ``TARGET_RUNS`` by default.
    """

    name: str
    id: str
    group: str
    oracle: Oracle
    mode: Mode
    objective: Mapping[str, float]
    cost_unit: str
    noise: float = 0.0
    noise_factor: Callable[[np.ndarray], np.ndarray] | None = None
    failures: float = 0.0
    optimum: np.ndarray | None = None
    score_costs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.objective) - set(self.oracle.metrics))
        if unknown:
            raise ValueError(f"Problem {self.name!r} has no metrics {unknown}: use {', '.join(self.oracle.metrics)}.")
        if not 0 <= self.noise < math.inf or not 0 <= self.failures < 1:
            raise ValueError(
                f"noise must be >= 0 and failures in [0, 1), got {self.noise!r} and {self.failures!r} in {self.name!r}."
            )
        if not self.score_costs:
            object.__setattr__(self, "score_costs", tuple(n * self.space.target_cost for n in TARGET_RUNS))

    @property
    def space(self) -> MixtureSpace:
        """The search space."""
        return self.oracle.space

    @property
    def pool(self) -> Pool | None:
        """The only runs that exist, where they are logged ones."""
        return self.oracle.pool

    def task(self, budget: float, seed: int) -> Task:
        """What a method is told that may spend ``budget``, in the space's cost unit, and draws from ``seed``."""
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
        values = self.oracle.evaluate(mixture[None], scale, steps)[0]
        if self.noise > 0:
            rng = np.random.default_rng([*seed, self.space.scale_names.index(scale), steps])
            factor = 1.0 if self.noise_factor is None else float(self.noise_factor(mixture[None])[0])
            values = values + self.noise * factor * self.spread * rng.standard_normal(len(values))
        return {name: v for name, v in zip(self.oracle.metrics, values.tolist(), strict=True) if not math.isnan(v)}

    # -- the truth

    @cached_property
    def truth(self) -> Truth:
        """The objective at the target without noise, and regrets where they are known."""
        return Truth(self.oracle, self.objective, self.mode, optimum=self.optimum)

    def regret(self, mixture: np.ndarray) -> float:
        """Normalised regret of a mixture ``(d,)`` at the target: 0 is the best mixture, 1 the median random one.

        A mixture that was never measured at the target counts as ``UNKNOWN_REGRET``.
        """
        regret = self.truth.regret(mixture)
        return UNKNOWN_REGRET if regret is None else regret

    @cached_property
    def spread(self) -> np.ndarray:
        """Standard deviation of each metric over Dirichlet(1) mixtures at the target, ``(n_metrics,)``."""
        return spread(self.oracle, self.space)


def spread(oracle: Oracle, space: MixtureSpace) -> np.ndarray:
    """Standard deviation of each metric over Dirichlet(1) mixtures at a space's target, ``(n_metrics,)``."""
    mixtures = space.sample(50_000, np.random.default_rng(2))
    deviations: np.ndarray = oracle.evaluate(mixtures, space.target_scale, space.target_steps).std(axis=0)
    return deviations
