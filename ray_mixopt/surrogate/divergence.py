"""Where runs diverge: how likely it is of a run, from those that did and those that did not.

A diverged run has no value, and any that it were given would be believed: a cliff that a smooth model takes for noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.core.history import History
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.surrogate.encoding import encode
from ray_mixopt.surrogate.kernels import matern

SMALL_RISK, LARGE_RISK = 0.3, 0.5  # of a mixture that is recommended; of a run that is still worth a try
_RANGE = 0.25  # of mixtures, as the Euclidean distance of the square roots of their shares: two corners have 1.4
_SIZES = 0.5  # e-folds: what is sound may not be at a larger size, and what diverges may be sound at a smaller one
_DOUBT = 1.0  # sound runs that are assumed to have been everywhere


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The risk that runs diverge, a kernel estimate over mixtures and model sizes.

    Attributes:
        x: inputs of the runs, ``n x d+2``.
        diverged: 1.0 for those that did, ``(n,)``.
        n_shares: number of shares of a mixture, which come first among an input's columns.
    """

    x: Tensor
    diverged: Tensor
    n_shares: int

    @classmethod
    def of(cls, space: MixtureSpace, history: History) -> Divergence | None:
        """That of a history; None where no run diverged."""
        if not any(trial.status == "diverged" for trial in history):
            return None
        runs = [trial for trial in history if trial.observations]
        x = encode(space, np.array([t.mixture for t in runs]), [(t.scale, t.reached) for t in runs])
        diverged = torch.tensor([float(t.status == "diverged") for t in runs], dtype=torch.float64)
        return cls(x=x, diverged=diverged, n_shares=space.n_shares)

    def risk(self, x: Tensor) -> Tensor:
        """Of each of ``c x d+2`` inputs, ``(c,)``, between 0 and 1: length does not matter."""
        here, there = (inputs[:, : self.n_shares].clamp_min(0).sqrt() for inputs in (x, self.x))
        apart = torch.cdist(here, there, compute_mode="donot_use_mm_for_euclid_dist") / _RANGE
        larger = (x[:, -2:-1] - self.x[:, -2]) / _SIZES
        beyond = torch.where(self.diverged > 0, -larger, larger).clamp_min(0.0)
        near = matern(apart) * torch.exp(-beyond)
        return near @ self.diverged / (near.sum(-1) + _DOUBT)
