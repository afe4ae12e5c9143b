"""One metric's Gaussian process over mixtures and fidelities: a BoTorch model, averaged over hyper-parameter draws.

It is the model that the search itself uses, and BoTorch's acquisition functions run on it. BoTorch sees the metric in
its own unit; inside, values are standardised. The process is of latent values (``standardisation``), which for losses
are the same; what is asked of an accuracy is answered to first order around the mean of each mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.model import FantasizeMixin, Model
from botorch.posteriors.fully_bayesian import GaussianMixturePosterior
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from botorch.sampling.base import MCSampler
from gpytorch.constraints import Positive
from gpytorch.distributions import MultivariateNormal
from gpytorch.likelihoods import GaussianLikelihood
from linear_operator import to_linear_operator
from torch import Tensor

from ray_mixopt.surrogate.fit import Hyperparameters, KernelMaker
from ray_mixopt.surrogate.kernels import MixtureFidelityKernel
from ray_mixopt.surrogate.standardisation import Standardisation

LEAST_VARIANCE = 1e-16  # of what is known as well as rounding allows, standardised


class MixtureGP(Model, FantasizeMixin):
    """Posterior of one metric: an ensemble of Gaussian processes, one a hyper-parameter draw.

    As in BoTorch's fully Bayesian models, ``train_inputs`` stay ``n x d+2`` and a posterior at ``batch_shape x q x
    d+2`` has the shape ``batch_shape x s x q x 1``, so that acquisition functions average over the draws.

    Args:
        x: inputs, ``n x d+2`` (see ``kernels``).
        y: the metric, ``(n,)``, in its own unit.
        theta: hyper-parameter draws, ``s x p``, of latent values.
        noise: variances of the values, ``(n,)``, in the metric's unit squared, that are known beforehand, on top of
            the noise that the hyper-parameters say.
        kernel: makes the kernel that ``theta`` is of.
        standardise: map from the metric's unit to the one inside; by default that of ``y``.
        scatter: standard deviation of the noise in the metric's unit, in place of what the hyper-parameters say.

    Attributes:
        factor: lower Cholesky factor of the covariance of the observations, ``s x n x n``.
        noise: variance of what a report is off by, that of a mixture not seen before, latent, ``s x 1``.
        white: ``L^-1 y``, the whitened latent values, ``s x n x 1``: each report less what all before it
            predicted, in standard deviations.
    """

    _is_ensemble = True
    num_outputs = 1

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        theta: Tensor,
        noise: Tensor | None = None,
        kernel: KernelMaker = MixtureFidelityKernel,
        standardise: Standardisation | None = None,
        scatter: float | None = None,
    ) -> None:
        super().__init__()
        self.train_inputs, self.train_targets, self.theta = (x,), y, theta
        self.standardise = standardise or Standardisation.of(y)
        self.hyper = Hyperparameters(x.shape[-1] - 2, theta.shape[:1], kernel, self.standardise.scatter(scatter))
        self.hyper.unpack(theta)
        self.hyper.requires_grad_(False)
        with torch.no_grad():
            shared = self.hyper.kernel.shared_error(x[:1], x[:1])
            self.noise = self.hyper.noise() + shared.squeeze(-1)  # (s, 1)
            known = None if noise is None else self.standardise.variances(noise, y)
            covariance = self.hyper.noisy(self.prior_covariance(x, x), x, known)
            self.factor = torch.linalg.cholesky(covariance)
            values = self.standardise(y).expand(len(theta), -1).unsqueeze(-1)
            self.white = torch.linalg.solve_triangular(self.factor, values, upper=False)
        self.eval()

    # -- what the search asks, standardised and without gradients

    @property
    def x(self) -> Tensor:
        """The inputs, ``n x d+2``."""
        return self.train_inputs[0]

    def prior_covariance(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Prior covariance of ``a x d+2`` with ``c x d+2`` inputs, ``s x a x c``."""
        return self.hyper.kernel.between(x1, x2)

    def mean(self, x: Tensor) -> Tensor:
        """Posterior mean at ``c x d+2``, ``s x c``: cheaper than ``solve`` where nothing else is asked."""
        return self.standardise.value((self.prior_covariance(x, self.x) @ self._solved).squeeze(-1))

    def solve(self, x: Tensor) -> Solved:
        """What the data say of ``c x d+2`` inputs, ready for every further question about them."""
        white = torch.linalg.solve_triangular(self.factor, self.prior_covariance(self.x, x), upper=False)
        return Solved(model=self, x=x, white=white)

    @torch.no_grad()
    def given_pending(self, x: Tensor) -> MixtureGP:
        """The model once runs at ``a x d+2`` have reported their expected values: same mean, less variance."""
        if len(x) == 0:
            return self
        if self.x.dim() > 2:  # conditioned on a batch before
            latent = self._moments(x.unsqueeze(-3), True)[0]
            expected = self.standardise.undone(self.standardise.value(latent)).unsqueeze(-1)
            return self.condition_on_observations(x, expected, per_draw=True)
        shared = self.prior_covariance(self.x, x) + self.hyper.kernel.shared_error(self.x, x)
        white = torch.linalg.solve_triangular(self.factor, shared, upper=False)
        nothing_new = self.white.new_zeros(*self.white.shape[:1], len(x), 1)
        return self._extended(x, self.hyper.noisy(self.prior_covariance(x, x), x), white, nothing_new)

    def leave_out(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Errors and variances of some observations as predicted from all others, each ``(len(rows),)``.

        With ``P`` the inverse covariance, the error is ``P_rr^-1 (P y)_r`` and its covariance ``P_rr^-1``
        (Rasmussen & Williams 2006, Eqs. 5.10-5.12, for a block). Moments are taken over the draws.
        """
        index = torch.as_tensor(list(rows))
        block = torch.linalg.inv(self._precision[:, index][:, :, index])  # (s, r, r)
        error = (block @ self._solved[:, index]).squeeze(-1)  # (s, r)
        variance = block.diagonal(dim1=-2, dim2=-1)
        if self.standardise.link is not None:
            seen = self.standardise(self.train_targets[index])
            predicted = seen - error
            error = self.standardise.value(seen) - self.standardise.value(predicted)
            variance = variance * self.standardise.slope(predicted).square()
        return error.mean(0), variance.mean(0) + error.var(0, correction=0)

    @cached_property
    def _solved(self) -> Tensor:
        return torch.linalg.solve_triangular(self.factor.mT, self.white, upper=True)  # (s, n, 1)

    @cached_property
    def _precision(self) -> Tensor:
        return torch.cholesky_inverse(self.factor)  # (s, n, n)

    def _extended(self, x: Tensor, covariance: Tensor, white: Tensor, surprise: Tensor) -> MixtureGP:
        """The model with further observations.

        Args:
            x: their inputs, ``batch_shape x a x d+2``.
            covariance: theirs, prior with noise, ``batch_shape x s x a x a``.
            white: their whitened covariance with the observations so far, ``batch_shape x s x n x a``.
            surprise: their latent values less the posterior mean, ``... x batch_shape x s x a x 1``.
        """
        corner = torch.linalg.cholesky(covariance - white.mT @ white)
        added = torch.linalg.solve_triangular(corner, surprise, upper=False)
        batch = corner.shape[:-2]
        white = white.expand(*batch, -1, -1)
        above = torch.cat([self.factor.expand(*batch, -1, -1), torch.zeros_like(white)], -1)
        result = copy(self)
        for stale in ("_solved", "_precision"):
            result.__dict__.pop(stale, None)
        result.factor = torch.cat([above, torch.cat([white.mT, corner], -1)], -2)
        result.white = torch.cat([self.white.expand(*added.shape[:-2], -1, -1), added], -2)
        shape = _broadcast(self.x.shape[:-2], x.shape[:-2])
        result.train_inputs = (torch.cat([self.x.expand(*shape, -1, -1), x.expand(*shape, -1, -1)], -2),)
        latent = (result.factor @ result.white).squeeze(-1)
        result.train_targets = self.standardise.undone(self.standardise.value(latent))
        return result

    # -- what BoTorch asks, in the metric's unit and with gradients

    @property
    def batch_shape(self) -> torch.Size:
        """Batch shape of the posterior at ``q x d+2``: the draws, after that of fantasies."""
        return _broadcast(self.factor.shape[:-2], self.white.shape[:-2])

    @property
    def likelihood(self) -> GaussianLikelihood:
        """The noise of an observation in the metric's unit, a batch of ``s``; of an accuracy that of a mean one."""
        likelihood = GaussianLikelihood(batch_shape=self.noise.shape[:1], noise_constraint=Positive()).to(self.noise)
        slope = self.standardise.spread * self.standardise.slope(torch.zeros_like(self.noise))
        likelihood.noise = self.noise * slope**2
        return likelihood

    def posterior(  # type: ignore[override]
        self,
        X: Tensor,  # noqa: N803
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
        **kwargs: Any,
    ) -> Posterior:
        """Posterior in the metric's unit at ``batch_shape x q x d+2``: ``batch_shape x s x q x 1``.

        Args:
            X: inputs.
            output_indices: there is one output, 0.
            observation_noise: whether to add the noise of an observation; or variances to add, ``... x q x 1``.
            posterior_transform: applied to the posterior.
            **kwargs: ignored.
        """
        given = isinstance(observation_noise, Tensor)
        mean, covariance = self.moments(X, noisy=not given and bool(observation_noise))
        mean, covariance = self.standardise.undone(mean), covariance * self.standardise.spread**2
        if isinstance(observation_noise, Tensor):
            covariance = covariance + torch.diag_embed(observation_noise.squeeze(-1).expand(mean.shape))
        posterior = GaussianMixturePosterior(MultivariateNormal(mean, to_linear_operator(covariance)))
        return posterior if posterior_transform is None else posterior_transform(posterior)

    def averaged(self) -> AveragedGP:
        """The ensemble as one Gaussian process, for acquisition functions that do not average over draws."""
        return AveragedGP(self)

    def moments(self, X: Tensor, *, noisy: bool = False) -> tuple[Tensor, Tensor]:  # noqa: N803
        """Standardised mean ``batch_shape x s x q`` and covariance ``batch_shape x s x q x q``.

        Args:
            X: inputs, ``batch_shape x q x d+2``.
            noisy: whether they are those of observations rather than of the metric itself.
        """
        latent, prior, white = self._moments(X.unsqueeze(-3), False)
        covariance = prior - white.mT @ white
        if noisy:
            covariance = covariance + torch.diag_embed(self.noise.expand(latent.shape))
        slope = self.standardise.slope(latent).expand(latent.shape)
        return self.standardise.value(latent), covariance * slope.unsqueeze(-1) * slope.unsqueeze(-2)

    def condition_on_observations(
        self,
        X: Tensor,  # noqa: N803
        Y: Tensor,  # noqa: N803
        noise: Tensor | None = None,
        *,
        per_draw: bool = False,
        **kwargs: Any,
    ) -> Self:
        """The model with further observations, which may differ between fantasies and draws.

        Args:
            X: inputs, ``batch_shape x q x d+2``.
            Y: values in the metric's unit, ``... x batch_shape x q x 1``; with ``per_draw`` one for each draw, ``... x
                batch_shape x s x q x 1``.
            noise: variances of the values in the metric's unit squared, ``batch_shape x q x 1``, in place of the
                noise that the hyper-parameters say.
            per_draw: whether the values differ between the draws.
            **kwargs: ignored.
        """
        mean, prior, white = self._moments(X.unsqueeze(-3), True)
        nugget, values = self.hyper.nugget(prior.diagonal(dim1=-2, dim2=-1)), Y if per_draw else Y.unsqueeze(-3)
        if noise is not None:
            known = self.standardise.variances(noise.squeeze(-1).unsqueeze(-2), values.squeeze(-1))
            nugget = nugget - self.hyper.noise() + known
        surprise = self.standardise(values) - mean.unsqueeze(-1)
        result: Any = self._extended(X, prior + torch.diag_embed(nugget), white, surprise)
        return result

    def fantasize(self, X: Tensor, sampler: MCSampler, observation_noise: Tensor | None = None, **kwargs: Any) -> Self:  # noqa: N803
        """The model once each draw has seen what it was itself sampled to report, see ``FantasizeMixin``."""
        return super().fantasize(X, sampler, observation_noise, per_draw=True, **kwargs)

    def _moments(self, x: Tensor, observed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Latent mean, prior covariance and whitened covariance with the data at ``batch_shape x 1 x q x d+2``.

        Args:
            x: inputs.
            observed: whether they are those of reports, short of their noise, with what reports of one mixture share.
        """
        kernel, known = self.hyper.kernel, self.x if self.x.dim() == 2 else self.x.unsqueeze(-3)
        with_data, prior = kernel.forward(known, x), kernel.forward(x, x)
        if observed:
            with_data, prior = with_data + kernel.shared_error(known, x), prior + kernel.shared_error(x, x)
        white = torch.linalg.solve_triangular(self.factor, with_data, upper=False)
        return (white.mT @ self.white).squeeze(-1), prior, white


class AveragedGP(Model, FantasizeMixin):
    """An ensemble seen as one Gaussian process with the mean and covariance of the mixture over its draws.

    For acquisition functions that do not average over an ensemble themselves, as BoTorch's max-value entropy searches
    and knowledge gradients do not. Posteriors have no dimension of draws.

    Args:
        ensemble: a ``MixtureGP``, or an ``ObjectivePosterior`` (which cannot be fantasised from).
    """

    num_outputs = 1
    ensemble: Any

    def __init__(self, ensemble: Model) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.eval()

    @property
    def train_inputs(self) -> tuple[Tensor]:
        """The inputs, ``n x d+2``."""
        found: tuple[Tensor] = self.ensemble.train_inputs
        return found

    @property
    def batch_shape(self) -> torch.Size:
        """Batch shape of the posterior at ``q x d+2``: that of fantasies."""
        shape: torch.Size = self.ensemble.batch_shape
        return shape[:-1]

    @property
    def likelihood(self) -> GaussianLikelihood:
        """The noise of an observation, averaged over the draws."""
        likelihood = GaussianLikelihood(noise_constraint=Positive()).to(self.train_inputs[0])
        likelihood.noise = self.ensemble.likelihood.noise.mean()
        return likelihood

    def forward(self, X: Tensor) -> MultivariateNormal:  # noqa: N803
        """The distribution of the metric at ``batch_shape x q x d+2``."""
        posterior = self.posterior(X)
        assert isinstance(posterior, GPyTorchPosterior)
        return posterior.distribution

    def posterior(  # type: ignore[override]
        self,
        X: Tensor,  # noqa: N803
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
        **kwargs: Any,
    ) -> Posterior:
        """Posterior at ``batch_shape x q x d+2``: ``batch_shape x q x 1``; arguments as of the ensemble's."""
        mixture = self.ensemble.posterior(X, observation_noise=observation_noise)
        assert isinstance(mixture, GaussianMixturePosterior)
        mean = mixture.distribution.mean  # (..., s, q)
        apart = (mean - mean.mean(-2, keepdim=True)).mT
        covariance = mixture.distribution.covariance_matrix.mean(-3) + apart @ apart.mT / mean.shape[-2]
        posterior = GPyTorchPosterior(MultivariateNormal(mean.mean(-2), to_linear_operator(covariance)))
        return posterior if posterior_transform is None else posterior_transform(posterior)

    def condition_on_observations(self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **kwargs: Any) -> Self:  # noqa: N803
        """The view of the ensemble with further observations, the same in all draws."""
        values = Y.unsqueeze(-3).expand(*Y.shape[:-2], self.ensemble.batch_shape[-1], *Y.shape[-2:])
        result: Any = AveragedGP(self.ensemble.condition_on_observations(X, values, noise=noise, per_draw=True))
        return result


def _broadcast(*shapes: torch.Size) -> torch.Size:
    """Their common shape; NumPy's, since the first call of PyTorch's own imports SymPy, which takes a second."""
    return torch.Size(np.broadcast_shapes(*shapes))


@dataclass(frozen=True, kw_only=True, eq=False)
class Solved:
    """Some inputs and what a model's data say of them: ``L^-1 k(X, x)`` is solved for once.

    Attributes:
        model: whose data.
        x: the inputs, ``c x d+2``.
        white: ``L^-1 k(X, x)``, ``s x n x c``: inner products of its columns are the covariance that the data explain.
    """

    model: MixtureGP
    x: Tensor
    white: Tensor

    @cached_property
    def latent(self) -> Tensor:
        """Posterior mean of the latent values, ``s x c``."""
        return (self.white.mT @ self.model.white).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        """Posterior mean, ``s x c``."""
        return self.model.standardise.value(self.latent)

    @cached_property
    def slope(self) -> Tensor:
        """By how much the metric rises with its latent value, ``s x c``, or ``()`` where they are the same."""
        return self.model.standardise.slope(self.latent)

    @cached_property
    def prior(self) -> Tensor:
        """Prior variance of the latent values, ``s x c``."""
        with torch.no_grad():
            return self.model.hyper.kernel.forward(self.x, self.x, diag=True)

    @cached_property
    def prior_covariance(self) -> Tensor:
        """Prior covariance of the latent values of the inputs, ``s x c x c``."""
        return self.model.prior_covariance(self.x, self.x)

    @property
    def noise(self) -> Tensor:
        """Variance of what a report is off by, ``s x c`` or what broadcasts to it."""
        return self.model.noise * self.slope.square()

    @property
    def variance(self) -> Tensor:
        """Posterior variance, ``s x c``."""
        return (self.prior - self.white.square().sum(-2)).clamp_min(LEAST_VARIANCE) * self.slope.square()

    def covariance(self, other: Solved | None = None) -> Tensor:
        """Posterior covariance with other inputs of the same model, or between the inputs, ``s x c x c'``."""
        prior = self.prior_covariance if other is None else self.model.prior_covariance(self.x, other.x)
        other = self if other is None else other
        return self._sloped(other._sloped(prior - self.white.mT @ other.white).mT).mT

    def against(self, base: Solved) -> tuple[Tensor, Tensor]:
        """Posterior mean and variance of the difference from the average of other inputs, each ``s x c``."""
        white = self._sloped(self.white) - base._sloped(base.white).mean(-1, keepdim=True)
        common = self.prior_covariance if base is self else self.model.prior_covariance(self.x, base.x)
        common, within = base._sloped(common).mean(-1), base._sloped(base._sloped(base.prior_covariance).mT)
        prior = self.prior * self.slope.square() - 2 * common * self.slope + within.mean((-2, -1)).unsqueeze(-1)
        variance = (prior - white.square().sum(-2)).clamp_min(LEAST_VARIANCE)
        if self.slope.dim():
            return self.mean - base.mean.mean(-1, keepdim=True), variance
        return (white.mT @ self.model.white).squeeze(-1), variance  # not a difference of what is large and alike

    def _sloped(self, columns: Tensor) -> Tensor:
        """What is latent, a column for each input, ``s x ... x c``, in standardised units."""
        return columns * self.slope.unsqueeze(-2) if self.slope.dim() else columns

    def take(self, rows: Tensor) -> Solved:
        """Some of the inputs, by index; nothing is solved again."""
        part = Solved(model=self.model, x=self.x[rows], white=self.white[..., rows])
        for name in ("latent", "prior"):
            if name in self.__dict__:
                part.__dict__[name] = self.__dict__[name][:, rows]
        if "prior_covariance" in self.__dict__:
            part.__dict__["prior_covariance"] = self.prior_covariance[:, rows][..., rows]
        return part

    def joined(self, other: Solved) -> Solved:
        """Both inputs, one after the other."""
        return Solved(model=self.model, x=torch.cat([self.x, other.x]), white=torch.cat([self.white, other.white], -1))
