"""The posterior of the objective at the target: a weighted sum of metrics, each with its own surrogate.

Notation: ``s`` hyper-parameter draws, ``c`` mixtures, ``a`` runs. Values are in the objective's unit with the sign that
makes lower better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.recommendation import Calibration, Prediction
from ray_mixopt.space import MixtureSpace
from ray_mixopt.surrogate.encoding import encode
from ray_mixopt.surrogate.model import Surrogate

_TINY = 1e-16
_NORMAL_95 = 1.959963984540054


class ObjectivePosterior:
    """Independent surrogates combined with the weights of the objective.

    Args:
        space: the search space.
        sign: +1 to minimise the objective, -1 to maximise it.
        objective: weight of each metric.
        surrogates: one a metric, in the order of ``objective``, all with the same number of draws.
    """

    def __init__(
        self, space: MixtureSpace, sign: float, objective: Mapping[str, float], surrogates: Sequence[Surrogate]
    ) -> None:
        self.space, self.sign, self.surrogates = space, sign, list(surrogates)
        pairs = list(zip(objective.values(), self.surrogates, strict=True))
        self.weights = [sign * weight * s.standardisation.spread for weight, s in pairs]
        self.center = math.fsum(sign * weight * s.standardisation.center for weight, s in pairs)
        self.n_draws = len(self.surrogates[0].theta)
        self._target = [(space.target_scale, space.target_steps)]

    def given_pending(self, x: Tensor) -> ObjectivePosterior:
        """The posterior once runs at ``m x d+2`` have reported what is expected of them."""
        result = ObjectivePosterior.__new__(ObjectivePosterior)
        result.__dict__.update(self.__dict__)
        result.surrogates = [s.given_pending(x) for s in self.surrogates]
        return result

    def mean(self, mixtures: np.ndarray) -> Tensor:
        """Mean at the target over draws and posterior, ``(c,)``."""
        x = encode(self.space, mixtures, self._target)
        total = torch.full((len(mixtures),), self.center, dtype=torch.float64)
        for weight, s in zip(self.weights, self.surrogates, strict=True):
            total += weight * s.mean(x).mean(0)
        return total

    @torch.no_grad()
    def marginal(self, mixtures: np.ndarray, reference: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance at the target, each ``s x c``.

        Args:
            mixtures: ``c x d``.
            reference: if given, ``r x d``, the moments are those of the contrast with the average of these mixtures.
        """
        x = encode(self.space, mixtures, self._target)
        base = None if reference is None else encode(self.space, reference, self._target)
        mean = torch.full((self.n_draws, len(mixtures)), self.center if base is None else 0.0, dtype=torch.float64)
        variance = torch.zeros_like(mean)
        for weight, s in zip(self.weights, self.surrogates, strict=True):
            white, prior = s.whitened(x), s.prior_variance(x)
            if base is not None:
                white = white - s.whitened(base).mean(-1, keepdim=True)
                prior = prior - 2 * s.prior_covariance(x, base).mean(-1)
                prior = prior + s.prior_covariance(base, base).mean((-2, -1)).unsqueeze(-1)
            mean += weight * (white.mT @ s.white).squeeze(-1)
            variance += weight**2 * (prior - white.square().sum(-2)).clamp_min(_TINY)
        return mean, variance

    @torch.no_grad()
    def contrasts(self, mixtures: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean ``s x c`` and covariance ``s x c x c`` at the target, each mixture against the average of all."""
        x = encode(self.space, mixtures, self._target)
        mean = torch.zeros(self.n_draws, len(mixtures), dtype=torch.float64)
        covariance = torch.zeros(self.n_draws, len(mixtures), len(mixtures), dtype=torch.float64)
        for weight, s in zip(self.weights, self.surrogates, strict=True):
            white = s.whitened(x)
            mean += weight * (white.mT @ s.white).squeeze(-1)
            covariance += weight**2 * (s.prior_covariance(x, x) - white.mT @ white)
        covariance = covariance - covariance.mean(-1, keepdim=True)
        return mean - mean.mean(-1, keepdim=True), covariance - covariance.mean(-2, keepdim=True)

    @torch.no_grad()
    def explained(self, runs: Tensor, mixtures: np.ndarray, bases: Tensor) -> tuple[Tensor, Tensor]:
        """What the reports of runs would tell about contrasts between mixtures at the target.

        Args:
            runs: inputs of the runs, ``a x d+2``.
            mixtures: mixtures at the target, ``c x d``.
            bases: for each draw, the index of the mixture that the others are compared with, ``(s,)``.

        Returns:
            The variance of each contrast that a report would explain in each draw, ``s x a x c``, and the information
            (nats) that it would give about which draw is right, ``(a,)``.
        """
        x = encode(self.space, mixtures, self._target)
        index = bases[:, None, None]
        explained = torch.zeros(self.n_draws, len(runs), len(mixtures), dtype=torch.float64)
        information = torch.zeros(len(runs), dtype=torch.float64)
        for weight, s in zip(self.weights, self.surrogates, strict=True):
            run = s.whitened(runs)
            covariance = s.prior_covariance(runs, x) - run.mT @ s.whitened(x)
            covariance -= covariance.gather(-1, index.expand(-1, len(runs), 1))
            own = (s.prior_variance(runs) - run.square().sum(-2)).clamp_min(1e-12) + s.noise  # (s, a)
            explained += weight**2 * covariance.square() / own.unsqueeze(-1)
            total = own.mean(0) + (run.mT @ s.white).squeeze(-1).var(0, correction=0)
            # Of the Gaussian that has the moments of the mixture over the draws.
            information = torch.maximum(information, 0.5 * (total.log() - own.log().mean(0)))
        return explained, information

    @torch.no_grad()
    def expected_gain(self, run: Tensor, mixtures: np.ndarray, rng: np.random.Generator, n_samples: int = 256) -> float:
        """Expected fall of the lowest mean among ``mixtures`` (``c x d``) after a run reports: its knowledge gradient.

        Args:
            run: input of one run, ``1 x d+2``.
            mixtures: what would be recommended from.
            rng: for the reports, antithetic normals.
            n_samples: number of simulated reports.
        """
        x = encode(self.space, mixtures, self._target)
        mean = self.mean(mixtures)
        moved = torch.zeros(n_samples, len(mixtures), dtype=torch.float64)
        for weight, s in zip(self.weights, self.surrogates, strict=True):
            target, report = s.whitened(x), s.whitened(run)
            covariance = (s.prior_covariance(x, run) - target.mT @ report).squeeze(-1)  # (s, c)
            own = (s.prior_variance(run) - report.square().sum(-2)).clamp_min(1e-12) + s.noise  # (s, 1)
            half = torch.from_numpy(rng.standard_normal(n_samples // 2))
            moved += torch.outer(torch.cat([half, -half]), weight * (covariance / own.sqrt()).mean(0))
        return max(float(mean.min() - (mean + moved).amin(-1).mean()), 0.0)

    def prediction(self, mixture: np.ndarray) -> Prediction:
        """The objective at the target for one mixture ``(d,)``, in its own direction: moments over draws."""
        mean, variance = self.marginal(mixture[None])
        center = self.sign * float(mean.mean())
        half = _NORMAL_95 * math.sqrt(float(mean.var(correction=0) + variance.mean()))
        return Prediction(mean=center, low=center - half, high=center + half)

    def calibration(self, runs: Sequence[Sequence[Sequence[int]]]) -> Calibration:
        """Coverage of 95% intervals when each run is predicted from all the others, over all metrics.

        Args:
            runs: for each metric, the rows of its data that belong to the same run.
        """
        inside = total = 0
        for s, groups in zip(self.surrogates, runs, strict=True):
            for rows in groups:
                residual, variance = s.leave_out(rows)
                inside += int((residual.square() <= _NORMAL_95**2 * variance).sum())
                total += len(rows)
        return Calibration(coverage=inside / total if total else math.nan, n=total)


def _centered(values: Tensor) -> Tensor:
    return values - values.mean(0)
