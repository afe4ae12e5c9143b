"""One-shot methods: a swarm of small runs, a regression, and its minimum."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ray_mixopt.analysis.truth import dense_minimiser
from ray_mixopt.benchmark.problem import Task
from ray_mixopt.benchmark.rivals.base import Rival
from ray_mixopt.benchmark.rivals.regressions import ExponentialLaw, boosted_trees, extrapolated, log_linear
from ray_mixopt.core.strategy import Suggestion


class RegMix(Rival):
    """RegMix (Liu et al., 2024): Dirichlet mixtures at one small fidelity, a regression, the mean of its best mixtures.

    The fidelity is the most costly one at which the budget pays for the swarm.

    Args:
        task: what is searched.
        regression: "lightgbm" or "log-linear" (the logarithm of the loss above a floor is linear in the shares).
        runs_per_domain: size of the swarm, for each domain.
        concentration: of the Dirichlet.
        simulated: mixtures that the regression is asked about.
        averaged: number of its best mixtures whose mean is recommended.
        lightgbm: parameters of LightGBM.
    """

    def __init__(
        self,
        task: Task,
        *,
        regression: str,
        runs_per_domain: int,
        concentration: float,
        simulated: int,
        averaged: int,
        lightgbm: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(task)
        self.regression, self.concentration = regression, concentration
        self.simulated, self.averaged, self.lightgbm = simulated, averaged, dict(lightgbm or {})
        swarm = runs_per_domain * self.d
        cells = self.cells()
        affordable = [cell for cell in cells if swarm * self.space.cost(*cell) <= task.budget] or cells[:1]
        self.scale, self.steps = affordable[-1]

    def ask(self) -> Suggestion:
        """Another run of the swarm, while the budget lasts."""
        return self.start(self.space.sample(1, self.rng, self.concentration)[0], self.scale, self.steps)

    def recommend(self) -> dict[str, float]:
        """The mean of the mixtures that the regression ranks first; the uniform one before there is one a domain."""
        runs = [run for run in self.runs.values() if self.steps in run.losses]
        if len(runs) < self.d + 2:
            return self.space.named(self.space.uniform())
        w, y = np.array([run.mixture for run in runs]), np.array([run.losses[self.steps] for run in runs])
        rng = np.random.default_rng([self.task.seed, 2])
        asked = np.concatenate([self.space.sample(self.simulated, rng, self.concentration), self.space.corners()])
        predicted = (
            boosted_trees(w, y, asked, self.lightgbm) if self.regression == "lightgbm" else log_linear(w, y, asked)
        )
        best = asked[np.argsort(predicted, kind="stable")[: self.averaged]]
        return self.space.named(best.mean(axis=0))


class MixingLaw(Rival):
    """Data mixing laws (Ye et al., 2024): scaling laws in scale and steps for each mixture, then a law over mixtures.

    Every mixture is run at the smallest scales to one length. Its loss at the target is extrapolated with
    ``E + A m^-a + B z^-b``, where ``a`` and ``b`` are shared; ``c + sum_i k_i exp(t_i . w)`` is fitted to those.

    Args:
        task: what is searched.
        scales: number of scales, the smallest first.
        runs_per_domain: mixtures for each domain that the budget should pay for; sets the length.
        terms: number of exponentials.
        starts: of the fit, from random parameters.
        exponents: values of ``a`` and ``b`` that are tried.
    """

    def __init__(
        self, task: Task, *, scales: int, runs_per_domain: int, terms: int, starts: int, exponents: list[float]
    ) -> None:
        super().__init__(task)
        space = task.space
        self.scales = space.scale_names[:scales]
        self.terms, self.starts, self.exponents = terms, starts, exponents
        price = sum(space.cost(name, 1) for name in self.scales) * runs_per_domain * self.d
        within = [z for z in space.steps if z <= space.target_steps]
        self.steps = max([z for z in within if price * z <= task.budget], default=within[0])
        self._mixture = space.uniform()

    def ask(self) -> Suggestion:
        """The mixture at its next scale, or another mixture at the first."""
        scale = self.scales[len(self.runs) % len(self.scales)]
        if scale == self.scales[0]:
            self._mixture = self.space.sample(1, self.rng)[0]
        return self.start(self._mixture, scale, self.steps)

    def recommend(self) -> dict[str, float]:
        """The minimum of the law; the uniform mixture while there are fewer mixtures than domains."""
        w, y = self._extrapolated()
        if len(y) < self.d + 2:
            return self.space.named(self.space.uniform())
        law = ExponentialLaw(w, y, self.terms, self.starts, np.random.default_rng([self.task.seed, 3]))
        return self.space.named(dense_minimiser(law, self.space, samples=5000))

    def _extrapolated(self) -> tuple[np.ndarray, np.ndarray]:
        """Mixtures ``n x d`` that ran at all scales, and their losses extrapolated to the target ``(n,)``."""
        runs = list(self.runs.values())
        width = len(self.scales)
        groups = [runs[i : i + width] for i in range(0, len(runs) - width + 1, width)]
        groups = [group for group in groups if all(self.steps in run.losses for run in group)]
        if not groups:
            return np.empty((0, self.d)), np.empty(0)
        steps = sorted(groups[0][0].losses)
        values = np.array([[run.losses[z] for run in group for z in steps] for group in groups])  # (n, cells)
        sizes = {scale.name: scale.parameters or scale.cost_per_step for scale in self.space.scales}
        m = np.array([sizes[name] / sizes[self.space.target_scale] for name in self.scales for _ in steps])
        z = np.array([step / self.space.target_steps for _ in self.scales for step in steps])
        return np.array([group[0].mixture for group in groups]), extrapolated(m, z, values, self.exponents)


class Ranking(Rival):
    """One-shot ranking of logged mixtures by small runs, then target runs in that order.

    Where the candidates have small runs of their own, they are ranked by those. Otherwise (RegMix's 1B mixtures have
    none) by LightGBM fitted to all small runs. Recommends the best of the target runs, or the first of the ranking.

    Args:
        task: what is searched.
        lightgbm: parameters of LightGBM, where a regression is needed.
    """

    def __init__(self, task: Task, *, lightgbm: Mapping[str, object]) -> None:
        super().__init__(task)
        self.lightgbm = dict(lightgbm)
        pool, space = task.pool, task.space
        assert pool is not None
        rung = space.steps.index(space.target_steps)
        at_target = pool.available[:, space.scale_names.index(space.target_scale), rung]
        self.candidates = pool.mixtures[at_target]
        # The cheapest scale, to the longest length up to the target's that its mixtures reach.
        self.scale = space.scale_names[0]
        here = pool.available[:, 0]
        own = here[at_target].any(axis=1).all()
        chosen = here & (at_target[:, None] if own else np.ones((len(here), 1), dtype=bool))
        rungs = [i for i, z in enumerate(space.steps) if z <= space.target_steps]
        counts = chosen[:, rungs].sum(axis=0)
        rung = max(i for i in rungs if counts[i] == counts.max())
        self.steps = space.steps[rung]
        self._small = list(self.rng.permutation(pool.mixtures[chosen[:, rung]]))
        self._order: list[np.ndarray] | None = None

    def ask(self) -> Suggestion | None:
        """The small runs first, then the target runs by rank."""
        if self._small:
            return self.start(self._small.pop(), self.scale, self.steps)
        if self._order is None:
            self._order = list(self._ranked())
        tried = sum(run.scale == self.space.target_scale for run in self.runs.values())
        if tried == len(self._order):
            return None
        return self.start(self._order[tried], self.space.target_scale, self.space.target_steps)

    def recommend(self) -> dict[str, float]:
        """The best target run, or what the small runs rank first."""
        full = [run for run in self.runs.values() if run.scale == self.space.target_scale and run.losses]
        if full:
            return self.space.named(min(full, key=lambda run: run.loss).mixture)
        return self.space.named(self._ranked()[0])

    def _ranked(self) -> np.ndarray:
        """The candidates, ``n x d``, best first as far as the small runs tell."""
        runs = [run for run in self.runs.values() if self.steps in run.losses and run.scale == self.scale]
        seen = {tuple(run.mixture): run.losses[self.steps] for run in runs}
        own = [seen.get(tuple(w)) for w in self.candidates]
        if any(value is not None for value in own):
            scores = np.array([np.inf if value is None else value for value in own])
        elif len(runs) > self.d:
            w, y = np.array([run.mixture for run in runs]), np.array([run.losses[self.steps] for run in runs])
            scores = boosted_trees(w, y, self.candidates, self.lightgbm)
        else:
            scores = np.zeros(len(self.candidates))
        return self.candidates[np.argsort(scores, kind="stable")]
