"""Mixtures within floors, caps and limits on groups of domains: samples, corners and projection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_mixopt.core.arguments import in_order
from ray_mixopt.core.safety import is_finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Bounds that miss 1 by less than this are taken to meet it: caps often come from divisions.
_SLACK = 1e-9
_REJECTION_ROUNDS = 8
_GIBBS_SWEEPS = 64

SAME_SHARE = 1e-3  # mixtures whose shares all differ by at most this are one mixture: no training run tells them apart


def same_mixture(mixtures: ArrayLike, other: ArrayLike) -> np.ndarray:
    """Whether mixtures are the same, a boolean array of shape ``(...)``.

    Args:
        mixtures: ``... x d``.
        other: what each is compared with, ``(d,)`` or any shape that broadcasts against ``mixtures``.
    """
    difference = np.asarray(mixtures, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    same: np.ndarray = np.abs(difference).max(axis=-1) <= SAME_SHARE
    return same


def distinct_mixtures(mixtures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ones of ``k x d`` mixtures, ``n x d`` in order of appearance, and the nearest for each, ``(k,)``."""
    from scipy.spatial import KDTree

    first = np.sort(np.unique(mixtures, axis=0, return_index=True)[1])
    distinct, n = mixtures[first], 0  # the first n are those found so far
    for mixture in mixtures[first]:
        if not same_mixture(distinct[:n], mixture).any():
            distinct[n] = mixture
            n += 1
    return distinct[:n], KDTree(distinct[:n]).query(mixtures, p=np.inf)[1]


