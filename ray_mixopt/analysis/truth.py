"""How good a mixture really is, where the truth at the target can be looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Protocol

import numpy as np

from ray_mixopt.core.pool import Pool
from ray_mixopt.core.space import MixtureSpace

SAMPLES = 250_000
SURVIVORS, CHILDREN = 50, 40
REACHES = np.geomspace(0.1, 1e-5, 60)


class Oracle(Protocol):
    """What answers any run at once and without noise: a simulator, a table of logged runs, a made-up landscape."""

    @property
    def space(self) -> MixtureSpace:
        """Domains, scales, rungs and the target."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in the order of ``evaluate``'s columns."""
        ...

    @property
    def pool(self) -> Pool | None:
        """The only runs that it can answer; None where it answers every mixture, scale and number of steps."""
        ...

    def evaluate(self, mixtures: np.ndarray, scale: str, steps: int) -> np.ndarray:
        """The metrics of ``n x d`` mixtures at one fidelity, ``n x n_metrics``; NaN where one was not measured."""
        ...


class Truth:
    """The objective at the target as it really is, and normalised regrets: 0 is the best mixture, 1 a random one.

    Where every mixture can be asked for, the best is that of a dense search over the simplex, refined locally, and a
    random mixture the median over Dirichlet(1). In a pool both are over the mixtures that have a run at the target.

    Args:
        oracle: knows the truth.
        objective: name of a metric, or the weight of each in a sum.
        mode: "min" or "max".
        optimum: the best mixture ``(d,)``, where it is known by construction.
    """

    def __init__(
        self, oracle: Oracle, objective: str | Mapping[str, float], mode: str, *, optimum: np.ndarray | None = None
    ) -> None:
        self._oracle, self._space, self._optimum = oracle, oracle.space, optimum
        self._target = self._space.target_scale, self._space.target_steps
        weights = {objective: 1.0} if isinstance(objective, str) else objective
        self._columns, self._weights = [oracle.metrics.index(name) for name in weights], np.array([*weights.values()])
        self._sign = 1.0 if mode == "min" else -1.0

    @property
    def best(self) -> float:
        """The objective of the best mixture, in its own unit."""
        return self._sign * self._landmarks[0]

    @property
    def median(self) -> float:
        """The objective of the median mixture, in its own unit."""
        return self._sign * self._landmarks[1]

    def losses(self, mixtures: np.ndarray) -> np.ndarray:
        """The objective of ``n x d`` mixtures at the target, signed so that less is better, ``(n,)``."""
        values = self._oracle.evaluate(mixtures, *self._target)
        losses: np.ndarray = self._sign * (values[:, self._columns] @ self._weights)
        return losses

    def value(self, mixture: np.ndarray) -> float | None:
        """The objective of a mixture ``(d,)`` at the target, in its own unit; None where it is not known."""
        if self._oracle.pool is not None and not self._oracle.pool.has(mixture, *self._target):
            return None
        value = self._sign * float(self.losses(mixture[None])[0])
        return None if np.isnan(value) else value

    def regret(self, mixture: np.ndarray) -> float | None:
        """The normalised regret of a mixture ``(d,)``; None where it is not known, or all mixtures are as good."""
        value, (best, median) = self.value(mixture), self._landmarks
        return None if value is None or median == best else (self._sign * value - best) / (median - best)

    def place(self, mixture: np.ndarray) -> tuple[int, int] | None:
        """How many of the mixtures logged at the target are as good as a mixture ``(d,)`` or better, and how many are.

        None where nothing is logged, or the mixture's value is not known.
        """
        value = self.value(mixture)
        if value is None or self._oracle.pool is None:
            return None
        known = self._random[~np.isnan(self._random)]
        return int((known <= self._sign * value).sum()), len(known)

    @property
    def logged(self) -> int | None:
        """How many mixtures are logged at the target; None where every mixture can be asked for."""
        return None if self._oracle.pool is None else int((~np.isnan(self._random)).sum())

    def steps_to(self, mixture: np.ndarray, value: float) -> int | None:
        """The steps after which a mixture ``(d,)`` at the target's scale is as good as a value, at most the target's.

        None where it does not get there, or not every length can be asked for. It is taken to get better all the way.
        """
        low, high = self._space.rungs(self._target[0])[0], self._target[1]
        if self._oracle.pool is not None or self._sign * value < self.losses(mixture[None])[0]:
            return None
        while low < high:
            middle = (low + high) // 2
            seen = self._oracle.evaluate(mixture[None], self._target[0], middle)[0, self._columns] @ self._weights
            low, high = (low, middle) if self._sign * seen <= self._sign * value else (middle + 1, high)
        return high

    @cached_property
    def _random(self) -> np.ndarray:
        """Losses of random mixtures at the target, or of all that are logged there, ``(n,)``."""
        if self._oracle.pool is not None:
            return self.losses(self._oracle.pool.logged_at(*self._target))
        return self.losses(self._space.sample(SAMPLES, np.random.default_rng(0)))

    @cached_property
    def _landmarks(self) -> tuple[float, float]:
        """Loss of the best mixture, and of the median one."""
        median = float(np.nanmedian(self._random))
        if self._oracle.pool is not None:
            return float(np.nanmin(self._random)), median
        optimum = dense_minimiser(self.losses, self._space) if self._optimum is None else self._optimum
        return float(self.losses(optimum[None])[0]), median


def dense_minimiser(
    losses: Callable[[np.ndarray], np.ndarray], space: MixtureSpace, *, samples: int = SAMPLES
) -> np.ndarray:
    """The mixture ``(d,)`` of the lowest loss: a dense search, then an evolution of ever smaller steps.

    Args:
        losses: of ``n x d`` mixtures, ``(n,)``.
        space: the mixtures that count.
        samples: number of mixtures of the dense search from each of two distributions; the corners come on top.
    """
    rng = np.random.default_rng(1)
    dense = [space.sample(samples, rng, concentration) for concentration in (1.0, 0.3)]
    best = np.concatenate([*dense, space.corners()])
    for reach in (None, *REACHES):
        if reach is not None:
            near = np.repeat(best, CHILDREN, axis=0) + rng.normal(0, reach, (len(best) * CHILDREN, space.n_domains))
            best = np.concatenate([best, space.simplex.project(near)])
        best = best[np.argsort(losses(best), kind="stable")[:SURVIVORS]]
    found: np.ndarray = best[0]
    return found
