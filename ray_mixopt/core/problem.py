"""What is searched, for what, and with which money: space, settings and logged runs, checked together."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ray_mixopt.core.baselines import resolve
from ray_mixopt.core.branches import Trunks, borders, cost_of, price
from ray_mixopt.core.chance import chance_of
from ray_mixopt.core.history import History
from ray_mixopt.core.objective import Mode, Objective
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.safety import is_finite
from ray_mixopt.core.settings import SINGLE, Settings
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.core.trial import Branch, Trial
from ray_mixopt.core.words import amount, fidelity, listed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a strategy is to solve: a space, the settings, and the runs that exist if not all do.

    Args:
        space: the search space.
        settings: what for, how, and for how much.
        pool: the only runs that exist, when a table of logged runs is replayed.

    Raises:
        ValueError: if the settings or the pool do not fit the space.
    """

    space: MixtureSpace
    settings: Settings
    pool: Pool | None = None

    def __post_init__(self) -> None:
        space = self.space
        if self.pool is not None:
            space.check_one_mixture("Logged runs have")
            object.__setattr__(self, "pool", checked_pool(self.pool).of(space))
        if self.goal is not None:
            self.goal.check(space)
        if self.settings.reference is not None:
            reference = space.named(resolve(self.settings.reference, space))
            object.__setattr__(self, "settings", replace(self.settings, reference=reference))
        _ = self.first_runs  # do they fit the space?

    # -- the settings, where a strategy needs them often

    @property
    def mode(self) -> Mode:
        """Whether the objective is minimised or maximised."""
        return self.settings.mode

    @property
    def sign(self) -> float:
        """+1 when minimising, -1 when maximising: ``sign * objective`` is minimised."""
        return 1.0 if self.mode == "min" else -1.0

    @cached_property
    def weights(self) -> dict[str, float]:
        """Weight of each metric in the objective."""
        return self.settings.weights

    @property
    def goal(self) -> Objective | None:
        """The objective in full, where there is more to it than a weighted sum."""
        return self.settings.goal

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that matter, those of guardrails included."""
        return self.settings.metrics

    @cached_property
    def first_runs(self) -> tuple[Proposal, ...]:
        """``points_to_evaluate`` as runs of this space.

        Raises:
            ValueError: for a point that does not fit the space.
        """
        return tuple(self._first_run(point) for point in self.settings.points_to_evaluate)

    def _first_run(self, point: Mapping[str, Any]) -> Proposal:
        space = self.space
        scale = point.get("scale", space.target_scale if len(space.scales) == 1 else None)
        steps = point.get("steps", space.target_steps if len(space.steps) == 1 else None)
        if scale is None or steps is None:
            raise ValueError(f"A point to evaluate must name its scale and its steps, got {dict(point)!r}.")
        mixture = space.mixture(point["mixture"])
        if (scale, steps) not in space.fidelities:
            raise ValueError(f"A point to evaluate is at {scale!r} x {steps!r} steps: the space trains {space.trains}.")
        return Proposal(mixture=mixture, scale=scale, steps=int(steps), counts=False)

    def check_first_runs(self, history: History) -> None:
        """Checks that the first runs can be made, and says in the log and to the history which cannot be paid.

        Raises:
            ValueError: for one outside of the limits, or that was not logged.
        """
        for run in self.first_runs:
            if obstacle := self.obstacle(run):
                raise ValueError(f"A point to evaluate is {obstacle}.")
        rest, unpaid = self.affordable(history), []
        for run in self.first_runs:
            cost = self.space.cost(run.scale, run.steps)
            if cost <= rest:
                rest -= cost
            else:
                unpaid.append(
                    f"{self.space.named(run.mixture)} at {fidelity(run.scale, run.steps)}, which costs {amount(cost)}"
                )
        if unpaid:
            more = f" and {len(unpaid) - 1} more" if len(unpaid) > 1 else ""
            budget = amount(self.settings.budget or math.inf)
            said = f"The budget of {budget} does not pay for all points to evaluate. Left out: "
            history.note(f"{said}{unpaid[0]}{more}.")
            logger.warning("%s%s%s.", said, unpaid[0], more)

    def check_named(self) -> None:
        """Raises ValueError if the noise or the chance is said of a metric that the search does not heed."""
        for label, said in (("noise", self.settings.noise), ("chance", self.settings.chance)):
            if unknown := sorted(said.keys() - set(self.metrics)):
                raise ValueError(
                    f"{label} is said of {listed(unknown)}, and the search heeds {listed(self.metrics)}: say it of "
                    "these."
                )

    def obstacle(self, run: Proposal) -> str:
        """Why a first run cannot be made here, limits and logged runs considered; "" where it can."""
        if not self.space.simplex.contains(run.mixture, 1e-6).all():
            return f"outside the limits of the mixture: {self.space.named(run.mixture)}"
        if self.pool is not None and not self.pool.has(run.mixture, run.scale, run.steps):
            return f"not among the logged runs: {self.space.named(run.mixture)} at {run.scale} x {run.steps} steps"
        return ""

    # -- questions

    def chance(self, metric: str) -> float | None:
        """What guessing scores in a metric that is an accuracy, as a share or in its unit; None for other metrics."""
        return self.settings.chance.get(metric, chance_of(metric))

    def baselines(self) -> dict[str, np.ndarray]:
        """Mixtures to compare a recommendation with, by name, each ``(d,)``."""
        space, reference = self.space, self.settings.reference
        found = {"uniform": space.uniform(), "proportional": space.proportional()}
        if reference is not None:
            found["reference"] = resolve(reference, space)
        return {name: mixture for name, mixture in found.items() if mixture is not None}

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """The objective of a report, None where a metric is missing."""
        if not self.weights.keys() <= metrics.keys():
            return None
        return math.fsum(weight * metrics[name] for name, weight in self.weights.items())

    def reported(self, value: float | Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
        """What a report says of the objective, by metric, and other finite numbers in it, which are kept for later.

        Raises:
            ValueError: if it is of the wrong kind: several metrics where a number is wanted, a number where metrics
                are, or a metric that is no number.
        """
        if not isinstance(value, Mapping):
            if not self.settings.single_valued:
                raise ValueError(f"The metrics {list(self.weights)} are needed by name, got {value!r}.")
            return {SINGLE: _as_number(value, "the objective")}, {}
        if self.settings.single_valued:
            name = next(iter(value), "loss")
            raise ValueError(
                f"The search is told one number a report, got {dict(value)!r}: pass the number alone, or say which "
                f"metrics count, objective={{{name!r}: 1.0}}."
            )
        others = {str(name): float(one) for name, one in value.items() if name not in self.metrics and is_finite(one)}
        return {name: _as_number(value[name], name) for name in self.metrics if value.get(name) is not None}, others

    def nothing_known(self, history: History) -> str:
        """A sentence for a search whose runs have shown nothing of the objective, since it has no answer; else ""."""
        if any(self.value(values) is not None for trial in history for values in trial.observations.values()):
            return ""
        named = f"no report has a number for {', '.join(self.weights)}" if history.arrivals else "no run has reported"
        return f"Nothing is known yet: {named}, so that there is no mixture to recommend."

    def rng(self, *stream: int) -> np.random.Generator:
        """A random stream that depends on the seed and the given numbers only."""
        return np.random.default_rng([self.settings.seed, *stream])

    @property
    def too_poor(self) -> str:
        """A sentence for a search that ends before its first run for want of money."""
        space, budget = self.space, self.settings.budget or math.inf
        cost, scale, first = min((space.cost(name, rung), name, rung) for name, rung in space.fidelities)
        least = f"the cheapest, {fidelity(scale, first)}, costs {amount(cost)}, and " if budget < cost else ""
        return (
            f"A budget of {amount(budget)} buys no run of strategy {self.settings.strategy_name!r}: {least}"
            f"one full run, {fidelity(space.target_scale, space.target_steps)}, costs {amount(space.target_cost)}."
        )

    def check_budget(self, history: History) -> None:
        """Checks that a search that is over did not end before its first run for want of money.

        Raises:
            ValueError: if it did.
        """
        if self._was_poor(history):
            raise ValueError(self.too_poor)

    def warn_if_poor(self, history: History) -> None:
        """Says of a search that is over, once, if it ended before its first run for want of money."""
        if self._was_poor(history) and history.is_new("too poor"):
            logger.warning("%s", self.too_poor)

    def _was_poor(self, history: History) -> bool:
        poor = (self.settings.budget or math.inf) < self.space.target_cost
        own_end = self.settings.min_gain_per_cost or self.settings.stop_when_sure
        return poor and not own_end and all(run.evaluated for run in history)

    def affordable(self, history: History) -> float:
        """What may still be committed, in the space's cost unit; give or take what rounding may add to a sum."""
        budget = self.settings.budget
        return math.inf if budget is None else (budget - history.committed) * (1 + 1e-12)

    def affords(self, run: Proposal, history: History) -> bool:
        """Whether the rest of the budget pays for what a run adds to the bill."""
        return self.price(run, history) <= self.affordable(history)

    def trunks(self, history: History) -> Trunks:
        """The runs that others may branch from."""
        return Trunks(self.space, history if self.settings.branches else ())

    def price(self, run: Proposal, history: History) -> float:
        """What a run adds to the bill: a continued one its further steps, a branch those from where it begins.

        Raises:
            ValueError: if it cannot be a branch of the run that it names.
        """
        if run.continues is not None:
            trial = history[run.continues]
            return cost_of(self.space, trial, run.steps, start=trial.reached)
        return price(self.space, run.scale, run.steps, self.branch(run, history))

    def branch(self, run: Proposal, history: History) -> Branch | None:
        """Where a new run begins that shares its first phases with a paused one; None: from nothing.

        Raises:
            ValueError: if it cannot be a branch of the run that it names.
        """
        trunks = self.trunks(history)
        if run.parent is None:
            return trunks.branch(run.mixture, run.scale, run.steps)
        return trunks.branch_of(history[run.parent], run.mixture, run.scale, run.steps)

    # -- variations

    def within(self, space: MixtureSpace) -> Problem:
        """The same problem in another space."""
        return replace(self, space=space)

    def asking(self, objective: Mapping[str, float] | Objective | None, mode: Mode | None = None) -> Problem:
        """The same problem with another objective."""
        return replace(self, settings=replace(self.settings, objective=objective, mode=mode or self.mode))


