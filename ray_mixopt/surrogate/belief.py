"""What is believed given a history: a model of every metric, fitted once and kept.

Beliefs are a function of the seed and the history alone. The same object serves the strategy, the analysis and the
report, so that none of them fits again what another has fitted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.core.baselines import resolve
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.objective import Guardrail
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.strategy import Callback
from ray_mixopt.surrogate.bundles import Bundle, alone, bundled
from ray_mixopt.surrogate.correlation import error_correlation
from ray_mixopt.surrogate.divergence import Divergence
from ray_mixopt.surrogate.doubt import sound
from ray_mixopt.surrogate.encoding import Observations, observations
from ray_mixopt.surrogate.fit import KernelMaker, laplace_draws, map_estimate
from ray_mixopt.surrogate.gp import MixtureGP
from ray_mixopt.surrogate.kernels import MixtureFidelityKernel
from ray_mixopt.surrogate.posterior import CAUTION, Guard, ObjectivePosterior
from ray_mixopt.surrogate.standardisation import Standardisation

logger = logging.getLogger(__name__)

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
        most_models: metrics of an objective that have a model each; of more, those that go together share one.
        bundles: models that they then share, see ``bundles``.
    """

    draws: int = 8
    fewer_draws: int = 500
    most_used: int = 3000
    most_fitted: int = 320
    refit_growth: float = 1.1
    most_models: int = 10
    bundles: int = 4

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
        noise: standard deviation of a report by metric, in its unit, where it is known and not to be learned.
        kernel: makes their kernel.
        callbacks: told of every fit.
        caution: of the objective's posterior, see ``ObjectivePosterior``.
        told: whether what runs say of their own noise is heeded.
    """

    def __init__(
        self,
        seed: int,
        *,
        settings: FitSettings | None = None,
        noise: Mapping[str, float] | None = None,
        kernel: KernelMaker = MixtureFidelityKernel,
        callbacks: tuple[Callback, ...] = (),
        caution: float = CAUTION,
        told: bool = True,
    ) -> None:
        self.seed, self.settings, self.kernel, self.callbacks = seed, settings or FitSettings(), kernel, callbacks
        self.caution, self.noise, self.told = caution, dict(noise or {}), told
        self._fits: dict[str, tuple[bytes, Tensor]] = {}  # by metric: what was fitted to, and the draws
        self._models: dict[str, tuple[tuple[bytes, int], MixtureGP]] = {}
        self._sound: dict[str, tuple[bytes, Tensor]] = {}  # by metric: all observations, and which are no absurdities
        self._warned: set[str] = set()

    @cached_property
    def apart(self) -> Belief:
        """Another one of the same kind, for a part of the history: neither forgets what it has fitted."""
        return Belief(
            self.seed,
            settings=self.settings,
            noise=self.noise,
            kernel=self.kernel,
            caution=self.caution,
            told=self.told,
        )

    @cached_property
    def untold(self) -> Belief:
        """Another one of the same kind, which learns all noise from the reports alone."""
        return Belief(self.seed, settings=self.settings, kernel=self.kernel, caution=self.caution, told=False)

    def is_told(self, history: History) -> bool:
        """Whether something is said of the noise."""
        return bool(self.noise) or any(trial.noise for trial in history)

    def posterior(self, problem: Problem, history: History) -> ObjectivePosterior | None:
        """The objective at the target given the history; None while one of its metrics has fewer than two values."""
        bundles = self._bundles(problem, history)
        if any(len(bundle.data.y) < 2 for bundle in bundles):
            return None
        n_draws = min(self.settings.draws_of(len(bundle.data.y)) for bundle in bundles)
        models = [self._model(bundle.name, bundle.data, n_draws) for bundle in bundles]
        correlation = error_correlation([self.used(bundle.data) for bundle in bundles], models)
        space, goal = problem.space, problem.goal
        posterior = ObjectivePosterior(
            space,
            problem.sign,
            {bundle.name: bundle.weight for bundle in bundles},
            models,
            correlation=correlation,
            anchors=list(problem.baselines().values()),
            caution=self.caution,
            divergence=Divergence.of(space, history),
            relative_to=None if goal is None or goal.relative_to is None else resolve(goal.relative_to, space),
            prior=None if goal is None or not goal.closeness else resolve(goal.prior, space),
            closeness=0.0 if goal is None else goal.closeness,
            guards=[] if goal is None else [self._guard(rail, problem, history) for rail in goal.guardrails],
        )
        for bundle, model in zip(bundles, models, strict=True):
            if bundle.name in posterior.too_small and bundle.name not in self._warned:
                self._warned.add(bundle.name)
                known = posterior.too_small[bundle.name]
                logger.warning(
                    "The objective is relative to a mixture for which %s is predicted as %.2g [%.2g, %.2g], too near 0 "
                    "to divide by: it counts in standard deviations of its reports, of %.2g, instead.",
                    *(bundle.name, known.mean, known.low, known.high, model.standardise.spread),
                )
        return posterior

    def model(self, metric: str, problem: Problem, history: History) -> MixtureGP | None:
        """The model of one metric; None while it has fewer than two values.

        Args:
            metric: its name, of the objective or not.
            problem: the search's.
            history: what was seen.
        """
        data, _ = self._observed(metric, problem, history)
        return None if len(data.y) < 2 else self._model(metric, data, self.settings.draws_of(len(data.y)))

    def data(self, problem: Problem, history: History) -> Mapping[str, Observations]:
        """The observations of each model of the objective, by name: of a metric, or of the sum of many."""
        return {bundle.name: bundle.data for bundle in self._bundles(problem, history)}

    def absurd(self, problem: Problem, history: History) -> tuple[str, ...]:
        """The reports that no model believes, see ``doubt``: each a few words that name metric, run and value."""
        found = []
        for metric in problem.weights:
            _, left_out = self._observed(metric, problem, history)
            found += [f"{metric} = {y:.4g} of {run}" for run, y in zip(left_out.runs, left_out.y.tolist(), strict=True)]
        return tuple(found)

    def unconfirmed(self, problem: Problem, history: History) -> tuple[Trial, ...]:
        """Runs with a report that is left out and would be good news, while no other run of their mixture says so.

        Bad news that is left out costs nothing: the mixture was not going to be recommended. Good news may be true.
        """
        names: dict[str, None] = {}
        for metric, weight in problem.weights.items():
            data, left_out = self._observed(metric, problem, history)
            gain = problem.sign * weight * (data.y.median() - left_out.y)
            names |= dict.fromkeys(run for run, of_run in zip(left_out.runs, gain.tolist(), strict=True) if of_run > 0)
        return tuple(run for run in (history[name] for name in names) if not _again(run, history))

    def _observed(self, metric: str, problem: Problem, history: History) -> tuple[Observations, Observations]:
        """What is believed of what was reported, and the rest."""
        every = observations(
            problem.space, history, metric, scatter=self.noise.get(metric), chance=problem.chance(metric)
        )
        if not self.told:
            every = replace(every, noise=None)
        content = every.content()
        if metric not in self._sound or self._sound[metric][0] != content:
            self._sound[metric] = content, sound(every, self.kernel)
        rows = self._sound[metric][1]
        if len(rows) == len(every.y):
            return every, every.take(rows[:0])
        others = torch.ones(len(every.y), dtype=torch.bool)
        others[rows] = False
        return every.take(rows), every.take(others.nonzero().squeeze(-1))

    def _bundles(self, problem: Problem, history: History) -> list[Bundle]:
        """The metrics of the objective, many of them in few bundles."""
        data = {metric: self._observed(metric, problem, history)[0] for metric in problem.weights}
        settings, weights = self.settings, problem.weights
        if len(data) <= settings.most_models:
            return alone(data, weights)
        relative = problem.goal is not None and problem.goal.relative_to is not None
        # What relative metrics weigh is known once they have models.
        found = alone(data, weights) if relative else bundled(data, weights, settings.bundles, settings.refit_size)
        if len(found) > settings.most_models and "many models" not in self._warned:
            self._warned.add("many models")
            reason = "relative_to needs" if relative else "runs that report different ones need"
            logger.warning(
                "The objective has %d metrics, and %s %d models: a suggestion takes about as many times as long as for "
                "one metric. %s",
                *(len(data), reason, len(found)),
                "Weigh them yourself instead." if relative else "Let every report have all metrics.",
            )
        return found

    def used(self, data: Observations) -> Observations:
        """Those of the observations that a model holds, in the order in which it holds them."""
        return data.largest(self.settings.most_used)

    def left_out(self, data: Observations) -> int:
        """Number of observations beyond what a model holds."""
        return max(len(data.y) - self.settings.most_used, 0)

    def _guard(self, guardrail: Guardrail, problem: Problem, history: History) -> Guard:
        model, space = self.model(guardrail.metric, problem, history), problem.space
        alone = {guardrail.metric: 1.0}
        posterior = None if model is None else ObjectivePosterior(space, guardrail.sign, alone, [model])
        return Guard(guardrail=guardrail, baseline=resolve(guardrail.baseline, space), posterior=posterior)

    def _model(self, metric: str, data: Observations, n_draws: int) -> MixtureGP:
        key = data.content(), n_draws
        if metric not in self._models or self._models[metric][0] != key:
            theta, fresh = self._theta(metric, data)
            used = self.used(data)
            standardise = Standardisation.of(used.y, used.chance)
            model = MixtureGP(used.x, used.y, theta[:n_draws], used.noise, self.kernel, standardise, used.scatter)
            self._models[metric] = key, model
            if fresh:
                for callback in self.callbacks:
                    callback.on_fit(metric, model)
        return self._models[metric][1]

    def _theta(self, metric: str, data: Observations) -> tuple[Tensor, bool]:
        """Hyper-parameters fitted to the data of the last refit point, and whether they were fitted just now."""
        n = max(data.given, self.settings.refit_size(len(data.y)))
        rows = torch.linspace(0, n - 1, min(n, self.settings.most_fitted)).round().long()
        part = data.take(rows)
        key = part.content()
        fresh = metric not in self._fits or self._fits[metric][0] != key
        if fresh:
            standardise = Standardisation.of(part.y, part.chance)
            known = None if part.noise is None else standardise.variances(part.noise, part.y)
            values, scatter = standardise(part.y), standardise.scatter(part.scatter)
            mode = map_estimate(part.x, values, known, self.kernel, scatter)
            rng = np.random.default_rng([self.seed, _STREAM, n])
            draws = laplace_draws(part.x, values, mode, self.settings.draws, rng, known, self.kernel, scatter)
            self._fits[metric] = key, draws
        return self._fits[metric][1], fresh


def _again(run: Trial, history: History) -> bool:
    """Whether another run of a mixture shows as much, or is on its way to."""
    return any(
        other.trial_id != run.trial_id
        and other.scale == run.scale
        and (other.steps if other.pending else other.reached) >= run.reached
        and same_mixture(np.array(other.mixture), np.array(run.mixture))
        for other in history
    )
