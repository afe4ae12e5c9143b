"""Covariance of a metric over mixtures of which runs repeat some domains.

Inputs are rows ``x = [w, n, s, t]``: besides the mixture and the fidelity (``kernels``) the number of passes ``n`` over
each domain, 1 where nothing is repeated. The effect of the mixture is that of the effective shares

    w_i g(n_i),        g(n) = (1 + R (1 - exp(-(n - 1) / R))) / n  for n > 1, else 1,

what ``w_i`` is worth in tokens seen once (Muennighoff et al. 2023, Sec. 3, where 15 passes are the ``R`` of all their
runs). ``R`` is one for all domains and learned, with a strong prior: from a search's runs alone it can hardly be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ray_mixopt.surrogate.kernels import MixtureFidelityKernel, Moments

WORTH: Moments = (math.log(15.0), 0.5)  # of log R


class RepetitionKernel(MixtureFidelityKernel):
    """The covariance above, batched over hyper-parameter draws.

    Args:
        n_inputs: shares and passes of a mixture, ``2 d``; inputs have ``2 d + 2`` columns.
        batch_shape: batch of hyper-parameter draws.
        priors: in place of those of the kernel, for the parameters that it names.
        drift: as of the kernel without repetition.
    """

    def __init__(
        self,
        n_inputs: int,
        batch_shape: torch.Size | None = None,
        *,
        priors: Mapping[str, Moments] | None = None,
        drift: float = 0.2,
    ) -> None:
        super().__init__(n_inputs // 2, batch_shape, priors={"log_worth": WORTH, **(priors or {})}, drift=drift)
        self.n_inputs = n_inputs
        batch = torch.Size() if batch_shape is None else batch_shape
        self.register_parameter("log_worth", torch.nn.Parameter(torch.zeros(*batch, 1)))

    def _features(self, mixtures: Tensor) -> tuple[Tensor, Tensor]:
        """As of the effective shares."""
        shares, passes = mixtures.split(self.n_shares, -1)
        reach = self.log_worth.exp().unsqueeze(-1)
        further = passes - 1
        return super()._features(shares * ((1 - reach * torch.expm1(-further / reach)) / passes))
