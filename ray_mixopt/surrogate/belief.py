"""What is believed given a history: a model of every metric, fitted once and kept.

Beliefs are a function of the seed and the history alone. The same object serves the strategy, the analysis and the
report, so that none of them fits again what another has fitted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.core.history import History
from ray_mixopt.core.objective import Guardrail, resolve
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Callback
from ray_mixopt.surrogate.correlation import error_correlation
from ray_mixopt.surrogate.encoding import Observations, observations
from ray_mixopt.surrogate.fit import KernelMaker, laplace_draws, map_estimate
from ray_mixopt.surrogate.gp import MixtureGP, Standardisation
from ray_mixopt.surrogate.kernels import MixtureFidelityKernel
from ray_mixopt.surrogate.posterior import Guard, ObjectivePosterior

_STREAM = 3  # of the seed, for the draws of the hyper-parameters


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How much a model holds, and how often and how carefully it is fitted.

    Args:
        draws: of the hyper-parameters, ``s``.
        fewer_draws: observations beyond which there are fewer draws, as many as take the same memory: they agree the
            more.
        most_used: observations that a model holds, those of the largest fidelities.
        most_fitted: observations that hyper-parameters are fitted to, an even selection, since it costs cubic time.
        refit_growth: hyper-parameters are fitted anew whenever there are so many times more observations.
    """

    draws: int = 8
    fewer_draws: int = 500
    most_used: int = 3000
    most_fitted: int = 320
    refit_growth: float = 1.1

    def draws_of(self, n: int) -> int:
        """The number of draws for ``n`` observations."""
        return max(1, min(self.draws, int(self.draws * (self.fewer_draws / max(n, 1)) ** 2)))

    def refit_size(self, n: int) -> int:
        """The number of observations that the hyper-parameters are fitted to when there are ``n``."""
        size = 2
        while (following := max(size + 1, math.ceil(size * self.refit_growth))) <= n:
            size = following
        return size


class Belief:
    """The models of all metrics, and the posterior of an objective made of them.

    Args:
        seed: of the draws of the hyper-parameters.
        settings: how they are fitted.
        kernel: makes their kernel.
        callbacks: told of every fit.
    """

    def __init__(
        self,
        seed: int,
        *,
        settings: FitSettings | None = None,
        kernel: KernelMaker = MixtureFidelityKernel,
        callbacks: tuple[Callback, ...] = (),
    ) -> None:
        self.seed, self.settings, self.kernel, self.callbacks = seed, settings or FitSettings(), kernel, callbacks
        self._fits: dict[str, tuple[bytes, Tensor]] = {}  # by metric: what was fitted to, and the draws
        self._models: dict[str, tuple[tuple[bytes, int], MixtureGP]] = {}

    def posterior(self, problem: Problem, history: History) -> ObjectivePosterior | None:
        """The objective at the target given the history; None while one of its metrics has fewer than two values."""
        data = self.data(problem, history)
        if any(len(values.y) < 2 for values in data.values()):
            return None
        n_draws = min(self.settings.draws_of(len(values.y)) for values in data.values())
        models = [self._model(metric, values, n_draws) for metric, values in data.items()]
        correlation = error_correlation([self.used(values) for values in data.values()], models)
        space, goal = problem.space, problem.goal
        if goal is None:
            return ObjectivePosterior(space, problem.sign, problem.weights, models, correlation=correlation)
        return ObjectivePosterior(
            space,
            problem.sign,
            problem.weights,
            models,
            correlation=correlation,
            relative_to=None if goal.relative_to is None else resolve(goal.relative_to, space),
            prior=resolve(goal.prior, space) if goal.closeness else None,
            closeness=goal.closeness,
            guards=[self._guard(guardrail, space, history) for guardrail in goal.guardrails],
        )

    def model(self, metric: str, space: MixtureSpace, history: History, worst: float = 1.0) -> MixtureGP | None:
        """The model of one metric; None while it has fewer than two values.

        Args:
            metric: its name.
            space: the search space.
            history: what was seen.
            worst: +1 if larger values of the metric are worse, -1 if smaller ones are.
        """
        data = observations(space, history, metric, worst=worst)
        return None if len(data.y) < 2 else self._model(metric, data, self.settings.draws_of(len(data.y)))

    def data(self, problem: Problem, history: History) -> Mapping[str, Observations]:
        """The observations of each metric of the objective, by name."""
        return {
            metric: observations(problem.space, history, metric, worst=problem.sign * weight)
            for metric, weight in problem.weights.items()
        }

    def used(self, data: Observations) -> Observations:
        """Those of the observations that a model holds, in the order in which it holds them."""
        return data.largest(self.settings.most_used)

    def left_out(self, data: Observations) -> int:
        """Number of observations beyond what a model holds."""
        return max(len(data.y) - self.settings.most_used, 0)

    def _guard(self, guardrail: Guardrail, space: MixtureSpace, history: History) -> Guard:
        model = self.model(guardrail.metric, space, history, worst=guardrail.sign)
        alone = {guardrail.metric: 1.0}
        posterior = None if model is None else ObjectivePosterior(space, guardrail.sign, alone, [model])
        return Guard(guardrail=guardrail, baseline=resolve(guardrail.baseline, space), posterior=posterior)

    def _model(self, metric: str, data: Observations, n_draws: int) -> MixtureGP:
        key = data.content(), n_draws
        if metric not in self._models or self._models[metric][0] != key:
            theta, fresh = self._theta(metric, data)
            used = self.used(data)
            model = MixtureGP(used.x, used.y, theta[:n_draws], used.noise, self.kernel)
            self._models[metric] = key, model
            if fresh:
                for callback in self.callbacks:
                    callback.on_fit(metric, model)
        return self._models[metric][1]

    def _theta(self, metric: str, data: Observations) -> tuple[Tensor, bool]:
        """Hyper-parameters fitted to the data of the last refit point, and whether they were fitted just now."""
        n = self.settings.refit_size(len(data.y))
        rows = torch.linspace(0, n - 1, min(n, self.settings.most_fitted)).round().long()
        part = data.take(rows)
        key = part.content()
        fresh = metric not in self._fits or self._fits[metric][0] != key
        if fresh:
            standardise = Standardisation.of(part.y)
            known, values = standardise.variances(part.noise), standardise(part.y)
            mode = map_estimate(part.x, values, known, self.kernel)
            rng = np.random.default_rng([self.seed, _STREAM, n])
            draws = laplace_draws(part.x, values, mode, self.settings.draws, rng, known, self.kernel)
            self._fits[metric] = key, draws
        return self._fits[metric][1], fresh