def may_go_on(run: Trial, space: MixtureSpace, left: float, branches: bool = False) -> bool:
    """Whether a run may still be trained further, now or later: its checkpoint is of use as long as it may.

    It may if it is under way, or paused below its last rung while the next one can be paid for; or a branch of it.

    Args:
        run: that was paid for.
        space: of the search.
        left: the budget less what has been spent; runs under way might still be lost, and cost less.
        branches: whether others can begin at its checkpoint.
    """
    if run.status != "paused":
        return run.status == "running"
    further = [cost_of(space, run, rung, start=run.reached) for rung in space.rungs(run.scale) if rung > run.reached]
    if branches and (ends := borders(space, run.reached)):
        further.append(space.scale(run.scale).cost_per_step * (run.reached - ends[-1]))
    return bool(further) and min(further) <= left * (1 + 1e-12)


def checked_pool(pool: Pool) -> Pool:
    """The pool; raises ValueError if it is none."""
    if not isinstance(pool, Pool):
        raise ValueError(f"pool must be a Pool of logged runs, such as RunTable.pool, got {pool!r}.")
    return pool


def _as_number(value: object, name: str) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"The value of {name} must be a number, got {value!r}.") from None
    except OverflowError:
        raise ValueError(f"The value of {name} must be a number that a float can hold.") from None
