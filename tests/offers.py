"""Runs on offer, for tests of what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.acquisition.offer import Offer
from ray_mixopt.acquisition.regret import Regret
from ray_mixopt.surrogate.posterior import ObjectivePosterior


def offer(
    posterior: ObjectivePosterior,
    runs: Tensor,
    mixtures: np.ndarray,
    bases: Sequence[int],
    partners: Sequence[int] | None = None,
) -> Offer:
    """Runs at inputs ``a x d+2`` for a cost of 1 each, where mixtures are compared with those at ``bases``."""
    plausible = posterior.solve(mixtures)
    mean, covariance = posterior.contrasts(plausible)
    normals = torch.from_numpy(np.random.default_rng(0).standard_normal((*mean.shape, 8)))
    return Offer(
        posterior=posterior,
        plausible=plausible,
        regret=replace(Regret.sampled(mean, covariance, normals), bases=torch.tensor(bases)),
        runs=posterior.solve(runs),
        costs=torch.ones(len(runs), dtype=torch.float64),
        partners=None if partners is None else torch.tensor(partners),
    )
