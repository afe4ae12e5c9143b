"""The posterior of the objective at the target: a weighted sum of metrics, each with its own model.

Values are in the objective's unit, with the sign that makes lower better.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.model import Model
from botorch.posteriors.fully_bayesian import GaussianMixturePosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.distributions import MultivariateNormal
from linear_operator import to_linear_operator
from torch import Tensor

from ray_mixopt.core.baselines import broken, moved
from ray_mixopt.core.forecast import NORMAL_95, Calibration, Forecast, Prediction
from ray_mixopt.core.objective import Guardrail, divergence
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.surrogate.correlation import square_root
from ray_mixopt.surrogate.divergence import SMALL_RISK, Divergence
from ray_mixopt.surrogate.encoding import Observations, encode, reports
from ray_mixopt.surrogate.gp import AveragedGP, MixtureGP
from ray_mixopt.surrogate.points import Points

CAUTION = 0.5
"""Standard deviations of the difference from the anchor that an answer pays for, once many mixtures were seen."""

SURE = 1.645
"""Standard deviations by which an answer must beat the anchor to be worth a full run: a probability of 95%."""

NEAR_ZERO = 0.1  # standard deviations between mixtures from 0, below which a metric's value is no measure
_AT_ONCE = 256  # mixtures of which the uncertainty is looked at together
_MOST_ENTRIES = 2**24  # of what is solved for at a time, 128 MiB


class ObjectivePosterior(Model):
    """Models of metrics, whose errors may go together, combined with the weights of the objective.

    Each metric's posterior is its own model's. Its error is the model's standard deviation times a standard normal, and
    these are correlated between metrics. It is a BoTorch model of the objective, signed so that lower is better, at any
    inputs; its other methods are about mixtures at the target, or at the fidelity given to ``at``.

    Args:
        space: the search space.
        sign: +1 to minimise the objective, -1 to maximise it.
        objective: weight of each metric.
        models: one a metric, in the order of ``objective``, all with the same number of draws.
        correlation: of the errors of the metrics, ``k x k``; by default there is none.
        relative_to: if given, a mixture ``(d,)``: each metric is divided by the size of its mean for it at the target.
        prior: the mixture ``(d,)`` to stay close to.
        closeness: what a nat of divergence from ``prior`` adds to the objective. Predictions are without it.
        guards: what must hold for a mixture to be recommended.
        anchors: mixtures ``(d,)`` that one might train without a search; equal shares by default.
        caution: standard deviations of the difference from it that ``score`` adds.
        divergence: the risk that runs diverge; None where none did.

    Attributes:
        too_small: what is predicted for ``relative_to``, by metric, where that is too near 0 to divide by: the standard
            deviation of the metric's reports stands for it.
    """

    _is_ensemble = True
    num_outputs = 1

    def __init__(
        self,
        space: MixtureSpace,
        sign: float,
        objective: Mapping[str, float],
        models: Sequence[MixtureGP],
        *,
        correlation: Tensor | None = None,
        relative_to: np.ndarray | None = None,
        prior: np.ndarray | None = None,
        closeness: float = 0.0,
        guards: Sequence[Guard] = (),
        anchors: Sequence[np.ndarray] = (),
        caution: float = CAUTION,
        divergence: Divergence | None = None,
    ) -> None:
        super().__init__()
        self.space, self.sign, self.models = space, sign, tuple(models)
        self.caution = caution
        self.divergence = divergence
        n_mixtures = len(self.models[0].x[:, : space.n_shares].unique(dim=0))
        self.fewness = space.n_domains / n_mixtures
        self.prior, self.closeness, self.guards = prior, closeness, tuple(guards)
        self._fidelity = [(space.target_scale, space.target_steps)]
        self.too_small: dict[str, Prediction] = {}
        if relative_to is not None:
            objective = self._relative(objective, relative_to)
        self.objective = dict(objective)
        pairs = list(zip(objective.values(), self.models, strict=True))
        self.weights = [sign * weight * model.standardise.spread for weight, model in pairs]
        self.center = math.fsum(sign * weight * model.standardise.center for weight, model in pairs)
        self.n_draws = len(self.models[0].theta)
        self.correlation = torch.eye(len(pairs), dtype=torch.float64) if correlation is None else correlation
        self.root = square_root(self.correlation)
        known = np.stack(anchors) if len(anchors) else space.uniform()[None]
        self.anchor = known[int(self.mean(known).argmin())]  # the one of lowest mean: what answers are careful about

    def _relative(self, objective: Mapping[str, float], reference: np.ndarray) -> dict[str, float]:
        """The weights, each over the size of its metric for the reference."""
        result = {}
        for (metric, weight), model in zip(objective.items(), self.models, strict=True):
            alone = ObjectivePosterior(self.space, 1.0, {metric: 1.0}, [model])
            known, seen = alone.forecast(reference[None]), model.x[:, : self.space.n_shares].unique(dim=0).numpy()
            value, std = float(known.mean[0]), float(known.std[0])
            varied = float(alone.mean(seen[:: -(-len(seen) // _AT_ONCE)]).std(correction=0))
            if abs(value) < max(std, NEAR_ZERO * varied):  # gains over it would be any number
                self.too_small[metric] = Prediction.of(value, std)
            result[metric] = weight / (model.standardise.spread if metric in self.too_small else abs(value))
        return result

    def value(self, metrics: Mapping[str, float]) -> float:
        """The objective of a run's metrics, in its own unit, as ``prediction`` is."""
        return math.fsum(weight * metrics[name] for name, weight in self.objective.items())

    # -- variations

    def at(self, scale: str, steps: int) -> ObjectivePosterior:
        """The same about another fidelity than the target."""
        result = copy.copy(self)
        result._fidelity = [(scale, steps)]
        return result

    def given_pending(self, x: Tensor) -> ObjectivePosterior:
        """The posterior once runs at ``a x d+2`` have reported what is expected of them."""
        result = copy.copy(self)
        result.models = tuple(model.given_pending(x) for model in self.models)
        return result

    # -- what is asked of mixtures at the target

    def solve(self, inputs: np.ndarray | Tensor) -> Points:
        """Mixtures at the target, ``c x d``, or any inputs, a tensor ``c x d+2``, ready for questions."""
        x = inputs if isinstance(inputs, Tensor) else encode(self.space, inputs, self._fidelity)
        return Points(x=x, solved=tuple(model.solve(x) for model in self.models))

    def _points(self, mixtures: np.ndarray | Points) -> Points:
        return mixtures if isinstance(mixtures, Points) else self.solve(mixtures)

    @property
    def most_points(self) -> int:
        """The number of inputs that are solved for at a time where memory matters."""
        return max(1, _MOST_ENTRIES // sum(model.white.numel() for model in self.models))

    def variance_of(self, deviations: Sequence[Tensor]) -> Tensor:
        """Of the weighted sum of errors whose signed standard deviations for each metric are given, of any shape."""
        terms = torch.stack([weight * sd for weight, sd in zip(self.weights, deviations, strict=True)])
        return torch.tensordot(self.root.mT, terms, 1).square().sum(0)

    def penalty(self, mixtures: np.ndarray) -> Tensor:
        """What the distance from the prior adds to the objective, ``(c,)``: a token's, on average over phases."""
        if self.prior is None or not self.closeness:
            return torch.zeros(len(mixtures), dtype=torch.float64)
        simplex = self.space.simplex
        nats = divergence(simplex.apart(mixtures), simplex.apart(self.prior[None])[0]) @ simplex.fractions
        return self.closeness * torch.from_numpy(nats)

    def mean(self, mixtures: np.ndarray) -> Tensor:
        """Mean over draws and posterior, ``(c,)``."""
        x = encode(self.space, mixtures, self._fidelity)
        total = self.center + self.penalty(mixtures)
        size = max(1, _MOST_ENTRIES // max(model.white.numel() for model in self.models))
        for weight, model in zip(self.weights, self.models, strict=True):
            total += weight * torch.cat([model.mean(part).mean(0) for part in x.split(size)])
        return total

    def score(self, mixtures: np.ndarray) -> Tensor:
        """What a recommendation minimises, for ``c x d`` mixtures, ``(c,)``.

        The mean, and ``caution + d / n`` standard deviations of the difference from the anchor, with ``n`` mixtures
        seen: with few of them to the number of domains the standard deviation is itself little known. What is far from
        all that was tried is the less sure, so that an answer leaves the anchor as far as the evidence carries it.
        Where a guardrail does not hold, or runs diverge, it is far above that.
        """
        total = self.shunned(mixtures, self.mean(mixtures))
        if not self.caution:
            return total
        caution = self.caution + self.fewness
        anchor, order = self.solve(self.anchor[None]), total.argsort(stable=True)
        best, largest = float(self.shunned(self.anchor[None], self.mean(self.anchor[None]))), 0.0
        for rows in order.split(_AT_ONCE):
            if total[rows[0]] > best:  # and so is the rest
                total[rows] += caution * largest
                continue
            mean, variance = self.marginal(mixtures[rows.numpy()], anchor)
            doubt = (mean.var(0, correction=0) + variance.mean(0)).sqrt()
            total[rows] += caution * doubt
            best, largest = min(best, float(total[rows].min())), max(largest, float(doubt.max()))
        return total

    def shunned(self, mixtures: np.ndarray, mean: Tensor) -> Tensor:
        """The mean ``(c,)`` of ``c x d`` mixtures, far above it where a guardrail does not hold or runs diverge."""
        total, scale = mean.clone(), math.fsum(map(abs, self.weights))
        for missing in self._shortfalls(mixtures):
            total = total + torch.where(missing > 0, 10 * scale * (1 + missing), 0.0)
        return total

    def _shortfalls(self, mixtures: np.ndarray) -> list[Tensor]:
        """By how much each guardrail is missed, and by how much the risk to diverge is too large, ``(c,)`` each."""
        found = [guard.shortfall(mixtures) for guard in self.guards]
        if self.divergence is not None:
            risk = self.divergence.risk(encode(self.space, mixtures, self._fidelity))
            found.append((risk - SMALL_RISK).clamp_min(0.0))
        return found

    def allowed(self, mixtures: np.ndarray, least: int = 32) -> np.ndarray:
        """Indices of the ``c x d`` mixtures that are not shunned, or of the ``least`` that come closest."""
        found = self._shortfalls(mixtures)
        if not found:
            return np.arange(len(mixtures))
        missing = torch.stack(found).amax(0)
        n = max(int((missing <= 0).sum()), min(least, len(mixtures)))
        return np.sort(missing.argsort(stable=True)[:n].numpy())

    @torch.no_grad()
    def marginal(
        self, mixtures: np.ndarray | Points, reference: np.ndarray | Points | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance in each draw, each ``s x c``.

        Args:
            mixtures: ``c x d``, or solved.
            reference: if given, mixtures as well; the moments are then those of the difference from their average.
        """
        base = None if reference is None or reference is mixtures else self._points(reference)
        if not isinstance(mixtures, Points) and reference is not mixtures and len(mixtures) > self.most_points:
            starts = range(0, len(mixtures), self.most_points)
            parts = [self.marginal(mixtures[start : start + self.most_points], base) for start in starts]
            return torch.cat([mean for mean, _ in parts], -1), torch.cat([variance for _, variance in parts], -1)
        points = self._points(mixtures)
        base = points if reference is mixtures else base
        center = self.center if base is None else 0.0
        mean = torch.full((self.n_draws, len(points)), center, dtype=torch.float64)
        deviations = []
        for i, (weight, part) in enumerate(zip(self.weights, points.solved, strict=True)):
            moments = (part.mean, part.variance) if base is None else part.against(base.solved[i])
            mean += weight * moments[0]
            deviations.append(moments[1].sqrt())
        mean += self.penalty(points.mixtures) - (0.0 if base is None else self.penalty(base.mixtures).mean())
        return mean, self.variance_of(deviations)

    @torch.no_grad()
    def joint(self, mixtures: np.ndarray | Points) -> tuple[Tensor, Tensor]:
        """Mean ``s x c`` and covariance ``s x c x c`` in each draw."""
        points = self._points(mixtures)
        mean = self.center + sum(w * part.mean for w, part in zip(self.weights, points.solved, strict=True))
        covariance = self._combined([part.covariance() for part in points.solved])
        return mean + self.penalty(points.mixtures), covariance

    @torch.no_grad()
    def contrasts(self, mixtures: np.ndarray | Points) -> tuple[Tensor, Tensor]:
        """Mean ``s x c`` and covariance ``s x c x c`` in each draw, each mixture against the average of all."""
        mean, covariance = self.joint(mixtures)
        covariance = covariance - covariance.mean(-1, keepdim=True)
        return mean - mean.mean(-1, keepdim=True), covariance - covariance.mean(-2, keepdim=True)

    def _combined(self, covariances: Sequence[Tensor]) -> Tensor:
        """Covariance of the weighted sum of metrics of which the standardised ones are given, ``... x c x c``."""
        own = [weight**2 * c for weight, c in zip(self.weights, covariances, strict=True)]
        covariance = torch.stack(own).sum(0)
        if len(own) > 1:
            roots = torch.stack([math.copysign(1, w) * square_root(c) for w, c in zip(self.weights, own, strict=True)])
            others = torch.tensordot(self.correlation.clone().fill_diagonal_(0.0), roots, 1)
            covariance += (roots @ others.mT).sum(0)
        return covariance

    # -- answers, in the objective's own direction

    def prediction(self, mixture: np.ndarray, other: np.ndarray | None = None) -> Prediction:
        """The objective for one mixture ``(d,)`` with its 95% interval: moments over draws.

        Args:
            mixture: ``(d,)``.
            other: if given, ``(d,)``, the prediction is of the difference, ``mixture`` minus ``other``.
        """
        mean, variance = self.marginal(mixture[None], None if other is None else other[None])
        distance = float(self.penalty(mixture[None])) - (0.0 if other is None else float(self.penalty(other[None])))
        center = self.sign * (float(mean.mean()) - distance)
        return Prediction.of(center, math.sqrt(float(mean.var(correction=0) + variance.mean())))

    def gain(self, mixture: np.ndarray, other: MixtureSpace) -> Prediction:
        """By how much the objective of a mixture ``(d,)`` would be better at the target of another space."""
        there = copy.copy(self)
        there.space = other
        mean, variance = self.marginal(self.solve(mixture[None]), there.solve(mixture[None]))
        return Prediction.of(float(mean.mean()), math.sqrt(float(mean.var(correction=0) + variance.mean())))

    def forecast(self, mixtures: np.ndarray) -> Forecast:
        """The objective for ``c x d`` mixtures, together: moments over draws, without the pull to a prior."""
        points = self.solve(mixtures)
        mean, variance = self.marginal(points)
        _, covariance = self.joint(points)
        # The joint covariance takes each mixture's errors of several metrics to go together by way of its neighbours',
        # which is exact where the metrics' models are alike; a mixture's own variance is known without.
        factor = (variance / covariance.diagonal(dim1=-2, dim2=-1)).sqrt()
        covariance = covariance * factor.unsqueeze(-1) * factor.unsqueeze(-2)
        mean = mean - self.penalty(mixtures)
        apart = mean - mean.mean(0)
        total = (covariance.mean(0) + apart.mT @ apart / len(mean)).numpy()
        std = np.sqrt(np.maximum(total.diagonal(), 0.0))
        return Forecast(mean=self.sign * mean.mean(0).numpy(), std=std, covariance=total)

    def probability_better(self, mixture: np.ndarray, other: np.ndarray) -> float | None:
        """Probability that the objective of ``mixture`` is better than that of ``other`` (each ``(d,)``).

        None for the same mixture twice.
        """
        if same_mixture(mixture, other):
            return None
        mean, variance = self.marginal(mixture[None], other[None])
        return float(torch.special.ndtr(-mean / variance.sqrt()).mean())

    def compared(self, mixture: np.ndarray, others: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What is predicted of a mixture ``(d,)`` beside others by name: fields of a ``Recommendation``."""
        predicted = {name: self.prediction(other) for name, other in others.items()}
        better = {name: self.probability_better(mixture, other) for name, other in others.items()}
        # Last comes what answers are careful about.
        better = dict(sorted(better.items(), key=lambda item: bool(same_mixture(others[item[0]], self.anchor))))
        found = {"predicted": self.prediction(mixture), **predicted, "probability_better": better}
        if others:
            last = others[list(better)[-1]]
            mean, variance = self.marginal(mixture[None], last[None])
            doubt = (1 + self.fewness) * math.sqrt(float(mean.var(correction=0) + variance.mean()))
            found["difference"] = self.prediction(mixture, last)
            found["sure"] = not same_mixture(mixture, last) and float(mean.mean()) + SURE * doubt < 0
        limits = {
            name: (*broken(self.space, w), *(g.name for g in self.guards if g.fails(w))) for name, w in others.items()
        }
        return {**found, "moved": moved(self.space), "breaks": {name: of for name, of in limits.items() if of}}

    def calibration(self, data: Sequence[Observations]) -> Calibration:
        """Coverage of 95% intervals of the objective when each run is predicted from all the others.

        Args:
            data: what each model was given. Reports that lack a metric do not count.
        """
        rows = [reports(values) for values in data]
        inside = total = 0
        for run in dict.fromkeys(data[0].runs):
            at = [values.get(run, {}) for values in rows]
            common = [report for report in at[0] if all(report in of_metric for of_metric in at)]
            if not common:
                continue
            error, deviations = torch.zeros(len(common), dtype=torch.float64), []
            for weight, model, of_metric in zip(self.weights, self.models, at, strict=True):
                residual, variance = model.leave_out(list(of_metric.values()))
                which = [list(of_metric).index(report) for report in common]
                error += weight * residual[which]
                deviations.append(variance[which].sqrt())
            inside += int((error.square() <= NORMAL_95**2 * self.variance_of(deviations)).sum())
            total += len(common)
        return Calibration(coverage=inside / total if total else math.nan, n=total)

    # -- what BoTorch asks

    @property
    def batch_shape(self) -> torch.Size:
        """Batch shape of the posterior at ``q x d+2``: the draws, ``(s,)``."""
        return torch.Size([self.n_draws])

    def averaged(self) -> AveragedGP:
        """The ensemble as one Gaussian process, for acquisition functions that do not average over draws."""
        return AveragedGP(self)

    def posterior(
        self,
        X: Tensor,  # noqa: N803
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
        **kwargs: Any,
    ) -> Posterior:
        """Posterior of the signed objective at ``batch_shape x q x d+2``: ``batch_shape x s x q x 1``.

        Args:
            X: inputs.
            output_indices: there is one output, 0.
            observation_noise: whether to add the noise of an observation; or variances to add, ``... x q x 1``.
            posterior_transform: applied to the posterior.
            **kwargs: ignored.
        """
        given = isinstance(observation_noise, Tensor)
        parts = [model.moments(X, noisy=not given and bool(observation_noise)) for model in self.models]
        means = [weight * part for weight, (part, _) in zip(self.weights, parts, strict=True)]
        mean = self.center + torch.stack(means).sum(0)
        covariance = self._combined([part for _, part in parts])
        if isinstance(observation_noise, Tensor):
            covariance = covariance + torch.diag_embed(observation_noise.squeeze(-1).expand(mean.shape))
        # A linear operator, since its root may need a jitter.
        posterior = GaussianMixturePosterior(MultivariateNormal(mean, to_linear_operator(covariance)))
        return posterior if posterior_transform is None else posterior_transform(posterior)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A guardrail and what is known of its metric.

    Args:
        guardrail: what must hold.
        baseline: its baseline mixture, ``(d,)``.
        posterior: of its metric alone, in the metric's own direction; None while it was hardly observed.
    """

    guardrail: Guardrail
    baseline: np.ndarray
    posterior: ObjectivePosterior | None

    @property
    def margin(self) -> float:
        """How much worse than the baseline's the metric may be, in its own unit."""
        assert self.posterior is not None
        return self.guardrail.tolerance * abs(float(self.posterior.mean(self.baseline[None])))

    @property
    def name(self) -> str:
        """What it is called among the limits."""
        return f"the guardrail on {self.guardrail.metric}"

    def fails(self, mixture: np.ndarray) -> bool:
        """Whether a mixture ``(d,)`` does not keep it, with the confidence that is wanted."""
        return bool(self.shortfall(mixture[None])[0] > 0)

    def probability(self, mixtures: np.ndarray) -> Tensor:
        """Of the guardrail to hold for each of ``c x d`` mixtures, ``(c,)``; 1 while nothing is known.

        The contrast with the baseline is Gaussian in each draw of the hyper-parameters. At the baseline itself it is 0.
        """
        if self.posterior is None:
            return torch.ones(len(mixtures), dtype=torch.float64)
        mean, variance = self.posterior.marginal(mixtures, self.baseline[None])
        ready = torch.special.ndtr((self.margin - mean) / variance.sqrt()).mean(0)
        same = torch.from_numpy(same_mixture(mixtures, self.baseline))
        return torch.where(same, torch.ones_like(ready), ready)

    def shortfall(self, mixtures: np.ndarray) -> Tensor:
        """By how much the probability misses the confidence wanted, ``(c,)``; 0 where it does not."""
        return (self.guardrail.confidence - self.probability(mixtures)).clamp_min(0.0)
