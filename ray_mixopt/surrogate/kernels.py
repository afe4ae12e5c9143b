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
        shared, specific = self._mixture_parts(x1[..., :d], x2[..., :d], diag)
        growth, fidelity, curve = self._fidelity_parts(x1[..., d:], x2[..., d:], diag)
        return growth * shared + fidelity * specific + curve

    @torch.no_grad()
    def between(self, x1: Tensor, x2: Tensor) -> Tensor:
        """``forward`` without gradients for ``n x d+2`` and ``m x d+2`` inputs that repeat mixtures and fidelities.

        Each part is computed once for a pair of distinct mixtures or distinct fidelities: many runs share them.
        """
        d = self.n_domains
        (w1, i1), (w2, i2) = (torch.unique(x[:, :d], dim=0, return_inverse=True) for x in (x1, x2))
        (f1, j1), (f2, j2) = (torch.unique(x[:, d:], dim=0, return_inverse=True) for x in (x1, x2))
        shared, specific = (_expanded(part, i1, i2) for part in self._mixture_parts(w1, w2, False))
        growth, fidelity, curve = (_expanded(part, j1, j2) for part in self._fidelity_parts(f1, f2, False))
        return shared.mul_(growth).add_(specific.mul_(fidelity)).add_(curve)

    def _mixture_parts(self, w1: Tensor, w2: Tensor, diag: bool) -> tuple[Tensor, Tensor]:
        return self.shared.forward(w1, w2, diag=diag), self.specific.forward(w1, w2, diag=diag)

    def _fidelity_parts(self, f1: Tensor, f2: Tensor, diag: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What multiplies the shared effect, what multiplies the specific one, and what is added."""
        amplitude = self.log_amplitudes.exp()
        a1, a2, a3 = (amplitude[..., i, None] if diag else amplitude[..., i, None, None] for i in range(3))
        g1, g2 = ((f * self.growth.unsqueeze(-2)).sum(-1).exp() for f in (f1, f2))
        if diag:
            growth, trend = g1 * g2, (f1 * f2).sum(-1)
        else:
            growth, trend = g1.unsqueeze(-1) * g2.unsqueeze(-2), f1 @ f2.transpose(-1, -2)
        curve = a3 * self.curve.forward(f1, f2, diag=diag) + (_LEVEL_VARIANCE + _SLOPE_VARIANCE * trend)
        return a1 * growth, a2 * self.fidelity.forward(f1, f2, diag=diag), curve


def _expanded(part: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return part.index_select(-2, rows).index_select(-1, columns)


def _log() -> Positive:
    return Positive(transform=torch.exp, inv_transform=torch.log)
