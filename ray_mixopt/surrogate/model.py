"""One metric's Gaussian process over mixtures and fidelities, averaged over hyper-parameter draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
        spread = float(values.std(correction=0)) if len(values) > 1 else 0.0
        return cls(center=float(values.mean()), spread=spread if spread > 1e-12 * (1 + abs(float(values.mean()))) else 1)

    def __call__(self, values: Tensor) -> Tensor:
        return (values - self.center) / self.spread


class Surrogate:
    """Posterior of one metric, for each of ``s`` hyper-parameter draws.

    Args:
        x: inputs, ``n x d+2`` (see ``kernels``).
        y: standardised values, ``(n,)`` or ``s x n``.
        theta: hyper-parameter draws, ``s x p``.
        standardisation: how ``y`` was made from the metric.
    """

    def __init__(self, x: Tensor, y: Tensor, theta: Tensor, standardisation: Standardisation) -> None:
        self.x, self.theta, self.standardisation = x, theta, standardisation
        self.n_domains = x.shape[-1] - 2
        self.hyper = Hyperparameters(self.n_domains, theta.shape[:1])
        self.hyper.unpack(theta)
        self.y = y.expand(len(theta), -1)
        with torch.no_grad():
            self.noise = self.hyper.log_noise.exp() + 1e-6  # (s, 1)
            self.factor = torch.linalg.cholesky(self.hyper.covariance(x))  # (s, n, n)
            self.white = torch.linalg.solve_triangular(self.factor, self.y.unsqueeze(-1), upper=False)  # (s, n, 1)

    @torch.no_grad()
    def whitened(self, x: Tensor) -> Tensor:
        """``L^-1 k(X, x)`` for ``m x d+2``, ``s x n x m``: inner products of columns are what the data explain."""
        return torch.linalg.solve_triangular(self.factor, self.hyper.kernel.forward(self.x, x), upper=False)

    @torch.no_grad()
    def mean(self, x: Tensor) -> Tensor:
        """Posterior mean at ``m x d+2``, standardised, ``s x m``."""
        return (self.whitened(x).mT @ self.white).squeeze(-1)

    @torch.no_grad()
    def prior_variance(self, x: Tensor) -> Tensor:
        """Prior variance at ``m x d+2``, ``s x m``."""
        return self.hyper.kernel.forward(x, x, diag=True)

    def given_pending(self, x: Tensor) -> Surrogate:
        """The surrogate once runs at ``m x d+2`` have reported their expected values: same mean, less variance."""
        if len(x) == 0:
            return self
        y = torch.cat([self.y, self.mean(x)], -1)
        return Surrogate(torch.cat([self.x, x]), y, self.theta, self.standardisation)
