"""BOHB (Falkner et al., 2018): Hyperband whose configurations come from two kernel density estimates."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import norm, truncnorm

from ray_mixopt.benchmark.problem import Task
from ray_mixopt.benchmark.rivals.base import Rival, Run, geometric_rungs
from ray_mixopt.strategies import Suggestion


class Bohb(Rival):
    """BOHB over softmax logits and the steps of the target scale, with the constants of its authors.

    Args:
        task: what is searched.
        bound: logits are between -bound and bound.
        eta: Hyperband's factor between rungs.
        smallest: the first rung, as a share of the target's steps.
        top_percent: share of the observations that count as good.
        samples: draws from the good density, of which the one with the best ratio of densities is run.
        random_fraction: share of the configurations that are drawn uniformly.
        bandwidth_factor: widens the density that is drawn from.
        min_bandwidth: smallest bandwidth, in the unit cube.
    """

    def __init__(
        self,
        task: Task,
        *,
        bound: float,
        eta: int,
        smallest: float,
        top_percent: float,
        samples: int,
        random_fraction: float,
        bandwidth_factor: float,
        min_bandwidth: float,
    ) -> None:
        super().__init__(task)
        self.rungs = geometric_rungs(task, eta, smallest * task.space.target_steps)
        self.task = task.with_rungs(self.rungs) if task.any_steps else task
        self.bound, self.eta, self.top_percent, self.samples = bound, eta, top_percent, samples
        self.random_fraction, self.bandwidth_factor = random_fraction, bandwidth_factor
        self.min_bandwidth = min_bandwidth
        self._points: dict[str, np.ndarray] = {}  # in the unit cube, by trial
        self._schedule = self._hyperband()

    def ask(self) -> Suggestion:
        """The next run of Hyperband."""
        return next(self._schedule)

    def _hyperband(self) -> Iterator[Suggestion]:
        most = len(self.rungs) - 1
        while True:
            for s in range(most, -1, -1):  # a bracket starts at rung most - s
                first = self.rungs[most - s]
                runs = []
                for _ in range(math.ceil((most + 1) / (s + 1) * self.eta**s)):
                    point = self._sample()
                    mixture = self.softmax(self.bound * (2 * point - 1))
                    suggestion = self.start(mixture, self.space.target_scale, first)
                    self._points[suggestion.trial_id] = point
                    runs.append(self.runs[suggestion.trial_id])
                    yield suggestion
                for rung in self.rungs[most - s + 1 :]:
                    runs = sorted((r for r in runs if not r.failed), key=lambda r: r.loss)[: len(runs) // self.eta]
                    for run in runs:
                        yield self.go_on(run, rung)

    def _sample(self) -> np.ndarray:
        """A configuration in the unit cube, ``(d,)``."""
        points, losses = self._observations()
        n_min = self.d + 1
        if len(losses) < n_min + 2 or self.rng.random() < self.random_fraction:
            return self.rng.random(self.d)
        order = np.argsort(losses, kind="stable")
        n_good = max(n_min, int(self.top_percent * len(losses)))
        n_bad = max(n_min, len(losses) - n_good)
        good, bad = points[order[:n_good]], points[order[-n_bad:]]
        h_good, h_bad = (np.maximum(_bandwidth(x), self.min_bandwidth) for x in (good, bad))
        centres = good[self.rng.integers(len(good), size=self.samples)]
        wide = self.bandwidth_factor * h_good
        draws = truncnorm.rvs(-centres / wide, (1 - centres) / wide, centres, wide, random_state=self.rng)
        ratio = _log_density(draws, good, h_good) - _log_density(draws, bad, h_bad)
        return draws[int(ratio.argmax())]

    def _observations(self) -> tuple[np.ndarray, np.ndarray]:
        """Points and losses of the highest rung that has enough of them."""
        for rung in reversed(self.rungs):
            runs: list[Run] = [run for run in self.runs.values() if rung in run.losses]
            if len(runs) >= self.d + 3:
                return np.array([self._points[r.trial_id] for r in runs]), np.array([r.losses[rung] for r in runs])
        return np.empty((0, self.d)), np.empty(0)


def _bandwidth(points: np.ndarray) -> np.ndarray:
    """Bandwidths by the normal reference rule, ``(d,)``."""
    n, d = points.shape
    found: np.ndarray = 1.06 * points.std(axis=0) * n ** (-1 / (4 + d))
    return found


def _log_density(x: np.ndarray, centres: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Log density of ``k x d`` points under Gaussians around ``n x d`` centres, ``(k,)``."""
    logs = norm.logpdf(x[:, None], centres[None], width).sum(axis=-1)  # (k, n)
    result: np.ndarray = np.logaddexp.reduce(logs, axis=1) - math.log(len(centres))
    return result
