"""The runs that could be bought, and what their reports would tell: all that an acquisition may ask, solved once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ray_mixopt.acquisition.regret import Regret
from ray_mixopt.surrogate.gp import Solved
from ray_mixopt.surrogate.points import Points
from ray_mixopt.surrogate.posterior import ObjectivePosterior

LEAST_VARIANCE = 1e-12  # of a report, standardised


class Acquisition(Protocol):
    """Values runs: any callable that maps an ``Offer`` to one number a run."""

    def __call__(self, offer: Offer) -> Tensor:
        """Value of each run on offer, ``(a,)``, none of them NaN: the one of largest value is bought."""
        ...


def bought(acquisition: Acquisition, offer: Offer) -> int:
    """Index of the run that an acquisition values most.

    Raises:
        ValueError: if it does not give one number a run.
    """
    values, n = acquisition(offer), len(offer.costs)
    if not isinstance(values, Tensor) or values.shape != (n,) or values.isnan().any():
        named = getattr(acquisition, "__qualname__", type(acquisition).__qualname__)
        shaped = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)[:60]
        raise ValueError(
            f"The acquisition {named} must give one number a run, a tensor of shape ({n},) without NaN; it gave "
            f"{shaped}{', with NaN' if isinstance(values, Tensor) and values.isnan().any() else ''}."
        )
    return int(values.argmax())


@dataclass(frozen=True, kw_only=True, eq=False)
class Prospect:
    """What a run's report is expected to be in one metric, standardised.

    Attributes:
        covariance: with the contrasts of the plausible mixtures with the one of lowest mean, ``s x a x c``.
        variance: of the report, noise included, ``s x a``.
    """

    covariance: Tensor
    variance: Tensor

    @classmethod
    def of(cls, runs: Solved, plausible: Solved, bases: Tensor) -> Prospect:
        """The reports of runs.

        Args:
            runs: solved inputs of the runs.
            plausible: mixtures at the target that may be the optimum, solved.
            bases: for each draw, the index of the mixture that the others are compared with, ``(s,)``.
        """
        covariance = runs.covariance(plausible)
        covariance -= covariance.gather(-1, bases[:, None, None].expand(-1, len(runs.x), 1))
        return cls(covariance=covariance, variance=runs.variance.clamp_min(LEAST_VARIANCE) + runs.noise)


@dataclass(frozen=True, kw_only=True, eq=False)
class Offer:
    """Runs that could be bought, for which money, and the question that they are to answer.

    Attributes:
        posterior: of the objective, runs on their way included.
        plausible: ``c`` mixtures at the target that may be the optimum, solved.
        regret: the expected regret of deciding now between them.
        runs: the ``a`` runs, solved.
        costs: what each adds to the bill, in the space's cost unit, ``(a,)``.
        partners: for each run, the index of the run of the incumbent at its fidelity that it could be compared with,
            where both together are affordable; -1 where there is none, ``(a,)``. None: runs are not valued in pairs.
    """

    posterior: ObjectivePosterior
    plausible: Points
    regret: Regret
    runs: Points
    costs: Tensor
    partners: Tensor | None = None

    @cached_property
    @torch.no_grad()
    def reports(self) -> tuple[Prospect, ...]:
        """What each run is expected to report, one a metric."""
        pairs = zip(self.runs.solved, self.plausible.solved, strict=True)
        return tuple(Prospect.of(run, plausible, self.regret.bases) for run, plausible in pairs)

    @cached_property
    @torch.no_grad()
    def information(self) -> Tensor:
        """Information (nats) of each report about which draw is right, ``(a,)``: that of the metric that tells most.

        It is that of the Gaussian which has the moments of the mixture over the draws.
        """
        found = torch.zeros(len(self.runs), dtype=torch.float64)
        for run, report in zip(self.runs.solved, self.reports, strict=True):
            total = report.variance.mean(0) + run.mean.var(0, correction=0)
            found = torch.maximum(found, 0.5 * (total.log() - report.variance.log().mean(0)))
        return found

    @cached_property
    @torch.no_grad()
    def explained(self) -> Tensor:
        """Variance of each contrast that a report would explain in each draw, ``s x a x c``."""
        return self.posterior.variance_of([r.covariance / r.variance.sqrt().unsqueeze(-1) for r in self.reports])

    @property
    def removed(self) -> Tensor:
        """Regret that each report is expected to remove, ``(a,)``, in the objective's unit."""
        return self.regret.removed(self.explained, self.information)

    @cached_property
    @torch.no_grad()
    def explained_in_pairs(self) -> Tensor:
        """What each of the ``paired`` runs would explain together with its partner, ``s x a' x c``."""
        rows = self.paired
        assert self.partners is not None
        which, place = self.partners[rows].unique(return_inverse=True)
        by_partner, by_run = [], []
        for run, report in zip(self.runs.solved, self.reports, strict=True):
            common = run.take(rows).covariance(run.take(which))[:, torch.arange(len(rows)), place]
            covariance, variance = report.covariance[:, which[place]], report.variance[:, which[place]]
            slope = common / variance
            rest = report.covariance[:, rows] - slope.unsqueeze(-1) * covariance
            left = (report.variance[:, rows] - slope * common).clamp_min(LEAST_VARIANCE)
            by_partner.append(covariance / variance.sqrt().unsqueeze(-1))
            by_run.append(rest / left.sqrt().unsqueeze(-1))
        return self.posterior.variance_of(by_partner) + self.posterior.variance_of(by_run)

    @property
    def removed_in_pairs(self) -> Tensor:
        """Regret that each of the ``paired`` runs and its partner remove together, ``(a',)``.

        One run near the target mostly tells how low losses are there; the difference of two tells which is better.
        """
        return self.regret.removed(self.explained_in_pairs, self.information[self.paired])

    @property
    def costs_in_pairs(self) -> Tensor:
        """What each of the ``paired`` runs and its partner cost together, ``(a',)``."""
        assert self.partners is not None
        return self.costs[self.paired] + self.costs[self.partners[self.paired]]

    @property
    def paired(self) -> Tensor:
        """Indices of the runs that have a partner, ``(a',)``."""
        none = torch.zeros(0, dtype=torch.long)
        return none if self.partners is None else torch.nonzero(self.partners >= 0).squeeze(-1)
