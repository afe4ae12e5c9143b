"""What is searched, for what, and with which money: all settings of a search, checked once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np

from ray_mixopt.core.arguments import FrozenDict, in_order, is_whole
from ray_mixopt.core.baselines import Baseline, jsonable, kept_baseline, resolve
from ray_mixopt.core.history import History
from ray_mixopt.core.objective import Mode, Objective, checked_weights
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.safety import is_finite, named_numbers, whole
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Callback, Proposal, Strategy
from ray_mixopt.core.words import amount, fidelity

logger = logging.getLogger(__name__)

SINGLE = "value"  # the metric of a search that is told one number a report

RENAMED = {  # strategies of version 0.1
    "paper-tv": "paper:kernel=tv",
    "paper-jsd": "paper:kernel=jsd",
    "paper-script-noise": "paper:noise=script",
}


class OwnStrategyError(ValueError):
    """A search was made with a strategy of one's own, which a state has by name only."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a search is for, how it goes about it and what it may spend: everything but the space.

    Args:
        mode: "min" or "max" the objective.
        objective: weight of each metric in the objective, a linear combination in the direction of ``mode`` (weights
            may be negative); or an ``Objective``, which also has guardrails and more. None: reports are single numbers.
        strategy: "default" (expected regret removed per cost), "paper" (MFMS-GP, arXiv 2503.21023, Algorithm 1; for
            instance "paper:kernel=tv,noise=script"), "random" (full runs at the target), or any callable that makes a
            ``Strategy`` of a ``Problem``.
        budget: most to commit, in the unit of the space's costs; None for no limit.
        seed: of all random draws, a non-negative integer.
        reference: a mixture to compare recommendations with, for instance the one in use: weights by domain,
            "uniform" or "proportional".
        min_gain_per_cost: the search ends, before the budget if there is one, when no run is expected to remove that
            much regret at the target, in the objective's unit, per unit of cost. "default" only.
        points_to_evaluate: runs to make before any other: ``{"mixture": weights by domain, "scale": name, "steps":
            rung}``; scale and steps may be left out where the space has only one.
        callbacks: told of suggestions and fits; not part of a saved state.

    Raises:
        ValueError: for a setting that makes no sense; the message names it and says what it must be.
    """

    mode: Mode = "min"
    objective: Mapping[str, float] | Objective | None = None
    strategy: str | Callable[[Problem], Strategy] = "default"
    budget: float | None = None
    seed: int = 0
    reference: Baseline | None = None
    min_gain_per_cost: float = 0.0
    points_to_evaluate: tuple[Mapping[str, Any], ...] = ()
    callbacks: tuple[Callback, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode must be 'min' or 'max', got {self.mode!r}.")
        if self.objective is not None and not isinstance(self.objective, Objective):
            put(self, "objective", checked_weights(self.objective))
        if not isinstance(self.strategy, str) and not callable(self.strategy):
            raise ValueError(f"strategy must be a name or a callable that makes one, got {self.strategy!r}.")
        if self.budget is not None and not (is_finite(self.budget) and self.budget > 0):
            raise ValueError(f"budget must be a positive finite cost or None, got {self.budget!r}.")
        if not (is_finite(self.min_gain_per_cost) and self.min_gain_per_cost >= 0):
            raise ValueError(
                f"min_gain_per_cost must be a number that is not negative, got {self.min_gain_per_cost!r}."
            )
        if not is_whole(self.seed) or self.seed < 0:
            raise ValueError(f"seed must be a non-negative integer, got {self.seed!r}.")
        put(self, "seed", int(self.seed))
        put(self, "budget", None if self.budget is None else float(self.budget))
        put(self, "min_gain_per_cost", float(self.min_gain_per_cost))
        for label in ("points_to_evaluate", "callbacks"):
            value = getattr(self, label)
            put(self, label, () if value is None else in_order(value, label))
        if self.reference is not None:
            put(self, "reference", kept_baseline(self.reference, "reference"))
        put(self, "points_to_evaluate", tuple(_checked_point(point) for point in self.points_to_evaluate))
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise ValueError(f"callbacks must be objects of a subclass of ray_mixopt.Callback, got {callback!r}.")

    @classmethod
    def of(cls, settings: Settings | None, **given: Any) -> Settings:
        """Settings, or the default ones, with some fields given besides.

        Raises:
            ValueError: if they are none, or a field makes no sense.
        """
        if settings is not None and not isinstance(settings, Settings):
            raise ValueError(f"settings must be a Settings object, got {settings!r}: pass its fields by name, seed=1.")
        if unknown := sorted(set(given) - {one.name for one in fields(cls)}):
            hint = " For a metric by its name, say objective={'loss': 1.0}." if "metric" in unknown else ""
            raise TypeError(
                f"There is no setting {unknown[0]!r}: there are {', '.join(f.name for f in fields(cls))}.{hint}"
            )
        return replace(settings or cls(), **given)

    @property
    def single_valued(self) -> bool:
        """Whether reports are single numbers rather than metrics by name."""
        return self.objective is None

    @property
    def goal(self) -> Objective | None:
        """The objective in full, where it was given as an ``Objective``."""
        return self.objective if isinstance(self.objective, Objective) else None

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each metric in the objective, in the direction of ``mode``."""
        if self.objective is None:
            return {SINGLE: 1.0}
        return self.objective.signed(self.mode) if isinstance(self.objective, Objective) else dict(self.objective)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that matter, those of guardrails included."""
        return tuple(dict.fromkeys([*self.weights, *(() if self.goal is None else self.goal.metrics)]))

    @property
    def strategy_name(self) -> str:
        """The strategy's name; for a callable, where it was defined (``module:name``)."""
        if isinstance(self.strategy, str):
            return self.strategy
        made = getattr(self.strategy, "func", self.strategy)  # of a functools.partial
        return f"{getattr(made, '__module__', '?')}:{getattr(made, '__qualname__', type(made).__qualname__)}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, read back by ``from_dict``. Callbacks are left out."""
        goal = self.goal
        weights = None if self.objective is None else self.weights
        return {
            "mode": self.mode,
            "objective": weights if goal is None else goal.to_dict(),
            "strategy": self.strategy if isinstance(self.strategy, str) else {"own": self.strategy_name},
            "budget": self.budget,
            "seed": self.seed,
            "reference": jsonable(self.reference),
            "min_gain_per_cost": self.min_gain_per_cost,
            "points_to_evaluate": [{**point, "mixture": dict(point["mixture"])} for point in self.points_to_evaluate],
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, strategy: str | Callable[[Problem], Strategy] | None = None
    ) -> Settings:
        """The settings that ``to_dict`` described; other entries of the mapping are ignored.

        Args:
            data: the description. A strategy of one's own is in it by name only, which is never imported.
            strategy: used in place of the one described.

        Raises:
            ValueError: if an entry is missing or makes no sense.
            OwnStrategyError: if the strategy was one's own and is not given.
        """
        try:
            given = {key: data[key] for key in ("mode", "objective", "strategy", "budget", "seed")}
        except KeyError as error:
            raise ValueError(f"Malformed settings of a search: {error} is missing.") from error
        optional = ("reference", "min_gain_per_cost", "points_to_evaluate")
        given |= {key: data[key] for key in optional if key in data}
        described = given["objective"]
        if isinstance(described, Mapping) and isinstance(described.get("weights"), Mapping):
            given["objective"] = Objective.from_dict(described)
        made_with = given["strategy"]
        if strategy is not None:
            given["strategy"] = strategy
        elif isinstance(made_with, Mapping):
            raise OwnStrategyError(
                f"The search was made with a strategy of its own, {made_with.get('own')!r}: pass it as strategy=, or "
                "strategy='default' to ask the default one."
            )
        elif isinstance(made_with, str):
            given["strategy"] = RENAMED.get(made_with, made_with)
        return cls(**given)


