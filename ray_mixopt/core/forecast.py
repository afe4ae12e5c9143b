"""What is predicted, how surely, and whether such predictions held."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ray_mixopt.core.words import fidelity

NORMAL_95 = 1.959963984540054
"""Half the width of a 95% interval, in standard deviations of a normal."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A value at the target with its 95% interval, in the objective's own unit.

    Attributes:
        mean: expected value.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, mean: float, std: float) -> Prediction:
        """The prediction of a normal with this mean and standard deviation."""
        half = NORMAL_95 * std
        return cls(mean=mean, low=mean - half, high=mean + half)

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """What is predicted for ``n`` mixtures together, in the objective's own unit and direction.

    Whatever the mixtures have in common, such as the level of the whole model scale, is in the covariance, so that a
    difference between two of them is often known far better than either value.

    Attributes:
        mean: expected value of each mixture, ``(n,)``.
        std: standard deviation of each, ``(n,)``.
        covariance: of every mixture with every other, ``(n, n)``, in the unit squared.

    Raises:
        ValueError: if the shapes do not agree.
    """

    mean: np.ndarray
    std: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        for name in ("mean", "std", "covariance"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        n = self.mean.size
        if self.mean.shape != (n,) or self.std.shape != (n,) or self.covariance.shape != (n, n):
            raise ValueError(
                "A forecast of n mixtures has mean (n,), std (n,) and covariance (n, n), got "
                f"{self.mean.shape}, {self.std.shape} and {self.covariance.shape}."
            )

    def __len__(self) -> int:
        """The number of mixtures."""
        return self.mean.size

    def difference(self, i: int, j: int) -> Prediction:
        """Value of mixture ``i`` minus that of mixture ``j`` (places among those predicted), with its 95% interval."""
        if not (0 <= i < len(self) and 0 <= j < len(self)):
            raise ValueError(f"The forecast is of {len(self)} mixtures, numbered from 0: there is no {i} or no {j}.")
        covariance = self.covariance
        variance = float(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
        return Prediction.of(float(self.mean[i] - self.mean[j]), math.sqrt(max(variance, 0.0)))


def contrast_deviations(covariance: np.ndarray) -> np.ndarray:
    """Standard deviations of the differences from the mean of all, ``(n,)``, given ``(n, n)`` covariances."""
    center = np.eye(len(covariance)) - 1 / len(covariance)
    deviations: np.ndarray = np.sqrt(np.maximum((center @ covariance @ center).diagonal(), 0.0))
    return deviations


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often 95% intervals held when each run was predicted from all the others.

    Attributes:
        coverage: share of the held-out observations inside their interval.
        n: number of held-out observations.
    """

    coverage: float
    n: int

    @property
    def failed(self) -> bool:
        """Whether the coverage is less than 90%, give or take what ``n`` observations can tell."""
        return self.n > 0 and self.coverage < _least_coverage(self.n)

    @property
    def trustworthy(self) -> bool:
        """Whether it did not fail, with 20 observations or more."""
        return not self.failed and self.n >= 20

    @property
    def found(self) -> str:
        """What was found, in words."""
        return f"{self.coverage:.0%} of {self.n} left-out observations inside their 95% interval"

    def __str__(self) -> str:
        return self.found + ("" if self.trustworthy else ", not calibrated: read the intervals with care")


@dataclass(frozen=True, kw_only=True)
class Hindsight:
    """How well the largest runs of a search are predicted from its smaller ones.

    Attributes:
        scale: the scale that was predicted, from smaller ones only.
        steps: the length.
        n: mixtures known there.
        coverage: share of their differences from the mean of all that were inside the 95% interval.
        rank: Spearman's correlation of what was predicted and what was seen; None where one of them is constant.
    """

    scale: str
    steps: int
    n: int
    coverage: float
    rank: float | None

    @property
    def trustworthy(self) -> bool:
        """Whether the coverage is at least 90%, give or take what ``n`` mixtures can tell."""
        return self.coverage >= _least_coverage(self.n)

    @property
    def found(self) -> str:
        """What was found, in words."""
        return (
            f"{self.coverage:.0%} of the differences of {self.n} mixtures at {fidelity(self.scale, self.steps)} inside "
            "their 95% interval when predicted from smaller scales"
        )

    def __str__(self) -> str:
        rank = "" if self.rank is None else f", ranked with {self.rank:.2f}"
        return f"{self.found}{rank}{'' if self.trustworthy else ': too sure, read the intervals with care'}"


def _least_coverage(n: int) -> float:
    """The coverage below which ``n`` 95% intervals are too narrow, rather than unlucky."""
    return 0.90 - 2 * (0.95 * 0.05 / max(n, 1)) ** 0.5
