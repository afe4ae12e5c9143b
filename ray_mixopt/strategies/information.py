"""The default strategy: buy the information about the target's optimum that is cheapest.

Each metric of the objective has a Gaussian process over (mixture, scale, steps), averaged over draws of its
hyper-parameters. A run is worth the information it gives about the optimum at the target, per cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.acquisition.information import log_information_gain, sample_minima
from ray_mixopt.history import History
from ray_mixopt.recommendation import Prediction, Recommendation
from ray_mixopt.strategies.base import Problem, Proposal
from ray_mixopt.strategies.candidates import perturbed, refined, spread_out
from ray_mixopt.strategies.design import initial_design
from ray_mixopt.surrogate.encoding import encode, observations
from ray_mixopt.surrogate.fit import laplace_draws, map_estimate
from ray_mixopt.surrogate.model import Standardisation, Surrogate

N_DRAWS = 6  # of the hyper-parameters
N_CANDIDATES = 512
N_PLAUSIBLE = 40  # candidates, by lower confidence bound, for each draw, that may be the optimum
N_MINIMA = 32  # samples of the optimum, for each draw
N_TOP = 12  # candidates, by lower confidence bound, for each draw
COST_EXPONENT = 0.8
REFIT_GROWTH = 1.1  # hyper-parameters are refitted whenever there is a tenth more data


@dataclass(frozen=True, kw_only=True)
class Action:
    """A run that could be bought."""

    mixture: int  # row of the candidates
    scale: str
    steps: int
    cost: float
    continues: str | None = None


class InformationStrategy:
    """Multi-fidelity information gain per cost.

    Args:
        problem: what is searched.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.space = problem.space
        self.design = initial_design(problem.space, problem.rng(0, 0))
        self._fits: dict[str, tuple[bytes, Tensor]] = {}

    # -- what to run

    def propose(self, history: History) -> Proposal | None:
        """The next run of the design, then the action with the most information per cost."""
        affordable = self.problem.affordable(history) * (1 + 1e-12)
        if history.n_asked < len(self.design):
            first = self.design[history.n_asked]
            if self.space.cost(first.scale, first.steps) <= affordable:
                return first
        surrogates = self.surrogates(history)
        if surrogates is None:
            return self._blind(history, affordable)
        objective = Objective(self.problem, [s.given_pending(self._pending(history)) for s in surrogates])
        rng = self.problem.rng(1, history.n_asked)
        candidates = self._candidates(objective, history, rng)
        top, log_gain, actions = self._score(objective, candidates, history, affordable, rng)
        if not actions:
            return None
        cost = torch.tensor([action.cost for action in actions], dtype=torch.float64)
        best = actions[int((log_gain - COST_EXPONENT * cost.log()).argmax())]
        return Proposal(mixture=top[best.mixture], scale=best.scale, steps=best.steps, continues=best.continues)

    def _blind(self, history: History, affordable: float) -> Proposal | None:
        """A random mixture at the cheapest fidelity, while nothing has been observed."""
        scale, steps = min(
            ((name, rung) for name in self.space.scale_names for rung in self.space.steps),
            key=lambda cell: self.space.cost(*cell),
        )
        if self.space.cost(scale, steps) > affordable:
            return None
        mixture = self.space.sample(1, self.problem.rng(2, history.n_asked))[0]
        return Proposal(mixture=mixture, scale=scale, steps=steps)

    def _pending(self, history: History) -> Tensor:
        running = history.pending()
        if not running:
            return torch.zeros(0, self.space.n_domains + 2, dtype=torch.float64)
        return encode(self.space, np.array([t.mixture for t in running]), [(t.scale, t.steps) for t in running])

    def _candidates(self, objective: Objective, history: History, rng: np.random.Generator) -> np.ndarray:
        tried = np.unique(history.mixtures(), axis=0)
        base = np.concatenate([spread_out(self.space, N_CANDIDATES, rng), tried])
        order = objective.mean_at_target(base).argsort(dim=-1, stable=True)[:8].numpy()
        near = perturbed(self.space, base[order], N_CANDIDATES // 4, rng, reach=0.3)
        return np.concatenate([base, near])

    def _score(
        self,
        objective: Objective,
        candidates: np.ndarray,
        history: History,
        affordable: float,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, Tensor, list[Action]]:
        """The mixtures worth a look, the log information gain of each action on them, and the actions."""
        space = self.space
        mean, variance = objective.marginal_at_target(candidates)
        by_bound = (mean - 2 * variance.sqrt()).argsort(dim=-1, stable=True)
        plausible = torch.unique(by_bound[:, :N_PLAUSIBLE])
        normals = torch.from_numpy(rng.standard_normal((len(mean), len(plausible), N_MINIMA)))
        minima = sample_minima(*objective.joint_at_target(candidates[plausible.numpy()]), normals)  # (s, k)
        best = mean.mean(0).argsort(dim=-1, stable=True)[:4]
        chosen = torch.unique(torch.cat([by_bound[:, :N_TOP].flatten(), best]))
        top = candidates[chosen.numpy()]
        mean, variance = mean[:, chosen], variance[:, chosen]
        actions = [
            Action(mixture=i, scale=scale, steps=steps, cost=space.cost(scale, steps))
            for i in range(len(top))
            for scale in space.scale_names
            for steps in space.steps
        ]
        paused = history.paused() if self.problem.continuation else []
        if paused:
            actions += [
                Action(
                    mixture=len(top) + i,
                    scale=trial.scale,
                    steps=steps,
                    cost=space.cost(trial.scale, steps, start=trial.reached),
                    continues=trial.trial_id,
                )
                for i, trial in enumerate(paused)
                for steps in space.steps
                if steps > trial.reached
            ]
            shares = np.array([trial.mixture for trial in paused])
            top = np.concatenate([top, shares])
            paused_mean, paused_variance = objective.marginal_at_target(shares)
            mean, variance = torch.cat([mean, paused_mean], -1), torch.cat([variance, paused_variance], -1)
        actions = [action for action in actions if action.cost <= affordable]
        if not actions:
            return top, torch.zeros(0, dtype=torch.float64), []
        rows = np.array([a.mixture for a in actions])
        correlation, between = objective.correlation(top, rows, [(a.scale, a.steps) for a in actions])
        gamma = (mean.unsqueeze(-1) - minima.unsqueeze(-2)) / variance.sqrt().unsqueeze(-1)  # (s, c, k)
        within = log_information_gain(correlation, gamma[:, rows]).logsumexp(0) - math.log(len(mean))  # (a,)
        about_hyper = (-0.5 * torch.log1p(-between.clamp_max(1 - 1e-9))).clamp_min(1e-300).log()
        return top, torch.logaddexp(within, about_hyper), actions

    # -- what to answer

    def recommend(self, history: History) -> Recommendation:
        """The mixture of lowest predicted objective at the target."""
        space = self.space
        common = {
            "scale": space.target_scale,
            "steps": space.target_steps,
            "spent": history.spent,
            "target_runs": history.spent / space.target_cost,
            "diverged": sum(t.status == "diverged" for t in history),
        }
        surrogates = self.surrogates(history)
        if surrogates is None:
            return Recommendation(mixture=space.named(space.uniform()), predicted=None, uniform=None, **common)
        objective = Objective(self.problem, surrogates)
        rng = self.problem.rng(3, len(history.arrivals))
        start = np.concatenate([spread_out(space, 4 * N_CANDIDATES, rng), np.unique(history.mixtures(), axis=0)])
        best = refined(space, start, lambda w: objective.mean_at_target(w).numpy(), rng)[0]
        proportional = space.proportional()
        return Recommendation(
            mixture=space.named(best),
            predicted=objective.prediction(best),
            uniform=objective.prediction(space.uniform()),
            proportional=None if proportional is None else objective.prediction(proportional),
            **common,
        )

    # -- what is known

    def surrogates(self, history: History) -> list[Surrogate] | None:
        """A surrogate for each metric of the objective; None while one of them was never observed.

        Hyper-parameters are those of the data at the last refit point, a function of the history alone.
        """
        result = []
        for metric in self.problem.objective:
            x, y = observations(self.space, history, metric)
            if len(y) < 2:
                return None
            standardise = Standardisation.of(y)
            result.append(Surrogate(x, standardise(y), self._theta(metric, x, y), standardise))
        return result

    def _theta(self, metric: str, x: Tensor, y: Tensor) -> Tensor:
        n = refit_size(len(y))
        x, y = x[:n], y[:n]
        key = x.numpy().tobytes() + y.numpy().tobytes()
        cached = self._fits.get(metric)
        if cached is None or cached[0] != key:
            values = Standardisation.of(y)(y)
            d = self.space.n_domains
            mode = map_estimate(x, values, d)
            self._fits[metric] = key, laplace_draws(x, values, d, mode, N_DRAWS, self.problem.rng(4, n))
        return self._fits[metric][1]


def refit_size(n: int) -> int:
    """The number of observations the hyper-parameters were last fitted to, when there are ``n``."""
    size = 2
    while (following := max(size + 1, math.ceil(size * REFIT_GROWTH))) <= n:
        size = following
    return size


class Objective:
    """The posterior of the objective, a weighted sum of independent metrics; lower is better.

    Args:
        problem: gives the weights and the direction.
        surrogates: one a metric, in the order of the objective.
    """

    def __init__(self, problem: Problem, surrogates: list[Surrogate]) -> None:
        self.problem, self.space, self.surrogates = problem, problem.space, surrogates
        self.weights = [
            problem.sign * weight * surrogate.standardisation.spread
            for weight, surrogate in zip(problem.objective.values(), surrogates, strict=True)
        ]
        self.center = sum(
            problem.sign * weight * surrogate.standardisation.center
            for weight, surrogate in zip(problem.objective.values(), surrogates, strict=True)
        )
        self.target = [(problem.space.target_scale, problem.space.target_steps)]

    def mean_at_target(self, mixtures: np.ndarray) -> Tensor:
        """Mean over draws and posterior, ``(c,)``."""
        x = encode(self.space, mixtures, self.target)
        return sum(a * s.mean(x).mean(0) for a, s in zip(self.weights, self.surrogates, strict=True)) + self.center  # type: ignore[return-value]

    @torch.no_grad()
    def marginal_at_target(self, mixtures: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and variance of the objective at the target, each ``s x c``."""
        x = encode(self.space, mixtures, self.target)
        mean: Tensor | float = self.center
        variance: Tensor | float = 0.0
        for weight, s in zip(self.weights, self.surrogates, strict=True):
            white = s.whitened(x)
            mean = mean + weight * (white.mT @ s.white).squeeze(-1)
            variance = variance + weight**2 * (s.prior_variance(x) - white.square().sum(-2)).clamp_min(1e-16)
        assert isinstance(mean, Tensor) and isinstance(variance, Tensor)
        return mean, variance

    def joint_at_target(self, mixtures: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean ``s x c`` and covariance ``s x c x c`` of the objective at the target."""
        x = encode(self.space, mixtures, self.target)
        mean: Tensor | float = self.center
        covariance: Tensor | float = 0.0
        with torch.no_grad():
            for weight, s in zip(self.weights, self.surrogates, strict=True):
                white = s.whitened(x)
                mean = mean + weight * (white.mT @ s.white).squeeze(-1)
                covariance = covariance + weight**2 * (s.hyper.kernel.forward(x, x) - white.mT @ white)
        assert isinstance(mean, Tensor) and isinstance(covariance, Tensor)
        return mean, covariance

    @torch.no_grad()
    def correlation(
        self, mixtures: np.ndarray, rows: np.ndarray, fidelities: list[tuple[str, int]]
    ) -> tuple[Tensor, Tensor]:
        """How much reports of actions tell about the objective at the target of their own mixtures.

        Args:
            mixtures: ``c x d``.
            rows: mixture of each action, ``(a,)``.
            fidelities: scale and steps of each action.

        Returns:
            Squared correlation of the reports with the target value, ``s x a``, and the squared correlation of their
            means over the hyper-parameter draws, ``(a,)``.
        """
        at_target = encode(self.space, mixtures, self.target)
        at_action = encode(self.space, mixtures[rows], fidelities)
        explained: Tensor | float = 0.0
        variance: Tensor | float = 0.0
        between_explained: Tensor | float = 0.0
        between_variance: Tensor | float = 0.0
        for weight, s in zip(self.weights, self.surrogates, strict=True):
            target, action = s.whitened(at_target), s.whitened(at_action)
            prior = s.hyper.kernel.forward(at_action, at_target[rows], diag=True)
            covariance = prior - (action * target[..., rows]).sum(-2)  # (s, a)
            own = (s.prior_variance(at_action) - action.square().sum(-2)).clamp_min(1e-12) + s.noise
            explained = explained + weight**2 * covariance.square() / own
            variance = variance + weight**2 * (s.prior_variance(at_target) - target.square().sum(-2)).clamp_min(1e-16)
            mean_action, mean_target = (action.mT @ s.white).squeeze(-1), (target.mT @ s.white).squeeze(-1)[:, rows]
            offset_action, offset_target = mean_action - mean_action.mean(0), mean_target - mean_target.mean(0)
            shared = (offset_action * offset_target).mean(0)
            between_explained = between_explained + weight**2 * shared.square() / (
                offset_action.square().mean(0) + own.mean(0)
            )
            between_variance = between_variance + weight**2 * offset_target.square().mean(0)
        assert isinstance(variance, Tensor) and isinstance(between_variance, Tensor)
        return explained / variance[:, rows], between_explained / between_variance.clamp_min(1e-16)

    def prediction(self, mixture: np.ndarray) -> Prediction:
        """The objective at the target in its own unit and direction: moments over draws and posterior."""
        mean, covariance = self.joint_at_target(mixture[None])
        center = float(mean.mean())
        half = 1.96 * math.sqrt(float(mean.var(correction=0) + covariance.mean()))
        sign = self.problem.sign
        return Prediction(mean=sign * center, low=sign * center - half, high=sign * center + half)