SETTINGS = tuple(field.name for field in fields(Settings) if field.name != "callbacks")
"""The fields of ``Settings.to_dict``."""


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

    def obstacle(self, run: Proposal) -> str:
        """Why a first run cannot be made here, limits and logged runs considered; "" where it can."""
        if not self.space.simplex.contains(run.mixture, 1e-6).all():
            return f"outside the limits of the mixture: {self.space.named(run.mixture)}"
        if self.pool is not None and not self.pool.has(run.mixture, run.scale, run.steps):
            return f"not among the logged runs: {self.space.named(run.mixture)} at {run.scale} x {run.steps} steps"
        return ""

    # -- questions

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
        return poor and not self.settings.min_gain_per_cost and all(run.evaluated for run in history)

    def affordable(self, history: History) -> float:
        """What may still be committed, in the space's cost unit; give or take what rounding may add to a sum."""
        budget = self.settings.budget
        return math.inf if budget is None else (budget - history.committed) * (1 + 1e-12)

    def affords(self, run: Proposal, history: History) -> bool:
        """Whether the rest of the budget pays for a run: for a continued one, for its further steps."""
        start = 0 if run.continues is None else history[run.continues].reached
        return self.space.cost(run.scale, run.steps, start=start) <= self.affordable(history)

    # -- variations

    def within(self, space: MixtureSpace) -> Problem:
        """The same problem in another space."""
        return replace(self, space=space)

    def asking(self, objective: Mapping[str, float] | Objective | None, mode: Mode | None = None) -> Problem:
        """The same problem with another objective."""
        return replace(self, settings=replace(self.settings, objective=objective, mode=mode or self.mode))


def checked_pool(pool: Pool) -> Pool:
    """The pool; raises ValueError if it is none."""
    if not isinstance(pool, Pool):
        raise ValueError(f"pool must be a Pool of logged runs, such as RunTable.pool, got {pool!r}.")
    return pool


def _checked_point(point: object) -> Mapping[str, Any]:
    if not isinstance(point, Mapping) or not isinstance(point.get("mixture"), Mapping):
        raise ValueError(
            "points_to_evaluate are mappings such as {'mixture': {'web': 0.6, 'code': 0.4}, 'scale': '60M', 'steps': "
            f"2000}}, got {point!r}."
        )
    if unknown := sorted(set(map(str, point)) - {"mixture", "scale", "steps"}):
        raise ValueError(f"A point to evaluate has mixture, scale and steps, got {', '.join(unknown)}, too.")
    # As JSON has them: NumPy's numbers are not.
    shares = named_numbers(point["mixture"], "The mixture of a point to evaluate")
    found: dict[str, Any] = {"mixture": FrozenDict(shares)}
    if (scale := point.get("scale")) is not None:
        if not isinstance(scale, str):
            raise ValueError(f"The scale of a point to evaluate must be a name, got {scale!r}.")
        found["scale"] = scale
    if (steps := point.get("steps")) is not None:
        found["steps"] = whole(steps.item() if isinstance(steps, np.integer) else steps, "The steps of a point", 1)
    return FrozenDict(found)


def _as_number(value: object, name: str) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"The value of {name} must be a number, got {value!r}.") from None
    except OverflowError:
        raise ValueError(f"The value of {name} must be a number that a float can hold.") from None
