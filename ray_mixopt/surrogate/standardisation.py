"""From a metric's unit to what a Gaussian process is of, and back.

A loss is modelled as it is, less its mean and over its standard deviation. An accuracy is modelled on a scale that is
logarithmic above chance, since there the effect of a mixture is as large for models that have hardly begun to learn a
task as for those that have: of HellaSwag (chance 0.25) it grows from 0.003 at 20M parameters to 0.021 at 1B, and in
units of what is above chance it stays at a fifth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value", Tensor, float)

_SOFT = 0.0025  # of the way from chance to all right: the scale is linear within twice that of either end
_FURTHEST = 60.0  # on the scale of a link: beyond it exponentials overflow before long


@dataclass(frozen=True, kw_only=True)
class AccuracyLink:
    """A scale for accuracies that is logarithmic towards chance and towards the ceiling, and linear at both.

    With ``p = (y - chance) / (ceiling - chance)`` and ``a = 1 / (2 soft)``,

        g(y) = asinh(a p) - asinh(a (1 - p)),        g^-1(g) = sinh(asinh(a / (2 cosh(g / 2))) + g / 2) / a,

    which is a logit of ``p`` but for the ends, where a report may lie beyond chance by accident.

    Args:
        chance: what guessing scores, in the metric's unit.
        ceiling: what no model exceeds: 1, or 100 per cent.
        soft: how far from chance reports scatter, of the way from chance to the ceiling.
    """

    chance: float
    ceiling: float
    soft: float = _SOFT

    @classmethod
    def of(cls, values: Tensor, chance: float) -> AccuracyLink:
        """The link for reports ``(n,)``, which are per cent where most of them are above 1.

        Args:
            values: reports.
            chance: what guessing scores, as a share, or in the reports' unit.
        """
        # Not the largest and the least: one of them may be absurd.
        middle, least = torch.quantile(values, values.new_tensor([0.5, 0.1])).tolist() if len(values) else (0.0, 1.0)
        ceiling = 1.0 if middle <= 1 and chance < 1 else 100.0
        floor = chance * (100.0 if ceiling > 1 > chance else 1.0)
        # Reports below chance say how far they scatter.
        return cls(chance=floor, ceiling=ceiling, soft=max(_SOFT, (floor - least) / (ceiling - floor)))

    def __call__(self, y: Tensor) -> Tensor:
        """Accuracies on the scale."""
        p, a = self._share(y), self._steepness
        return torch.asinh(a * p) - torch.asinh(a * (1 - p))

    def undone(self, g: Tensor) -> Tensor:
        """What is on the scale as accuracies."""
        half, a = g.clamp(-_FURTHEST, _FURTHEST) / 2, self._steepness
        return (
            self.chance + (self.ceiling - self.chance) * torch.sinh(torch.asinh(a / (2 * torch.cosh(half))) + half) / a
        )

    def slope(self, g: Tensor) -> Tensor:
        """By how much the accuracy rises a unit of the scale."""
        p, a = self._share(self.undone(g)), self._steepness
        rise = a / (1 + (a * p).square()).sqrt() + a / (1 + (a * (1 - p)).square()).sqrt()
        return (self.ceiling - self.chance) / rise

    @property
    def _steepness(self) -> float:
        return 1 / (2 * self.soft)

    def _share(self, y: Tensor) -> Tensor:
        return (y - self.chance) / (self.ceiling - self.chance)


@dataclass(frozen=True, kw_only=True)
class Standardisation:
    """Map between a metric's unit, standardised values and the latent values that are modelled.

    Standardised are values less ``center`` and over ``spread``, which is all that there is to it without a link: latent
    values are then the same. With one, latent values are standardised on its scale.

    Args:
        center: mean in the metric's unit.
        spread: standard deviation in the metric's unit.
        link: the scale of an accuracy.
        latent_center: mean on that scale.
        latent_spread: standard deviation on that scale.
    """

    center: float
    spread: float
    link: AccuracyLink | None = None
    latent_center: float = 0.0
    latent_spread: float = 1.0

    @classmethod
    def of(cls, values: Tensor, chance: float | None = None) -> Standardisation:
        """Mean and standard deviation of ``(n,)`` values; a constant metric keeps its unit.

        Args:
            values: reports of the metric.
            chance: what guessing scores, for an accuracy.
        """
        center, spread = _moments(values)
        if chance is None:
            return cls(center=center, spread=spread)
        link = AccuracyLink.of(values, chance)
        latent_center, latent_spread = _moments(link(values))
        return cls(center=center, spread=spread, link=link, latent_center=latent_center, latent_spread=latent_spread)

    def __call__(self, values: Tensor) -> Tensor:
        """Values in the metric's unit as latent ones."""
        if self.link is None:
            return (values - self.center) / self.spread
        return (self.link(values) - self.latent_center) / self.latent_spread

    def value(self, latent: Tensor) -> Tensor:
        """Latent values as standardised ones."""
        if self.link is None:
            return latent
        return (self.link.undone(self.latent_center + self.latent_spread * latent) - self.center) / self.spread

    def slope(self, latent: Tensor) -> Tensor:
        """By how much the standardised value rises with the latent one, of the shape of ``latent``, or ``()``."""
        if self.link is None:
            return latent.new_ones(())
        return self.link.slope(self.latent_center + self.latent_spread * latent) * self.latent_spread / self.spread

    def undone(self, values: Value) -> Value:
        """Standardised values in the metric's unit."""
        return values * self.spread + self.center

    def variances(self, variances: Tensor, values: Tensor) -> Tensor:
        """Variances in the metric's unit squared, of some values in that unit, as latent ones."""
        return variances / (self.spread * self.slope(self(values))) ** 2

    def scatter(self, deviation: float | None) -> float | None:
        """A standard deviation in the metric's unit as a latent one, of an accuracy as of a mean one; None stays."""
        if deviation is None:
            return None
        return deviation / (self.spread * float(self.slope(torch.zeros((), dtype=torch.float64))))


def _moments(values: Tensor) -> tuple[float, float]:
    center, spread = float(values.mean()), float(values.std()) if len(values) > 1 else 0.0
    return center, spread if spread > 1e-12 * (1 + abs(center)) else 1.0
