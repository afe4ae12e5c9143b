"""All settings of a search but its space, checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

import numpy as np

from ray_mixopt.core.arguments import FrozenDict, in_order, is_whole, kept_shares
from ray_mixopt.core.baselines import Baseline, jsonable, kept_baseline
from ray_mixopt.core.chance import checked_chance
from ray_mixopt.core.objective import Mode, Objective, checked_weights
from ray_mixopt.core.safety import is_finite, named_numbers, whole
from ray_mixopt.core.strategy import Callback, Strategy
from ray_mixopt.core.trial import EXPLODED

Maker = Callable[[Any], Strategy]
"""Makes a strategy of a ``Problem``."""

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
        noise: standard deviation by metric, in its unit, between reports of runs that differ in nothing but their
            seed, where it is known; of other metrics it is learned. "default" only.
        chance: what guessing scores, by metric, for accuracies whose task ``chance_of`` does not know by its name. They
            are modelled on a scale that is logarithmic above chance. "default" only.
        min_gain_per_cost: the search ends, before the budget if there is one, when no run is expected to remove that
            much regret at the target, in the objective's unit, per unit of cost. "default" only.
        stop_when_sure: whether the search ends, before the budget if there is one, once the verdict is to train the
            answer. "default" only.
        expected_runs: number of new runs that the search is going to make, where that is known: the first ones are
            planned for as many. It is no limit.
        branches: whether runs of several phases can begin at the checkpoint of another, where their first phases, which
            are the same, end.
        points_to_evaluate: runs to make before any other: ``{"mixture": weights by domain, "scale": name, "steps":
            rung}``; scale and steps may be left out where the space has only one.
        callbacks: told of suggestions and fits; not part of a saved state.

    Raises:
        ValueError: for a setting that makes no sense; the message names it and says what it must be.
    """

    mode: Mode = "min"
    objective: Mapping[str, float] | Objective | None = None
    strategy: str | Maker = "default"
    budget: float | None = None
    seed: int = 0
    reference: Baseline | None = None
    noise: Mapping[str, float] = field(default_factory=FrozenDict)
    chance: Mapping[str, float] = field(default_factory=FrozenDict)
    min_gain_per_cost: float = 0.0
    stop_when_sure: bool = False
    expected_runs: int | None = None
    branches: bool = True
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
        if not isinstance(self.stop_when_sure, bool):
            raise ValueError(f"stop_when_sure must be True or False, got {self.stop_when_sure!r}.")
        if not isinstance(self.branches, bool):
            raise ValueError(f"branches must be True or False, got {self.branches!r}.")
        if self.expected_runs is not None:
            if not is_whole(self.expected_runs) or self.expected_runs < 1:
                raise ValueError(
                    f"expected_runs must be a number of runs from 1 on, or None, got {self.expected_runs!r}."
                )
            put(self, "expected_runs", int(self.expected_runs))
        put(self, "noise", _checked_noise(self.noise))
        put(self, "chance", checked_chance(self.chance))
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
            "noise": dict(self.noise),
            "chance": dict(self.chance),
            "min_gain_per_cost": self.min_gain_per_cost,
            "stop_when_sure": self.stop_when_sure,
            "expected_runs": self.expected_runs,
            "points_to_evaluate": [{**point, "mixture": dict(point["mixture"])} for point in self.points_to_evaluate],
        } | ({} if self.branches else {"branches": False})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, strategy: str | Maker | None = None) -> Settings:
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
        known = ("reference", "noise", "chance", "min_gain_per_cost", "stop_when_sure", "expected_runs")
        optional = (*known, "branches", "points_to_evaluate")
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


def _checked_noise(noise: object) -> Mapping[str, float]:
    if not isinstance(noise, Mapping):
        raise ValueError(f"noise must map metrics to standard deviations, {{'loss': 0.01}}, got {noise!r}.")
    found = named_numbers(noise, "noise")
    for metric, value in found.items():
        if not 0 <= value < EXPLODED:
            raise ValueError(
                f"The noise of {metric} must be a standard deviation in its unit, 0 or more and less than "
                f"{EXPLODED:g}, as metrics are, got {value!r}."
            )
    return FrozenDict(found)


def _checked_point(point: object) -> Mapping[str, Any]:
    if not isinstance(point, Mapping) or not isinstance(point.get("mixture"), Mapping):
        raise ValueError(
            "points_to_evaluate are mappings such as {'mixture': {'web': 0.6, 'code': 0.4}, 'scale': '60M', 'steps': "
            f"2000}}, got {point!r}."
        )
    if unknown := sorted(set(map(str, point)) - {"mixture", "scale", "steps"}):
        raise ValueError(f"A point to evaluate has mixture, scale and steps, got {', '.join(unknown)}, too.")
    # As JSON has them: NumPy's numbers are not.
    found: dict[str, Any] = {"mixture": kept_shares(point["mixture"], "The mixture of a point to evaluate")}
    if (scale := point.get("scale")) is not None:
        if not isinstance(scale, str):
            raise ValueError(f"The scale of a point to evaluate must be a name, got {scale!r}.")
        found["scale"] = scale
    if (steps := point.get("steps")) is not None:
        found["steps"] = whole(steps.item() if isinstance(steps, np.integer) else steps, "The steps of a point", 1)
    return FrozenDict(found)
