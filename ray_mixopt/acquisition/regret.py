"""Expected regret at the target, and how much of it a run would remove.

The objective is minimised. In draw ``s`` one would recommend ``b_s``, the mixture of lowest mean, and overall ``b``,
the one of lowest mean over the draws. The expected regret of ``b`` has two parts:

    R = E_s E_f|s [f(b_s) - min f]  +  E_s [m_s(b) - m_s(b_s)]

what is not known within a draw, and what is lost by not knowing the draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_mixopt.surrogate.correlation import square_root


@dataclass(frozen=True, kw_only=True)
class Regret:
    """The two parts of the expected regret.

    Attributes:
        within: the first part by the mixture that was the minimum in the sample, ``s x c``.
        between: the second part by draw, ``(s,)``.
        bases: index of ``b_s``, ``(s,)``.
        best: index of ``b``, a scalar.
        variance: of the contrast of each mixture with ``b_s``, ``s x c``.
    """

    within: Tensor
    between: Tensor
    bases: Tensor
    best: Tensor
    variance: Tensor

    @classmethod
    def sampled(cls, mean: Tensor, covariance: Tensor, normals: Tensor) -> Regret:
        """From joint samples over the candidates.

        Args:
            mean: ``s x c``.
            covariance: ``s x c x c``.
            normals: independent standard normals, ``s x c x samples``.
        """
        bases = mean.argmin(-1)  # (s,)
        rows = torch.arange(len(bases))
        samples = mean.unsqueeze(-1) + square_root(covariance) @ normals  # (s, c, samples)
        lowest, where = samples.min(-2)  # (s, samples)
        regret = samples[rows, bases] - lowest
        within = torch.zeros_like(mean).scatter_add_(-1, where, regret) / normals.shape[-1]
        best = mean.mean(0).argmin()
        between = mean[:, best] - mean[rows, bases]
        diagonal = covariance.diagonal(dim1=-2, dim2=-1)
        variance = diagonal - 2 * covariance[rows, bases] + diagonal[rows, bases].unsqueeze(-1)
        return cls(within=within, between=between, bases=bases, best=best, variance=variance)

    def contenders(self, n: int) -> Tensor:
        """Indices of ``b``, each ``b_s`` and the ``n`` mixtures to which most regret is due in any draw, sorted."""
        largest = self.within.topk(min(n, self.within.shape[-1]), dim=-1).indices
        return torch.unique(torch.cat([largest.reshape(-1), self.bases, self.best.reshape(1)]))

    def removed(self, explained: Tensor, information: Tensor) -> Tensor:
        """Regret that runs remove, ``(a,)``, in the unit of the objective.

        The regret due to a mixture is in proportion to the standard deviation of its contrast with ``b_s``, of which
        a report that explains a share ``q`` of the variance removes ``1 - sqrt(1 - q)``. The regret of not knowing the
        draw goes in proportion to the information about it.

        Args:
            explained: variance of the contrasts that the runs' reports explain, ``s x a x c``.
            information: about which draw is right, in nats, ``(a,)``.
        """
        share = (explained / self.variance.clamp_min(1e-16).unsqueeze(-2)).clamp(0, 1)
        within = ((1 - (1 - share).sqrt()) * self.within.unsqueeze(-2)).sum(-1).mean(0)
        n_draws = len(self.bases)
        known = (information / math.log(n_draws)).clamp_max(1.0) if n_draws > 1 else torch.zeros_like(information)
        return within + self.between.mean() * known
