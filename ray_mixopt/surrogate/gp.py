"""One metric's Gaussian process over mixtures and fidelities, averaged over hyper-parameter draws."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from botorch.models import SingleTaskGP
from botorch.models.transforms.outcome import Standardize
from botorch.posteriors import GPyTorchPosterior
from botorch.posteriors.fully_bayesian import GaussianMixturePosterior
from gpytorch.means import ZeroMean
from torch import Tensor

from ray_mixopt.surrogate.fit import Hyperparameters


@dataclass(frozen=True, kw_only=True)
class Standardisation:
    """Affine map between a metric's unit and the surrogate's."""

    center: float
    spread: float

    @classmethod
    def of(cls, values: Tensor) -> Standardisation:
        """Mean and standard deviation of ``(n,)`` values; a constant metric keeps its unit."""
        center, spread = float(values.mean()), float(values.std()) if len(values) > 1 else 0.0
        return cls(center=center, spread=spread if spread > 1e-12 * (1 + abs(center)) else 1.0)

    def __call__(self, values: Tensor) -> Tensor:
        """Values in standard deviations from the mean."""
        return (values - self.center) / self.spread


class Surrogate:
    """Posterior of one metric, for each of ``s`` hyper-parameter draws.

    Args:
        x: inputs, ``n x d+2`` (see ``kernels``).
        y: standardised values, ``(n,)`` or ``s x n``.
        theta: hyper-parameter draws, ``s x p``.
        standardisation: how ``y`` was made from the metric.
        known: standardised variances of the values, ``(n,)``, that are known beforehand, on top of the noise.
    """

    def __init__(
        self, x: Tensor, y: Tensor, theta: Tensor, standardisation: Standardisation, known: Tensor | None = None
    ) -> None:
        self.x, self.theta, self.standardisation, self.known = x, theta, standardisation, known
        self.hyper = Hyperparameters(x.shape[-1] - 2, theta.shape[:1])
        self.hyper.unpack(theta)
        self.y = y.expand(len(theta), -1)
        with torch.no_grad():
            self.noise = self.hyper.noise()  # (s, 1)
            self.factor = torch.linalg.cholesky(self.hyper.noisy(self.prior_covariance(x, x), known))  # (s, n, n)
            self.white = torch.linalg.solve_triangular(self.factor, self.y.unsqueeze(-1), upper=False)  # (s, n, 1)

    def prior_covariance(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Prior covariance of ``n x d+2`` with ``m x d+2`` inputs, ``s x n x m``."""
        return self.hyper.kernel.between(x1, x2)

    @torch.no_grad()
    def prior_variance(self, x: Tensor) -> Tensor:
        """Prior variance at ``m x d+2``, ``s x m``."""
        return self.hyper.kernel.forward(x, x, diag=True)

    def whitened(self, x: Tensor) -> Tensor:
        """``L^-1 k(X, x)`` for ``m x d+2``, ``s x n x m``: inner products of columns are what the data explain."""
        return torch.linalg.solve_triangular(self.factor, self.prior_covariance(self.x, x), upper=False)

    def mean(self, x: Tensor) -> Tensor:
        """Posterior mean at ``m x d+2``, standardised, ``s x m``."""
        return (self.prior_covariance(x, self.x) @ self._solved).squeeze(-1)

    @torch.no_grad()
    def given_pending(self, x: Tensor) -> Surrogate:
        """The surrogate once runs at ``m x d+2`` have reported their expected values: same mean, less variance."""
        if len(x) == 0:
            return self
        white = self.whitened(x)
        rest = self.hyper.noisy(self.prior_covariance(x, x)) - white.mT @ white
        above = torch.cat([self.factor, torch.zeros_like(white)], -1)
        below = torch.cat([white.mT, torch.linalg.cholesky(rest)], -1)
        result = copy(self)
        result.x, result.y = torch.cat([self.x, x]), torch.cat([self.y, (white.mT @ self.white).squeeze(-1)], -1)
        result.known = None if self.known is None else torch.cat([self.known, self.known.new_zeros(len(x))])
        result.factor = torch.cat([above, below], -2)
        # What is expected adds nothing to the whitened values.
        result.white = torch.cat([self.white, self.white.new_zeros(*self.white.shape[:1], len(x), 1)], -2)
        for stale in ("_solved", "_precision"):
            result.__dict__.pop(stale, None)
        return result

    def leave_out(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Errors and variances of some observations as predicted from all others, each ``(len(rows),)``.

        With ``P`` the inverse covariance, the error is ``P_rr^-1 (P y)_r`` and its covariance ``P_rr^-1``
        (Rasmussen & Williams 2006, Eqs. 5.10-5.12, for a block). Moments are taken over the draws.
        """
        index = torch.as_tensor(list(rows))
        block = torch.linalg.inv(self._precision[:, index][:, :, index])  # (s, r, r)
        error = (block @ self._solved[:, index]).squeeze(-1)  # (s, r)
        variance = block.diagonal(dim1=-2, dim2=-1)
        return error.mean(0), variance.mean(0) + error.var(0, correction=0)

    def botorch_model(self) -> SurrogateModel:
        """The same posterior as a BoTorch ensemble model, in the metric's own unit, for BoTorch's acquisitions.

        Raises:
            ValueError: for a surrogate with pending runs, whose values differ between draws.
        """
        if not torch.equal(self.y, self.y[:1].expand_as(self.y)):
            raise ValueError("A surrogate with pending runs has no BoTorch model: take it before given_pending.")
        values = self.y[0] * self.standardisation.spread + self.standardisation.center
        return SurrogateModel(self.x, values, self.theta, self.known)

    @cached_property
    def _solved(self) -> Tensor:
        return torch.linalg.solve_triangular(self.factor.mT, self.white, upper=True)  # (s, n, 1)

    @cached_property
    def _precision(self) -> Tensor:
        return torch.cholesky_inverse(self.factor)  # (s, n, n)


class SurrogateModel(SingleTaskGP):
    """A BoTorch ensemble model: one member a hyper-parameter draw.

    Args:
        x: inputs, ``n x d+2``.
        values: the metric, ``(n,)``.
        theta: hyper-parameter draws, ``s x p``.
        known: see ``Surrogate``.
    """

    _is_ensemble = True

    def __init__(self, x: Tensor, values: Tensor, theta: Tensor, known: Tensor | None = None) -> None:
        batch = theta.shape[:1]
        hyper = Hyperparameters(x.shape[-1] - 2, batch)
        hyper.unpack(theta)
        with torch.no_grad():
            nugget = hyper.nugget(hyper.kernel.forward(x, x, diag=True), known)  # (s, n)
        super().__init__(
            x.expand(*batch, *x.shape),
            values.unsqueeze(-1).expand(*batch, -1, 1),
            nugget.unsqueeze(-1) * values.var(),
            covar_module=hyper.kernel,
            mean_module=ZeroMean(batch_shape=batch),
            outcome_transform=Standardize(m=1, batch_shape=batch),
        )
        self.eval()

    def posterior(self, X: Tensor, *args: Any, **kwargs: Any) -> GaussianMixturePosterior:  # noqa: N803
        """Posterior at ``batch_shape x q x d+2``: ``batch_shape x s x q x 1``, a mixture over the draws."""
        posterior = super().posterior(X.unsqueeze(-3), *args, **kwargs)
        assert isinstance(posterior, GPyTorchPosterior)  # Standardize keeps it Gaussian
        return GaussianMixturePosterior(distribution=posterior.distribution)
