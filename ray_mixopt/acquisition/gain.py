"""Acquisition functions: what is bought, and what the next run is said to be worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.acquisition.offer import LEAST_VARIANCE, Offer
from ray_mixopt.surrogate.points import Points
from ray_mixopt.surrogate.posterior import ObjectivePosterior


@dataclass(frozen=True, kw_only=True)
class RegretPerCost:
    """Logarithm of the regret that a run removes per cost to a power; the default acquisition.

    A run that has a partner is valued with it, too, for the cost of both.

    Args:
        cost_exponent: the power. Below 1, since small runs are cheap but what they tell saturates.
    """

    cost_exponent: float = 0.3

    def __call__(self, offer: Offer) -> Tensor:
        """Value of each run, ``(a,)``."""
        value = self._value(offer.removed, offer.costs)
        rows = offer.paired
        if len(rows):
            value[rows] = torch.maximum(value[rows], self._value(offer.removed_in_pairs, offer.costs_in_pairs))
        return value

    def _value(self, removed: Tensor, costs: Tensor) -> Tensor:
        return removed.clamp_min(1e-300).log() - self.cost_exponent * costs.log()


@dataclass(frozen=True, kw_only=True)
class ExpectedGain:
    """How much better the answer is expected to be once a run has reported: its knowledge gradient.

    As Frazier et al. (2009) have it, for answers that pay for their uncertainty as ``ObjectivePosterior.score`` does.

    Args:
        n_samples: simulated reports, in antithetic pairs.
    """

    n_samples: int = 256

    @torch.no_grad()
    def __call__(
        self, posterior: ObjectivePosterior, run: Points, mixtures: np.ndarray, rng: np.random.Generator
    ) -> float:
        """The gain, in the objective's unit.

        Args:
            posterior: of the objective.
            run: one run, solved.
            mixtures: the answer, and what might be one instead, ``c x d``.
            rng: for the reports.
        """
        target, after = posterior.solve(mixtures), posterior.given_pending(run.x)
        mean = posterior.shunned(mixtures, posterior.mean(mixtures))
        moved = torch.zeros(self.n_samples, len(mixtures), dtype=torch.float64)
        draws = rng.standard_normal((len(posterior.weights), self.n_samples // 2))
        normals = posterior.root @ torch.from_numpy(draws)
        parts = zip(posterior.weights, target.solved, run.solved, normals, strict=True)
        for weight, there, report, half in parts:
            covariance = there.covariance(report).squeeze(-1)  # (s, c)
            own = report.variance.clamp_min(LEAST_VARIANCE) + report.noise  # (s, 1)
            moved += torch.outer(torch.cat([half, -half]), weight * (covariance / own.sqrt()).mean(0))
        means, variances = after.marginal(mixtures, posterior.anchor[None])
        doubt = (means.var(0, correction=0) + variances.mean(0)).sqrt()
        then = mean + moved
        answers = (then + (posterior.caution + posterior.fewness) * doubt).argmin(-1, keepdim=True)
        return max(float((then[:, 0] - then.gather(-1, answers).squeeze(-1)).mean()), 0.0)
