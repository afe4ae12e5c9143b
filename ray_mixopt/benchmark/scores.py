"""Scores, from the records alone.

Everything is about the mean regret curve of a method on a problem: at a cost, the mean over seeds of the regret of the
last recommendation made with no more than that spent. A group's score is the mean over its problems. For a method with
several workers there is the same curve against the virtual clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ray_mixopt.benchmark.record import Record

AREA_FROM = 0.025  # of a target run: where the area under the curve begins
FOUND = 1e-9  # regret of the best logged mixture, up to rounding
_TOLERANCE = 1 + 1e-9


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A method on a problem, over all its seeds.

    Args:
        records: one a seed, all of the same problem and method.
        clock: whether the curve is against the virtual clock: "cost" then stands for the time, below.
    """

    records: tuple[Record, ...]
    clock: bool = False

    @cached_property
    def budget(self) -> float:
        """What every seed could spend; on the clock, when the last of them was over."""
        if self.clock:
            return max(record.trace[-1].time for record in self.records)
        return min(record.budget for record in self.records)

    @cached_property
    def costs(self) -> np.ndarray:
        """Costs above 0 at which any seed's recommendation was looked at, ascending, ``(k,)``."""
        costs = np.unique([cost for costs in self._costs for cost in costs])
        found: np.ndarray = costs[(costs > 0) & (costs <= self.budget * _TOLERANCE)]
        return found

    def regrets(self, costs: Sequence[float] | np.ndarray) -> np.ndarray:
        """Regret of each seed at some costs ``(k,)``, ``n_seeds x k``."""
        return self._at(costs, self._regrets)

    def regret(self, cost: float) -> float:
        """Mean regret over seeds at a cost."""
        return float(self.regrets([cost]).mean())

    def area(self, upto: float) -> float:
        """Area under the mean regret against log cost, over the length of that interval: a mean regret."""
        start = AREA_FROM * self.records[0].target_cost
        if upto <= start:
            return self.regret(upto)
        between = self.costs[(self.costs > start) & (self.costs < upto)]
        ends = np.concatenate([[start], between, [upto]])
        pieces = self.regrets(ends[:-1]).mean(axis=0) * np.diff(np.log(ends))
        return float(pieces.sum() / math.log(upto / start))

    def pays(self, cost: float) -> bool:
        """Whether every seed could spend that much."""
        return cost <= self.budget * _TOLERANCE

    @property
    def scored(self) -> list[float]:
        """The costs that every seed could spend of those that the problem is scored at; else the budget alone."""
        return [cost for cost in self.records[0].score_costs if self.pays(cost)] or [self.budget]

    def final_run(self, cost: float) -> float:
        """What the final full run still costs at a point.

        The target's cost times the share of seeds that have not trained the very mixture they recommend there.
        """
        untrained = 1 - self._at([cost], [[point.trained for point in record.trace] for record in self.records])
        return self.records[0].target_cost * float(untrained.mean())

    @cached_property
    def _costs(self) -> list[list[float]]:
        return [[point.time if self.clock else point.cost for point in record.trace] for record in self.records]

    @cached_property
    def _regrets(self) -> list[list[float]]:
        return [[point.regret for point in record.trace] for record in self.records]

    def _at(self, costs: Sequence[float] | np.ndarray, values: Sequence[Sequence[float]]) -> np.ndarray:
        """Values that hold at some costs: those of the last recommendation made with no more than that spent."""
        where = np.asarray(costs, dtype=np.float64) * _TOLERANCE
        seen = [np.searchsorted(costs, where, side="right") for costs in self._costs]
        return np.array([np.asarray(v, dtype=np.float64)[i - 1] for v, i in zip(values, seen, strict=True)])


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """How much less one method costs than another to get as far.

    Attributes:
        search: the ratio of the costs of the search.
        with_final: the ratio with the final full run added to whoever has not paid for it.
        bound: whether ours never got as far: it has then been given its whole budget, and the truth is below.
    """

    search: float
    with_final: float
    bound: bool


