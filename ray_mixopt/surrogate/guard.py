"""How probable it is that a guardrail holds for a mixture at the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.core.objective import Guardrail

if TYPE_CHECKING:
    from ray_mixopt.surrogate.posterior import ObjectivePosterior


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A guardrail and what is known of its metric.

    Args:
        guardrail: what must hold.
        baseline: its baseline mixture, ``(d,)``.
        posterior: of its metric alone, in the metric's own direction; None while it was hardly observed.
    """

    guardrail: Guardrail
    baseline: np.ndarray
    posterior: ObjectivePosterior | None

    @property
    def margin(self) -> float:
        """How much worse than the baseline's the metric may be, in its own unit."""
        assert self.posterior is not None
        return self.guardrail.tolerance * abs(float(self.posterior.mean(self.baseline[None])))

    def probability(self, mixtures: np.ndarray) -> Tensor:
        """Of the guardrail to hold for each of ``c x d`` mixtures, ``(c,)``; 1 while nothing is known.

        The contrast with the baseline is Gaussian in each draw of the hyper-parameters. At the baseline itself it is 0.
        """
        if self.posterior is None:
            return torch.ones(len(mixtures), dtype=torch.float64)
        mean, variance = self.posterior.marginal(mixtures, self.baseline[None])
        ready = torch.special.ndtr((self.margin - mean) / variance.sqrt()).mean(0)
        same = torch.from_numpy(np.abs(mixtures - self.baseline).max(1) < 1e-9)
        return torch.where(same, torch.ones_like(ready), ready)

    def shortfall(self, mixtures: np.ndarray) -> Tensor:
        """By how much the probability misses the confidence wanted, ``(c,)``; 0 where it does not."""
        return (self.guardrail.confidence - self.probability(mixtures)).clamp_min(0.0)
