"""Covariance of a metric over mixtures of several phases: that of their mean, and what their order adds.

With ``p`` phases of fractions ``f``, a metric is ``A(mean) + G(contrast)``. ``A`` is the covariance of one mixture
(``kernels``) at the mean ``sum_p f_p w_p`` of the phases, which is all that counts where order does not matter. ``G``
is linear in how far each later phase is from the mean on the scale on which gains diminish, ``u(w_p) - u(mean)``: it is
0 for a mixture that is the same in all phases. Its amplitude is believed small until runs say otherwise, since what is
published of phases is: gains by metric, of a tenth of what the mixture does and less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ray_mixopt.core.phases import fractions_of
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.surrogate.belief import Belief
from ray_mixopt.surrogate.fit import KernelMaker
from ray_mixopt.surrogate.kernels import MixtureFidelityKernel, Moments
from ray_mixopt.surrogate.repetition import RepetitionKernel

CONTRAST: Moments = (math.log(0.03), 1.5)  # of the log amplitude, relative to that of the mixture


class PhasedKernel(MixtureFidelityKernel):
    """The covariance above, batched over hyper-parameter draws.

    Args:
        n_shares: number of shares of a mixture, ``p * d``; inputs have ``p * d + 2`` columns.
        batch_shape: batch of hyper-parameter draws.
        fractions: ``f``, which sum to 1.
        priors: in place of those of the kernel, for the parameters that it names.
        drift: as of the kernel of one mixture.
    """

    def __init__(
        self,
        n_shares: int,
        batch_shape: torch.Size | None = None,
        *,
        fractions: Sequence[float],
        priors: Mapping[str, Moments] | None = None,
        drift: float = 0.2,
    ) -> None:
        own = {"log_contrast": CONTRAST, **(priors or {})}
        super().__init__(n_shares // len(fractions), batch_shape, priors=own, drift=drift)
        self.n_shares = self.n_inputs = n_shares
        self.fractions = torch.tensor(fractions, dtype=torch.float64).unsqueeze(-1)
        batch = torch.Size() if batch_shape is None else batch_shape
        self.register_parameter("log_contrast", torch.nn.Parameter(torch.zeros(*batch, 1)))

    @property
    def order_matters(self) -> bool:
        """Whether runs have not shown that order does next to nothing: its amplitude is not far below its prior."""
        location, width = self.priors["log_contrast"]
        return float(self.log_contrast.detach().mean()) > float(location) - float(width)  # type: ignore[arg-type]

    def _features(self, mixtures: Tensor) -> tuple[Tensor, Tensor]:
        """As of one mixture, of the mean; linear ones are the contrasts of later phases, too."""
        each = mixtures.unflatten(-1, (len(self.fractions), self.n_domains))  # ... x n x p x d
        mean = (self.fractions * each).sum(-2)
        linear, places = super()._features(mean)
        later = self.log_shares(each[..., 1:, :].flatten(-3, -2)).unflatten(-2, (-1, len(self.fractions) - 1))
        contrast = (later - self.log_shares(mean).unsqueeze(-2)).flatten(-2)
        return torch.cat([linear, (0.5 * self.log_contrast).exp().unsqueeze(-2) * contrast], -1), places


def kernel_of(space: MixtureSpace) -> KernelMaker:
    """What makes the kernel of a space: that of one mixture, which may repeat domains, or of several phases."""
    if space.repetition:
        return RepetitionKernel
    if not space.phase_names:
        return MixtureFidelityKernel

    def make(n_shares: int, batch_shape: torch.Size | None = None) -> PhasedKernel:
        return PhasedKernel(n_shares, batch_shape, fractions=fractions_of(space.phases))

    return make


def belief_of(problem: Problem) -> Belief:
    """The models of all metrics of a problem, as its settings say."""
    told = problem.settings
    return Belief(told.seed, noise=told.noise, kernel=kernel_of(problem.space), callbacks=told.callbacks)