def speed_up(ours: Curve, rival: Curve) -> SpeedUp:
    """Speed-up of ours over a rival on one problem.

    The level is the rival's mean regret at its budget. The rival's cost is where its curve first is at or below that
    level, ours where our curve first is and stays.
    """
    theirs, cost, bound = _costs_to_get_as_far([ours], [rival])
    final = (theirs + rival.final_run(theirs)) / (cost + ours.final_run(cost))
    return SpeedUp(search=theirs / cost, with_final=final, bound=bound)


def reached(curves: Sequence[Curve], level: float, *, stays: bool) -> float:
    """Where the mean regret over problems and seeds first is at or below a level (and stays there); else infinity."""
    costs = np.unique(np.concatenate([curve.costs for curve in curves]))
    mean = np.mean([curve.regrets(costs).mean(axis=0) for curve in curves], axis=0)  # (k,)
    low = mean <= level + 1e-12
    if stays:
        low = np.logical_and.accumulate(low[::-1])[::-1]
    return float(costs[low.argmax()]) if low.any() else math.inf


def speed_up_of_mean(ours: Sequence[Curve], rivals: Sequence[Curve]) -> tuple[float, bool]:
    """Speed-up of ours in the mean regret over problems, of the search alone; and whether ours never got as far.

    The level is the rival's mean at its budget. If ours never stays there, it is given its whole budget.
    """
    theirs, cost, bound = _costs_to_get_as_far(ours, rivals)
    return theirs / cost, bound


def _costs_to_get_as_far(ours: Sequence[Curve], rivals: Sequence[Curve]) -> tuple[float, float, bool]:
    """What the rivals and ours spend until the mean has the rivals' final level; and whether ours never stays there."""
    level = float(np.mean([curve.regret(curve.budget) for curve in rivals]))
    theirs, cost = reached(rivals, level, stays=False), reached(ours, level, stays=True)
    budgets = (max(curve.budget for curve in curves) for curves in (rivals, ours))
    return min(theirs, next(budgets)), min(cost, next(budgets)), math.isinf(cost)


@dataclass(frozen=True, kw_only=True)
class Found:
    """How a method fared at finding the best logged mixture.

    Attributes:
        cost: mean over seeds of the cost at which it was recommended first and from then on; the whole budget where it
            was not.
        share: of the seeds that found it.
    """

    cost: float
    share: float


def found(curve: Curve) -> Found:
    """How a method fared at finding the best logged mixture of a problem."""
    costs = [reached([Curve(records=(record,))], FOUND, stays=True) for record in curve.records]
    spent = [min(cost, record.budget) for cost, record in zip(costs, curve.records, strict=True)]
    return Found(cost=float(np.mean(spent)), share=float(np.isfinite(costs).mean()))


def grouped(records: Iterable[Record]) -> dict[str, dict[str, dict[str, Curve]]]:
    """Curves by group, method and problem, in the order of the records."""
    sorted_out: dict[str, dict[str, dict[str, list[Record]]]] = {}
    for record in records:
        methods = sorted_out.setdefault(record.group, {})
        methods.setdefault(record.label, {}).setdefault(record.problem, []).append(record)
    return {
        group: {
            method: {problem: Curve(records=tuple(runs)) for problem, runs in by_problem.items()}
            for method, by_problem in methods.items()
        }
        for group, methods in sorted_out.items()
    }


def summary(records: Iterable[Record]) -> dict[str, Any]:
    """Regret by group, method and problem at the scored costs that all seeds could pay, JSON-able."""
    return {
        group: {
            method: {problem: _scores(curve) for problem, curve in by_problem.items()}
            for method, by_problem in methods.items()
        }
        for group, methods in grouped(records).items()
    }


def _scores(curve: Curve) -> dict[str, Any]:
    costs = curve.scored
    regrets = curve.regrets(costs)  # (n_seeds, k)
    return {
        "seeds": [record.seed for record in curve.records],
        "budget": curve.budget,
        "costs": costs,
        "mean_regret": regrets.mean(axis=0).tolist(),
        "worst_regret": regrets.max(axis=0).tolist(),
    }
