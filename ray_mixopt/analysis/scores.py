"""How well hidden mixtures were predicted: the scores of a prediction, and all that a backtest finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ray_mixopt.core.forecast import NORMAL_95, contrast_deviations

SUFFICIENT_RANK = 0.9
SURROGATE = "ray-mixopt"

Cell = tuple[str, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Hindcast:
    """What a method says of ``n`` hidden mixtures.

    Attributes:
        mean: of each, ``(n,)``; NaN for those that it says nothing of.
        covariance: ``(n, n)``, where the method states how sure it is.
        has_level: whether the mean is meant for the hidden scale; otherwise only differences between mixtures are.
    """

    mean: np.ndarray
    covariance: np.ndarray | None = None
    has_level: bool = True


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well hidden mixtures were predicted; None for what a method does not say.

    Attributes:
        n: number of mixtures that were predicted.
        rank: Spearman's correlation of predicted and true values; None where one of them is constant.
        error: root mean square error of the contrasts over their standard deviation, 1 for "all are equal".
        covered: share of the contrasts inside their 95% interval.
        stated: standard deviation of a contrast as stated, over its true error: 1 is right, more is too wide.
        level: error of the mean of all, over the true mean.
        level_covered: share of the draws whose level was inside its 95% interval.
        regret: how much worse the mixture is that was predicted best than the best one, over their standard deviation.
        seconds: to fit and to predict.
    """

    n: float
    rank: float | None
    error: float | None
    covered: float | None
    stated: float | None
    level: float | None
    level_covered: float | None
    regret: float | None
    seconds: float

    @classmethod
    def of(cls, truth: np.ndarray, said: Hindcast, sign: float, seconds: float) -> Scores:
        """The scores of one prediction.

        Args:
            truth: what ``n`` mixtures showed.
            said: of each.
            sign: +1 where less is better, -1 where more is.
            seconds: taken.
        """
        mean, covariance = said.mean, said.covariance
        known = np.isfinite(mean)
        regret, spread = None, spread_of(truth)
        if known.any():
            pick = int(np.argmin(np.where(known, sign * mean, np.inf)))
            regret = float(sign * truth[pick] - (sign * truth).min()) / spread
        y, m = truth[known], mean[known]
        rank = error = covered = stated = level = level_covered = None
        if len(y) > 2 and np.ptp(y) > 0:
            rank = None if np.ptp(m) == 0 else float(spearmanr(m, y).statistic)
            contrasts, found = y - y.mean(), m - m.mean()
            wrong = float(np.sqrt(np.square(found - contrasts).mean()))
            error = wrong / spread_of(y)
            if covariance is not None:
                std = contrast_deviations(covariance)
                covered = float((np.abs(found - contrasts) <= NORMAL_95 * std).mean())
                stated = float(np.sqrt(np.square(std).mean())) / max(wrong, 1e-300)
        if said.has_level and len(y):
            off = abs(m.mean() - y.mean())
            level = off / max(abs(y.mean()), 1e-300)
            if covariance is not None:
                level_covered = float(off <= NORMAL_95 * np.sqrt(max(covariance.mean(), 0.0)))
        return cls(
            n=len(y),
            rank=rank,
            error=error,
            covered=covered,
            stated=stated,
            level=level,
            level_covered=level_covered,
            regret=regret,
            seconds=seconds,
        )

    @classmethod
    def mean(cls, scores: Sequence[Scores]) -> Scores:
        """The mean over draws, of those draws in which a score is known."""
        means = {}
        for field in fields(cls):
            known = [getattr(score, field.name) for score in scores if getattr(score, field.name) is not None]
            means[field.name] = float(np.mean(known)) if known else None
        return cls(**means)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Differences:
    """The hidden mixtures one by one: their differences from the mean of all, in the objective's unit.

    Attributes:
        measured: what they showed.
        predicted: what the surrogate expected.
        half: half the width of its 95% intervals.
    """

    measured: tuple[float, ...]
    predicted: tuple[float, ...]
    half: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Some mixtures given at the smaller scales, and what each method made of them.

    Attributes:
        mixtures: number of mixtures given.
        draws: number of times that they were drawn anew.
        largest: the largest scale given and its length, which methods that look at one scale look at; None where
            nothing is known at any.
        scores: by method, means over the draws.
        differences: what the surrogate said in the first draw; None where it was not asked.
    """

    mixtures: int
    draws: int
    largest: Cell | None
    scores: Mapping[str, Scores]
    differences: Differences | None


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A smaller scale and length by itself: how the hidden mixtures that ran there too were ordered.

    Attributes:
        scale: its name.
        steps: its length.
        cost: of a run, in runs at the hidden scale and length.
        n: hidden mixtures that ran there.
        rank: Spearman's correlation with what they showed at the hidden scale.
        regret: as in ``Scores``, of the mixture that was best there.
    """

    scale: str
    steps: int
    cost: float
    n: int
    rank: float
    regret: float


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """What was hidden, and how well it was predicted.

    Attributes:
        objective: what was predicted, in a few words.
        hidden: scale and steps that were predicted.
        n_hidden: number of mixtures known there, those that were given included.
        known: number of the hidden mixtures whose runs at the hidden scale were given.
        given: scales whose runs were given, small to large.
        spread: standard deviation between the hidden mixtures, in the objective's unit.
        cases: by the number of mixtures given.
        proxies: each smaller scale and length, cheapest first.
    """

    objective: str
    hidden: Cell
    n_hidden: int
    known: int
    given: tuple[str, ...]
    spread: float
    cases: tuple[Case, ...]
    proxies: tuple[Proxy, ...]

    @property
    def sufficient(self) -> Proxy | None:
        """The cheapest smaller scale and length that ordered the hidden mixtures well; None if none did."""
        return next((proxy for proxy in self.proxies if proxy.rank >= SUFFICIENT_RANK), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"sufficient": None if self.sufficient is None else asdict(self.sufficient)}


def spread_of(values: np.ndarray) -> float:
    """Standard deviation, never 0: what differences are compared with."""
    return max(float(values.std()), 1e-300)
