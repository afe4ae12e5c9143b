"""Covariance of a metric over mixtures and fidelities.

Inputs are rows ``x = [w, s, t]``: the mixture ``w`` (``d`` shares), ``s`` the log size of the model and ``t`` the log
training steps, both relative to the target, where ``s = t = 0``. With ``f = (s, t)``,

    k(x, x') = a1 k1(w, w') g(f) g(f')  +  a2 k2(w, w') kf(f, f')  +  a3 k3(f, f')  +  l(f, f')

an effect of the mixture that all fidelities share, whose amplitude ``g(f) = exp(b . f)`` may grow or shrink with the
fidelity; an effect of the mixture that is specific to a fidelity and its neighbours; a scaling curve common to all
mixtures, on a linear trend ``l`` with a wide fixed prior.
"""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel
from torch import Tensor

# Prior variance of the linear trend in units of the standardised metric: level 2 sd, slope 0.5 sd an e-fold.
_LEVEL_VARIANCE = 4.0
_SLOPE_VARIANCE = 0.25


class MixtureFidelityKernel(Kernel):
    """The covariance above, batched over hyper-parameter draws.

    All positive hyper-parameters are stored as logarithms, so their log-normal priors are Gaussian in the parameters.

    Args:
        n_domains: number of domains, ``d``; inputs have ``d + 2`` columns.
        batch_shape: batch of hyper-parameter draws.
    """

    def __init__(self, n_domains: int, batch_shape: torch.Size | None = None) -> None:
        batch = torch.Size() if batch_shape is None else batch_shape
        super().__init__(batch_shape=batch)
        self.n_domains = n_domains
        self.shared = MaternKernel(2.5, ard_num_dims=n_domains, batch_shape=batch, lengthscale_constraint=_log())
        self.specific = MaternKernel(2.5, ard_num_dims=n_domains, batch_shape=batch, lengthscale_constraint=_log())
        self.fidelity = RBFKernel(ard_num_dims=2, batch_shape=batch, lengthscale_constraint=_log())
        self.curve = RBFKernel(ard_num_dims=2, batch_shape=batch, lengthscale_constraint=_log())
        self.register_parameter("log_amplitudes", torch.nn.Parameter(torch.zeros(*batch, 3)))
        self.register_parameter("growth", torch.nn.Parameter(torch.zeros(*batch, 2)))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """Covariance of ``x1`` (``batch_shape x n x d+2``) with ``x2`` (``batch_shape x m x d+2``)."""
        d = self.n_domains
        w1, w2, f1, f2 = x1[..., :d], x2[..., :d], x1[..., d:], x2[..., d:]
        amplitude = self.log_amplitudes.exp()
        a1, a2, a3 = (amplitude[..., i, None] if diag else amplitude[..., i, None, None] for i in range(3))
        g1, g2 = ((f * self.growth.unsqueeze(-2)).sum(-1).exp() for f in (f1, f2))
        if diag:
            growth, trend = g1 * g2, (f1 * f2).sum(-1)
        else:
            growth, trend = g1.unsqueeze(-1) * g2.unsqueeze(-2), f1 @ f2.transpose(-1, -2)
        return (
            a1 * growth * self.shared.forward(w1, w2, diag=diag)
            + a2 * self.specific.forward(w1, w2, diag=diag) * self.fidelity.forward(f1, f2, diag=diag)
            + a3 * self.curve.forward(f1, f2, diag=diag)
            + (_LEVEL_VARIANCE + _SLOPE_VARIANCE * trend)
        )


def _log() -> Positive:
    return Positive(transform=torch.exp, inv_transform=torch.log)
