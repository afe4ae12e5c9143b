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

from ray_mixopt.core.objective import divergence
from ray_mixopt.core.recommendation import Calibration, Prediction
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.surrogate.covariance import square_root
from ray_mixopt.surrogate.encoding import Observations, encode, reports
from ray_mixopt.surrogate.gp import Surrogate
from ray_mixopt.surrogate.guard import Guard

_TINY = 1e-16
_LEAST_VARIANCE = 1e-12  # of a report, standardised
_NORMAL_95 = 1.959963984540054


class ObjectivePosterior:
    """Surrogates, whose errors may go together, combined with the weights of the objective.

    Each metric's posterior is its own surrogate's. Its error is the surrogate's standard deviation times a standard
    normal, and these are correlated between metrics.

    Args:
        space: the search space.
        sign: +1 to minimise the objective, -1 to maximise it.
        objective: weight of each metric.
        surrogates: one a metric, in the order of ``objective``, all with the same number of draws.
        correlation: of the errors of the ``m`` metrics, ``m x m``; by default there is none.
        relative_to: if given, a mixture ``(d,)``: each metric is divided by the size of its mean for it at the target.
        prior: the mixture ``(d,)`` to stay close to.
        closeness: what a nat of divergence from ``prior`` adds to the objective. Predictions are without it.
        guards: what must hold for a mixture to be recommended.

    Raises:
        ValueError: if a metric's mean for ``relative_to`` is 0.
    """

    def __init__(
        self,
        space: MixtureSpace,
        sign: float,
        objective: Mapping[str, float],
        surrogates: Sequence[Surrogate],
        *,
        correlation: Tensor | None = None,
        relative_to: np.ndarray | None = None,
        prior: np.ndarray | None = None,
        closeness: float = 0.0,
        guards: Sequence[Guard] = (),
    ) -> None:
        self.space, self.sign, self.surrogates = space, sign, list(surrogates)
        self.prior, self.closeness, self.guards = prior, closeness, tuple(guards)
        self._target = [(space.target_scale, space.target_steps)]
        if relative_to is not None:
            objective = self._relative(objective, relative_to)
        pairs = list(zip(objective.values(), self.surrogates, strict=True))
        self.weights = [sign * weight * s.standardisation.spread for weight, s in pairs]
        self.center = math.fsum(sign * weight * s.standardisation.center for weight, s in pairs)
        self.n_draws = len(self.surrogates[0].theta)
        self.correlation = torch.eye(len(pairs), dtype=torch.float64) if correlation is None else correlation
        self._root = square_root(self.correlation)

    def _variance(self, deviations: Sequence[Tensor]) -> Tensor:
        """Of the weighted sum of errors whose signed standard deviations for each metric are given, of any shape."""
        terms = torch.stack([weight * sd for weight, sd in zip(self.weights, deviations, strict=True)])
        return torch.tensordot(self._root.mT, terms, 1).square().sum(0)

    def _relative(self, objective: Mapping[str, float], reference: np.ndarray) -> dict[str, float]:
        """The weights, each over the size of its metric for the reference."""
        x, result = encode(self.space, reference[None], self._target), {}
        for (metric, weight), s in zip(objective.items(), self.surrogates, strict=True):
            value = float(s.mean(x).mean()) * s.standardisation.spread + s.standardisation.center
            if value == 0:
                raise ValueError(f"{metric} is 0 for the mixture that the objective is relative to: choose another.")
            result[metric] = weight / abs(value)
        return result

    def at(self, scale: str, steps: int) -> ObjectivePosterior:
        """The same about another fidelity than the target."""
        result = ObjectivePosterior.__new__(ObjectivePosterior)
        result.__dict__.update(self.__dict__)
        result._target = [(scale, steps)]
        return result

    def penalty(self, mixtures: np.ndarray) -> Tensor:
        """What the distance from the prior adds to the objective, ``(c,)``."""
        if self.prior is None or not self.closeness:
            return torch.zeros(len(mixtures), dtype=torch.float64)
        return self.closeness * torch.from_numpy(divergence(mixtures, self.prior))

    def score(self, mixtures: np.ndarray, mean: Tensor | None = None) -> Tensor:
        """The mean, far above it where a guardrail does not hold: what a recommendation minimises, ``(c,)``.

        Args:
            mixtures: ``c x d``.
            mean: theirs, ``(c,)``, if it is known.
        """
        total = self.mean(mixtures) if mean is None else mean
        scale = math.fsum(map(abs, self.weights))
        for guard in self.guards:
            missing = guard.shortfall(mixtures)
            total = total + torch.where(missing > 0, 10 * scale * (1 + missing), 0.0)
        return total

    def allowed(self, mixtures: np.ndarray, least: int = 32) -> np.ndarray:
        """Indices of the ``c x d`` mixtures for which all guardrails hold, or of the ``least`` that come closest."""
        if not self.guards:
            return np.arange(len(mixtures))
        missing = torch.stack([guard.shortfall(mixtures) for guard in self.guards]).amax(0)
        n = max(int((missing <= 0).sum()), min(least, len(mixtures)))
        return np.sort(missing.argsort(stable=True)[:n].numpy())

    def given_pending(self, x: Tensor) -> ObjectivePosterior:
        """The posterior once runs at ``m x d+2`` have reported what is expected of them."""
        result = ObjectivePosterior.__new__(ObjectivePosterior)
        result.__dict__.update(self.__dict__)
        result.surrogates = [s.given_pending(x) for s in self.surrogates]
        return result

    def mean(self, mixtures: np.ndarray) -> Tensor:
        """Mean at the target over draws and posterior, ``(c,)``."""
        x = encode(self.space, mixtures, self._target)
        total = self.center + self.penalty(mixtures)
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
        deviations = []
        for weight, s in zip(self.weights, self.surrogates, strict=True):
            white, prior = s.whitened(x), s.prior_variance(x)
            if base is not None:
                white = white - s.whitened(base).mean(-1, keepdim=True)
                prior = prior - 2 * s.prior_covariance(x, base).mean(-1)
                prior = prior + s.prior_covariance(base, base).mean((-2, -1)).unsqueeze(-1)
            mean += weight * (white.mT @ s.white).squeeze(-1)
            deviations.append((prior - white.square().sum(-2)).clamp_min(_TINY).sqrt())
        mean += self.penalty(mixtures) - (0.0 if reference is None else self.penalty(reference).mean())
        return mean, self._variance(deviations)

    @torch.no_grad()
    def contrasts(self, mixtures: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean ``s x c`` and covariance ``s x c x c`` at the target, each mixture against the average of all."""
        x = encode(self.space, mixtures, self._target)
        mean = torch.zeros(self.n_draws, len(mixtures), dtype=torch.float64)
        own = []
        for weight, s in zip(self.weights, self.surrogates, strict=True):
            white = s.whitened(x)
            mean += weight * (white.mT @ s.white).squeeze(-1)
            own.append(weight**2 * (s.prior_covariance(x, x) - white.mT @ white))
        covariance = torch.stack(own).sum(0)
        if len(own) > 1:
            roots = torch.stack([math.copysign(1, w) * square_root(c) for w, c in zip(self.weights, own, strict=True)])
            others = torch.tensordot(self.correlation.clone().fill_diagonal_(0.0), roots, 1)
            covariance += (roots @ others.mT).sum(0)
        mean += self.penalty(mixtures)
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
        moved = []
        information = torch.zeros(len(runs), dtype=torch.float64)
        for s in self.surrogates:
            run, covariance, own = _reports(s, runs, x, bases)
            moved.append(covariance / own.sqrt().unsqueeze(-1))
            total = own.mean(0) + (run.mT @ s.white).squeeze(-1).var(0, correction=0)
            # Of the Gaussian that has the moments of the mixture over the draws.
            information = torch.maximum(information, 0.5 * (total.log() - own.log().mean(0)))
        return self._variance(moved), information

    @torch.no_grad()
    def explained_by_pairs(
        self, runs: Tensor, partners: Tensor, partner: Tensor, mixtures: np.ndarray, bases: Tensor
    ) -> Tensor:
        """What each run's report would tell together with that of its partner, ``s x a x c``: see ``explained``.

        Args:
            runs: inputs of the runs, ``a x d+2``.
            partners: inputs of the runs they may be paired with, ``p x d+2``.
            partner: index of the partner of each run, ``(a,)``.
            mixtures: mixtures at the target, ``c x d``.
            bases: for each draw, the index of the mixture that the others are compared with, ``(s,)``.
        """
        x = encode(self.space, mixtures, self._target)
        by_partner, by_run = [], []
        for s in self.surrogates:
            run, covariance, own = _reports(s, runs, x, bases)
            other, covariance_other, own_other = _reports(s, partners, x, bases)
            common = (s.prior_covariance(runs, partners) - run.mT @ other)[:, torch.arange(len(runs)), partner]
            covariance_other, own_other = covariance_other[:, partner], own_other[:, partner]
            slope = common / own_other
            rest = covariance - slope.unsqueeze(-1) * covariance_other
            own_rest = (own - slope * common).clamp_min(_LEAST_VARIANCE)
            by_partner.append(covariance_other / own_other.sqrt().unsqueeze(-1))
            by_run.append(rest / own_rest.sqrt().unsqueeze(-1))
        return self._variance(by_partner) + self._variance(by_run)

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
        normals = self._root @ torch.from_numpy(rng.standard_normal((len(self.weights), n_samples // 2)))
        for weight, s, half in zip(self.weights, self.surrogates, normals, strict=True):
            target, report = s.whitened(x), s.whitened(run)
            covariance = (s.prior_covariance(x, run) - target.mT @ report).squeeze(-1)  # (s, c)
            own = (s.prior_variance(run) - report.square().sum(-2)).clamp_min(_LEAST_VARIANCE) + s.noise  # (s, 1)
            moved += torch.outer(torch.cat([half, -half]), weight * (covariance / own.sqrt()).mean(0))
        return max(float(mean.min() - (mean + moved).amin(-1).mean()), 0.0)

    def prediction(self, mixture: np.ndarray, other: np.ndarray | None = None) -> Prediction:
        """The objective at the target for one mixture ``(d,)``, in its own direction: moments over draws.

        Args:
            mixture: ``(d,)``.
            other: if given, ``(d,)``, the prediction is of the difference, ``mixture`` minus ``other``.
        """
        mean, variance = self.marginal(mixture[None], None if other is None else other[None])
        distance = float(self.penalty(mixture[None])) - (0.0 if other is None else float(self.penalty(other[None])))
        center = self.sign * (float(mean.mean()) - distance)
        half = _NORMAL_95 * math.sqrt(float(mean.var(correction=0) + variance.mean()))
        return Prediction(mean=center, low=center - half, high=center + half)

    def probability_better(self, mixture: np.ndarray, other: np.ndarray) -> float | None:
        """Probability that the objective of ``mixture`` is better than that of ``other`` (each ``(d,)``).

        None for the same mixture twice.
        """
        if np.abs(mixture - other).max() < 1e-9:
            return None
        mean, variance = self.marginal(mixture[None], other[None])
        return float(torch.special.ndtr(-mean / variance.sqrt()).mean())

    def calibration(self, data: Sequence[Observations]) -> Calibration:
        """Coverage of 95% intervals of the objective when each run is predicted from all the others.

        Args:
            data: what each surrogate was given. Reports that lack a metric do not count.
        """
        rows = [reports(values) for values in data]
        inside = total = 0
        for run in dict.fromkeys(data[0].runs):
            at = [values.get(run, {}) for values in rows]
            common = [report for report in at[0] if all(report in of_metric for of_metric in at)]
            if not common:
                continue
            error, deviations = torch.zeros(len(common), dtype=torch.float64), []
            for weight, s, of_metric in zip(self.weights, self.surrogates, at, strict=True):
                residual, variance = s.leave_out(list(of_metric.values()))
                which = [list(of_metric).index(report) for report in common]
                error += weight * residual[which]
                deviations.append(variance[which].sqrt())
            inside += int((error.square() <= _NORMAL_95**2 * self._variance(deviations)).sum())
            total += len(common)
        return Calibration(coverage=inside / total if total else math.nan, n=total)


def _reports(surrogate: Surrogate, runs: Tensor, x: Tensor, bases: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of runs' reports: whitened, covariance ``s x a x c`` with the contrasts at ``x``, and variance ``s x a``."""
    white = surrogate.whitened(runs)
    covariance = surrogate.prior_covariance(runs, x) - white.mT @ surrogate.whitened(x)
    covariance -= covariance.gather(-1, bases[:, None, None].expand(-1, len(runs), 1))
    own = (surrogate.prior_variance(runs) - white.square().sum(-2)).clamp_min(_LEAST_VARIANCE) + surrogate.noise
    return white, covariance, own
