"""Information about the optimum at the target that a run would give.

Notation: ``s`` hyper-parameter draws, ``c`` candidate mixtures, ``a`` actions (mixture, scale, steps), ``k`` samples of
the optimum. The objective is minimised. An action's report ``y`` and the target value ``f`` of its own mixture have
posterior correlation ``rho``. Given that ``f`` is at least the optimum ``f*``, with ``gamma = (mean - f*) / sd`` and
``r = phi(gamma) / Phi(gamma)``, matching the moments of the truncated Gaussian gives

    IG = -1/2 E_f* log(1 - rho^2 r (gamma + r))

(the GIBBON form of multi-fidelity max-value entropy search; Moss et al. 2021, arXiv 2102.03324, Eq. 14 with q = 1).
It is computed in log space: far from the optimum it underflows long before its order stops mattering.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)


def sample_minima(mean: Tensor, covariance: Tensor, normals: Tensor) -> Tensor:
    """Minima of joint draws over the candidates.

    Args:
        mean: ``s x c``.
        covariance: ``s x c x c``.
        normals: independent standard normals, ``s x c x k``.

    Returns:
        ``s x k``.
    """
    scale = covariance.diagonal(dim1=-2, dim2=-1).amax(-1)[:, None, None]
    jitter = 1e-8 * scale * torch.eye(mean.shape[-1], dtype=mean.dtype)
    factor, info = torch.linalg.cholesky_ex(covariance + jitter)
    if bool(info.any()):
        factor = torch.linalg.cholesky(covariance + 1e3 * jitter)
    return (mean.unsqueeze(-1) + factor @ normals).amin(-2)


def log_information_gain(correlation_squared: Tensor, gamma: Tensor) -> Tensor:
    """Logarithm of ``IG``, averaged over the samples of the optimum.

    Args:
        correlation_squared: ``... x a``, in [0, 1).
        gamma: ``... x a x k``.

    Returns:
        ``... x a``.
    """
    log_q = correlation_squared.clamp(1e-300, 1 - 1e-9).log().unsqueeze(-1) + _log_shrinkage(gamma)
    exact = (-0.5 * torch.log1p(-log_q.clamp_min(-30.0).exp())).log()
    log_gain = torch.where(log_q < -25.0, log_q - math.log(2.0), exact)
    return log_gain.logsumexp(-1) - math.log(gamma.shape[-1])


def mean_shrinkage(gamma: Tensor) -> Tensor:
    """``E_f* r (gamma + r)``: how much of a target value's variance knowing the optimum removes.

    Args:
        gamma: ``... x k``.

    Returns:
        ``...``, in (0, 1).
    """
    return _log_shrinkage(gamma).exp().mean(-1)


def _log_shrinkage(gamma: Tensor) -> Tensor:
    log_ratio = -0.5 * gamma.square() - 0.5 * _LOG_2PI - torch.special.log_ndtr(gamma)  # log r
    # r (gamma + r) lies in (0, 1); for very negative gamma the sum cancels, hence the clamps.
    return (log_ratio + (gamma + log_ratio.exp()).clamp_min(1e-12).log()).clamp_max(0.0)
