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

    @cached_property
    def _landmarks(self) -> tuple[float, float]:
        """Loss of the best mixture, and of the median one."""
        if self._oracle.pool is not None:
            logged = self.losses(self._oracle.pool.logged_at(*self._target))
            return float(np.nanmin(logged)), float(np.nanmedian(logged))
        random = self.losses(self._space.sample(SAMPLES, np.random.default_rng(0)))
        optimum = dense_minimiser(self.losses, self._space) if self._optimum is None else self._optimum
        return float(self.losses(optimum[None])[0]), float(np.nanmedian(random))


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
