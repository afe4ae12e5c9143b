"""Limits on groups of domains ("all code at most 30%"), and the mixtures that respect them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.simplex import CappedSimplex

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_SLACK = 1e-9
_GIBBS_SWEEPS = 64


@dataclass(frozen=True, kw_only=True)
class Group:
    """A limit on the share that some domains have together.

    Args:
        domains: their names, at least two.
        least: smallest share of the tokens that they have together.
        most: largest.

    Raises:
        ValueError: for shares outside [0, 1], crossed limits or fewer than two domains.
    """

    domains: Sequence[str]
    least: float = 0.0
    most: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.domains, str) or len(set(self.domains)) < 2 or len(set(self.domains)) < len(self.domains):
            raise ValueError(f"A group needs at least two distinct domains, got {self.domains!r}.")
        object.__setattr__(self, "domains", tuple(self.domains))
        for label in ("least", "most"):
            value = getattr(self, label)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"The group {self.name}: {label} must be a share between 0 and 1, got {value!r}.")
            object.__setattr__(self, label, float(value))
        if self.least > self.most:
            raise ValueError(f"The group {self.name}: least {self.least:g} is above most {self.most:g}.")

    @property
    def name(self) -> str:
        """Its domains, joined by "+"."""
        return "+".join(map(str, self.domains))


class GroupedSimplex(CappedSimplex):
    """``{w : sum(w) = 1, lower <= w <= upper, least <= sum of each group <= most}``; the groups are disjoint.

    Args:
        lower: floors, ``(d,)``.
        upper: caps, ``(d,)``.
        names: of the coordinates.
        groups: the limits on groups, whose domains are among ``names``.

    Raises:
        ValueError: if a domain is unknown or in two groups, or no mixture fits; the message says what to change.
    """

    def __init__(self, lower: ArrayLike, upper: ArrayLike, names: Sequence[str], groups: Sequence[Group]) -> None:
        super().__init__(lower, upper, names)
        places = {name: i for i, name in enumerate(names)}
        for group in groups:
            unknown = sorted(set(group.domains) - set(places))
            if unknown:
                raise ValueError(f"The group {group.name} has the unknown domains {unknown}.")
        taken = [domain for group in groups for domain in group.domains]
        if len(set(taken)) < len(taken):
            twice = sorted({domain for domain in taken if taken.count(domain) > 1})
            raise ValueError(f"Groups must not share domains, but {', '.join(twice)} is in several: merge the groups.")
        self._members = [np.array([places[domain] for domain in group.domains]) for group in groups]
        self._least = np.array([group.least for group in groups])  # (g,)
        self._most = np.array([group.most for group in groups])  # (g,)
        self._alone = np.array([i for name, i in places.items() if name not in taken], dtype=np.intp)
        floors = [float(self.lower[members].sum()) for members in self._members]
        caps = [float(self.upper[members].sum()) for members in self._members]
        for group, floor, cap in zip(groups, floors, caps, strict=True):
            if floor > group.most + _SLACK or cap < group.least - _SLACK:
                raise ValueError(
                    f"The group {group.name} must have between {group.least:g} and {group.most:g}, but its domains' "
                    f"floors and caps allow {floor:g} to {cap:g}: change one or the other."
                )
        low = math.fsum([*np.maximum(self._least, floors), *self.lower[self._alone]])
        high = math.fsum([*np.minimum(self._most, caps), *self.upper[self._alone]])
        if low > 1 + _SLACK or high < 1 - _SLACK:
            raise ValueError(
                f"With the groups {', '.join(group.name for group in groups)} the shares sum to between {low:g} and "
                f"{high:g}, so no mixture fits: widen a group, a floor or a cap."
            )

    @property
    def bounded(self) -> bool:
        """Always: a group is a bound."""
        return True

    def contains(self, mixtures: ArrayLike, tolerance: float = 1e-9) -> np.ndarray:
        """Whether each mixture, ``n x d``, sums to 1 within all limits, ``(n,)``."""
        w = np.atleast_2d(np.asarray(mixtures, dtype=np.float64))
        return super().contains(w, tolerance) & self._inside_groups(w, tolerance)

    def project(self, points: ArrayLike) -> np.ndarray:
        """The nearest mixtures (Euclidean) to ``points``, ``n x d``.

        As for the capped simplex, with one shift for all, but a group whose sum is then outside its limits has the
        shift of its own that puts it on them. The total still falls with the common shift, found by bisection.
        """
        x = np.atleast_2d(np.asarray(points, dtype=np.float64))
        low, high = (x - self.upper).min(1) - 1e-12, (x - self.lower).max(1) + 1e-12  # (n,)
        ends = low, high
        for _ in range(64):
            shift = 0.5 * (low + high)
            w = np.clip(x - shift[:, None], self.lower, self.upper)
            too_much = w[:, self._alone].sum(1) + np.clip(self._sums(w), self._least, self._most).sum(1) > 1.0
            low, high = np.where(too_much, shift, low), np.where(too_much, high, shift)
        w = np.clip(x - (0.5 * (low + high))[:, None], self.lower, self.upper)
        wanted = np.clip(self._sums(w), self._least, self._most)
        for members, total in zip(self._members, wanted.T, strict=True):
            w[:, members] = self._with_sum(x[:, members], members, total, *ends)
        return self._closed(w)

    def corners(self) -> np.ndarray:
        """Row i holds as much of coordinate i as the limits allow, and the rest as evenly as they allow, ``d x d``."""
        return self.project(10.0 * np.eye(len(self.lower)))

    def _with_sum(
        self, x: np.ndarray, members: np.ndarray, total: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        """The nearest shares of a group that sum to ``total``, ``n x members``."""
        for _ in range(64):
            shift = 0.5 * (low + high)
            shares = np.clip(x - shift[:, None], self.lower[members], self.upper[members])
            too_much = shares.sum(1) > total
            low, high = np.where(too_much, shift, low), np.where(too_much, high, shift)
        return np.clip(x - (0.5 * (low + high))[:, None], self.lower[members], self.upper[members])

    def _sums(self, w: np.ndarray) -> np.ndarray:
        """The share of each group, ``n x g``."""
        return np.stack([w[:, members].sum(1) for members in self._members], axis=1)

    def _inside_groups(self, w: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
        sums = self._sums(w)
        return np.all((sums >= self._least - tolerance) & (sums <= self._most + tolerance), axis=1)

    def _accepted(self, proposals: np.ndarray) -> np.ndarray:
        return super()._accepted(proposals) & self._inside_groups(proposals)

    def _gibbs(self, n: int, rng: np.random.Generator, alpha: np.ndarray, uniform: bool) -> np.ndarray:
        """Redraws one pair of shares at a time, since disjoint pairs may still meet in a group."""
        d = len(self.lower)
        group = np.full(d, -1)
        for g, members in enumerate(self._members):
            group[members] = g
        w = self.project(rng.dirichlet(alpha, n))
        for _ in range(_GIBBS_SWEEPS * d // 2):
            i, j = rng.permutation(d)[:2]
            total = w[:, i] + w[:, j]
            low, high = (
                np.maximum(self.lower[i], total - self.upper[j]),
                np.minimum(self.upper[i], total - self.lower[j]),
            )
            if group[i] != group[j]:
                sums = self._sums(w)
                for k, sign in ((i, 1), (j, -1)):
                    if group[k] >= 0:
                        up = np.maximum(self._most[group[k]] - sums[:, group[k]], 0.0)
                        down = np.maximum(sums[:, group[k]] - self._least[group[k]], 0.0)
                        up, down = (up, down) if sign > 0 else (down, up)
                        low, high = np.maximum(low, w[:, i] - down), np.minimum(high, w[:, i] + up)
            pair = np.array([i]), np.array([j])
            new = self._redrawn(rng, pair, total[:, None], low[:, None], high[:, None], alpha, uniform)[:, 0]
            w[:, i], w[:, j] = new, total - new
        return w
