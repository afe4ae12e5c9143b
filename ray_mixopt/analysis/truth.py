"""How good a mixture really is, where the truth at the target can be looked up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.simulators import RunTable, Simulator

SAMPLES = 250_000
SURVIVORS, CHILDREN = 50, 40
REACHES = np.geomspace(0.1, 1e-5, 60)


class Regret:
    """Normalised regret at the target, without noise: 0 is the best mixture, 1 a random one.

    For a simulator the best is that of a dense search over the simplex, refined locally, and a random mixture the
    median over Dirichlet(1). For a table of logged runs both are over the mixtures logged at the target.

    Args:
        source: knows the truth.
        metric: name of the metric.
        mode: "min" or "max".

    Attributes:
        best: the metric of the best mixture, in its own unit.
        median: the metric of the median mixture.
    """

    def __init__(self, source: Simulator | RunTable, metric: str, mode: str) -> None:
        self._source, self._space = source, source.space
        self._column = source.metrics.index(metric)
        self._sign = 1.0 if mode == "min" else -1.0
        random = self._losses(
            source.pool.logged_at(self._space.target_scale, self._space.target_steps)
            if isinstance(source, RunTable)
            else self._space.sample(SAMPLES, np.random.default_rng(0))
        )
        self._median = float(np.nanmedian(random))
        if not isinstance(source, RunTable):
            random = self._losses(dense_minimiser(self._losses, self._space)[None])
        self._best = float(np.nanmin(random))
        self.best, self.median = self._sign * self._best, self._sign * self._median

    def value(self, mixture: np.ndarray) -> float | None:
        """The metric of a mixture ``(d,)`` at the target; None where it is not known."""
        if isinstance(self._source, RunTable) and not self._source.pool.has(
            mixture, self._space.target_scale, self._space.target_steps
        ):
            return None
        value = self._sign * float(self._losses(mixture[None])[0])
        return None if np.isnan(value) else value

    def __call__(self, mixture: np.ndarray) -> float | None:
        """The regret of a mixture ``(d,)``; None where it is not known."""
        value = self.value(mixture)
        if value is None or self._median == self._best:
            return None
        return (self._sign * value - self._best) / (self._median - self._best)

    def _losses(self, mixtures: np.ndarray) -> np.ndarray:
        """The metric of ``n x d`` mixtures at the target, signed so that less is better, ``(n,)``."""
        values = self._source.evaluate(mixtures, self._space.target_scale, self._space.target_steps)
        losses: np.ndarray = self._sign * values[:, self._column]
        return losses


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