class CappedSimplex:
    """``{w : sum(w) = 1, lower <= w <= upper}`` in ``d`` dimensions.

    Args:
        lower: floors, ``(d,)``.
        upper: caps, ``(d,)``; values above 1 count as 1.
        names: what the error messages call the coordinates.

    Raises:
        ValueError: if no mixture satisfies the bounds; the message names the domains.
    """

    def __init__(self, lower: ArrayLike, upper: ArrayLike, names: Sequence[str]) -> None:
        self.lower = np.asarray(lower, dtype=np.float64)  # (d,)
        self.upper = np.minimum(np.asarray(upper, dtype=np.float64), 1.0)  # (d,)
        crossed = [name for name, low, up in zip(names, self.lower, self.upper, strict=True) if low > up]
        if crossed:
            raise ValueError(f"The floor is above the cap for {', '.join(crossed)}: lower the floor or raise the cap.")
        if self.lower.sum() > 1 + _SLACK:
            floors = ", ".join(f"{n}={v:g}" for n, v in zip(names, self.lower, strict=True) if v > 0)
            raise ValueError(f"The floors sum to {self.lower.sum():g}, above 1: lower some of {floors}.")
        if self.upper.sum() < 1 - _SLACK:
            caps = ", ".join(f"{n}={v:g}" for n, v in zip(names, self.upper, strict=True) if v < 1)
            raise ValueError(
                f"The caps sum to {self.upper.sum():g}, below 1, so no mixture fits: raise some of {caps} "
                "(or token_supply or max_epochs where they set the caps)."
            )

    @property
    def bounded(self) -> bool:
        """Whether any floor or cap cuts into the plain simplex."""
        return bool(np.any(self.lower > 0) or np.any(self.upper < 1))

    @property
    def limits(self) -> list[tuple[np.ndarray, float, float]]:
        """Limits on what coordinates have together: their places, the least and the most."""
        return []

    @property
    def fractions(self) -> np.ndarray:
        """Of the tokens, that the mixture of each phase is of, ``(p,)``; 1 of a run with one."""
        return np.ones(1)

    def mean(self, mixtures: np.ndarray) -> np.ndarray:
        """The mixture of all tokens, ``n x d``, of ``n`` mixtures: these themselves, where a run has one phase."""
        return mixtures

    def apart(self, mixtures: np.ndarray) -> np.ndarray:
        """``n`` mixtures by phase, ``n x p x d``, of which there is one."""
        return mixtures[:, None]

    @property
    def mean_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest share of each domain in all tokens, as far as the limits on itself say, ``(d,)`` each."""
        return self.lower, self.upper

    def contains(self, mixtures: ArrayLike, tolerance: float = 1e-9) -> np.ndarray:
        """Whether each mixture, ``n x d``, sums to 1 within the bounds, ``(n,)``."""
        w = np.atleast_2d(np.asarray(mixtures, dtype=np.float64))
        inside = np.all((w >= self.lower - tolerance) & (w <= self.upper + tolerance), axis=1)
        return inside & (np.abs(w.sum(1) - 1.0) <= tolerance)

    def project(self, points: ArrayLike) -> np.ndarray:
        """The nearest mixtures (Euclidean) to ``points``, ``n x d``.

        The projection is ``clip(x - t, lower, upper)`` for the one shift t that makes it sum to 1, found by bisection.
        """
        x = np.atleast_2d(np.asarray(points, dtype=np.float64))
        low = (x - self.upper).min(1) - 1e-12  # (n,) everything at its cap
        high = (x - self.lower).max(1) + 1e-12  # everything at its floor
        for _ in range(64):
            shift = 0.5 * (low + high)
            too_much = np.clip(x - shift[:, None], self.lower, self.upper).sum(1) > 1.0
            low, high = np.where(too_much, shift, low), np.where(too_much, high, shift)
        return self._closed(np.clip(x - (0.5 * (low + high))[:, None], self.lower, self.upper))

    def corners(self) -> np.ndarray:
        """Row i holds as much of coordinate i as the bounds allow; the rest shares what is left, ``d x d``.

        What is left goes to the other coordinates in proportion to the room between their floor and their cap.
        """
        d = len(self.lower)
        w = np.tile(self.lower, (d, 1))
        own = np.minimum(self.upper, 1.0 - (self.lower.sum() - self.lower))
        np.fill_diagonal(w, own)
        room = np.tile(self.upper - self.lower, (d, 1))
        np.fill_diagonal(room, 0.0)
        left = 1.0 - w.sum(1)
        total = room.sum(1)
        w += room * np.divide(left, total, out=np.zeros(d), where=total > 0)[:, None]
        return self._closed(w)

    def sample(self, n: int, rng: np.random.Generator, concentration: float | ArrayLike = 1.0) -> np.ndarray:
        """``n`` draws of a Dirichlet conditioned on the bounds, ``n x d``.

        Rejection first, which is exact; where the bounds reject nearly everything, a Gibbs sampler that redraws pairs
        of shares from their exact conditional (a truncated Beta), started from spread-out points.

        Args:
            n: number of mixtures.
            rng: source of randomness.
            concentration: Dirichlet parameter, one number or ``(d,)``; 1 is uniform on the capped simplex.

        Raises:
            ValueError: if n is negative or a concentration is not positive.
        """
        d = len(self.lower)
        alpha = np.broadcast_to(np.asarray(concentration, dtype=np.float64), (d,))
        if n < 0 or not np.all(np.isfinite(alpha)) or np.any(alpha <= 0):
            raise ValueError(f"sample needs n >= 0 and positive concentrations, got n={n}, {concentration!r}.")
        uniform = bool(np.all(alpha == 1.0))
        accepted = np.empty((0, d))
        if self.upper.sum() - 1.0 <= _SLACK or 1.0 - self.lower.sum() <= _SLACK:  # a single mixture fits
            return np.tile(self.project(np.full((1, d), 1.0 / d)), (n, 1))
        for round_ in range(_REJECTION_ROUNDS if self.bounded else 1):
            missing = n - len(accepted)
            if missing <= 0 or (round_ == 2 and len(accepted) < 0.02 * n):
                break
            proposals = rng.dirichlet(alpha, max(missing, 64) if self.bounded else missing)
            if uniform:  # the uniform distribution on the floored simplex is a shrunken copy of the plain one
                proposals = self.lower + (1.0 - self.lower.sum()) * proposals
            accepted = np.concatenate([accepted, proposals[self._accepted(proposals)][:missing]])
        missing = n - len(accepted)
        if missing > 0:
            accepted = np.concatenate([accepted, self._gibbs(missing, rng, alpha, uniform)])
        return self._closed(np.clip(accepted, self.lower, self.upper))

    def _accepted(self, proposals: np.ndarray) -> np.ndarray:
        """Which of ``n x d`` points of the plain simplex are within the bounds, ``(n,)``."""
        return np.all((proposals >= self.lower) & (proposals <= self.upper), axis=1)

    def _gibbs(self, n: int, rng: np.random.Generator, alpha: np.ndarray, uniform: bool) -> np.ndarray:
        d = len(self.lower)
        w = self.project(rng.dirichlet(alpha, n))
        for _ in range(_GIBBS_SWEEPS):
            order = rng.permutation(d)
            i, j = order[: d // 2], order[d // 2 : 2 * (d // 2)]
            total = w[:, i] + w[:, j]  # (n, d // 2), kept
            low = np.maximum(self.lower[i], total - self.upper[j])
            high = np.minimum(self.upper[i], total - self.lower[j])
            new = self._redrawn(rng, (i, j), total, low, high, alpha, uniform)
            w[:, i], w[:, j] = new, total - new
        return w

    def _redrawn(
        self,
        rng: np.random.Generator,
        pairs: tuple[np.ndarray, np.ndarray],
        total: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        alpha: np.ndarray,
        uniform: bool,
    ) -> np.ndarray:
        """New shares of the first of each pair given the pairs' sums, between ``low`` and ``high``, ``n x pairs``."""
        i, j = pairs
        high = np.maximum(high, low)
        u = rng.random(total.shape)
        if uniform:
            drawn: np.ndarray = low + u * (high - low)
            return drawn
        from scipy import special  # takes long to import, and most searches do without

        safe = np.where(total > 0, total, 1.0)
        f_low, f_high = (special.betainc(alpha[i], alpha[j], np.clip(b / safe, 0, 1)) for b in (low, high))
        return np.clip(safe * special.betaincinv(alpha[i], alpha[j], f_low + u * (f_high - f_low)), low, high)

    def _closed(self, w: np.ndarray) -> np.ndarray:
        """Put the rounding error of the sum on the coordinate with the most room for it."""
        residual = 1.0 - w.sum(1)
        room = np.where(residual[:, None] > 0, self.upper - w, w - self.lower)
        rows = np.arange(len(w))
        w[rows, room.argmax(1)] += residual
        return w


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

    domains: Sequence[str] = field(kw_only=False)
    least: float = 0.0
    most: float = 1.0

    def __post_init__(self) -> None:
        names = () if isinstance(self.domains, str) else in_order(self.domains, "The domains of a group")
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise ValueError(f"A group needs at least two distinct domains, got {self.domains!r}.")
        object.__setattr__(self, "domains", names)
        for label in ("least", "most"):
            value = getattr(self, label)
            if not is_finite(value) or not 0 <= value <= 1:
                raise ValueError(f"The group {self.name}: {label} must be a share between 0 and 1, got {value!r}.")
            object.__setattr__(self, label, float(value))
        if self.least > self.most:
            raise ValueError(f"The group {self.name}: least {self.least:g} is above most {self.most:g}.")

    @property
    def name(self) -> str:
        """Its domains, joined by "+"."""
        return "+".join(map(str, self.domains))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description: the arguments."""
        return {"domains": list(self.domains), "least": self.least, "most": self.most}


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

    @property
    def limits(self) -> list[tuple[np.ndarray, float, float]]:
        """One a group."""
        return list(zip(self._members, self._least.tolist(), self._most.tolist(), strict=True))

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
