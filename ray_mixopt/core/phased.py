"""Mixtures of several phases: one simplex a phase, and caps on what all of them take together.

Notation: ``p`` phases that are searched, with fractions ``f`` of their tokens that sum to 1, and ``d`` domains. A
mixture is a row of ``p * d`` shares, phase by phase, of which each phase's sum to 1. Its mean is ``sum_p f_p w_p``, the
mixture of all tokens. A mixture is tied if it is the same in all phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.core.simplex import CappedSimplex

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_MOST_ROUNDS = 100  # of the search for the prices of domains
_CLOSE = 1e-6  # by which prices may be off
_ROUNDING = 1e-10  # of sums of shares
_TIED_SHARE = 0.5  # of samples


class PhasedSimplex(CappedSimplex):
    """The mixtures of several phases, within the limits of each and the caps on their mean.

    Args:
        blocks: the mixtures of each phase, ``p``.
        fractions: ``f``, ``(p,)``.
        caps: on the mean share of each domain, which may be infinite, ``(d,)``.
        names: of the domains.

    Raises:
        ValueError: if no mixture satisfies all; the message names domains.
    """

    def __init__(
        self, blocks: Sequence[CappedSimplex], fractions: Sequence[float], caps: ArrayLike, names: Sequence[str]
    ) -> None:
        self.blocks, self._fractions = tuple(blocks), np.array(fractions, dtype=np.float64)
        self.lower = np.concatenate([block.lower for block in blocks])  # (p * d,)
        self.upper = np.concatenate([block.upper for block in blocks])
        self.caps = np.asarray(caps, dtype=np.float64)
        least = self.mean(self.lower[None])[0]
        if over := [name for name, low, cap in zip(names, least, self.caps, strict=True) if low > cap + _ROUNDING]:
            raise ValueError(
                f"The floors of the phases take more of {', '.join(over)} than there is in the whole run: lower them, "
                "or raise token_supply or max_epochs."
            )
        self._capped = bool((self.mean(self.upper[None])[0] > self.caps).any())
        self._middle: np.ndarray | None = None
        if self._capped:
            self._middle = _inside(self, names)

    @property
    def fractions(self) -> np.ndarray:
        """Of the tokens, that the mixture of each phase is of, ``(p,)``."""
        return self._fractions

    @property
    def bounded(self) -> bool:
        """Whether any limit cuts into the plain simplices."""
        return self._capped or any(block.bounded for block in self.blocks)

    def mean(self, mixtures: np.ndarray) -> np.ndarray:
        """The mixture of all tokens, ``n x d``, of ``n x p * d``."""
        found: np.ndarray = np.tensordot(self.apart(mixtures), self.fractions, axes=(1, 0))
        return found

    def apart(self, mixtures: np.ndarray) -> np.ndarray:
        """``n x p * d`` mixtures as ``n x p x d``."""
        return mixtures.reshape(len(mixtures), len(self.blocks), mixtures.shape[-1] // len(self.blocks))

    @property
    def mean_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest share of each domain in all tokens, as far as the limits on itself say, ``(d,)`` each."""
        low, high = (self.mean(bound[None])[0] for bound in (self.lower, self.upper))
        return low, np.minimum(high, self.caps)

    def tied(self, mixtures: np.ndarray) -> np.ndarray:
        """The mixtures nearest to those that are the same ``n x d`` in all phases, ``n x p * d``."""
        return self.project(np.tile(mixtures, (1, len(self.blocks))))

    def contains(self, mixtures: ArrayLike, tolerance: float = 1e-9) -> np.ndarray:
        """Whether each mixture, ``n x p * d``, sums to 1 in each phase within all limits, ``(n,)``."""
        w = np.atleast_2d(np.asarray(mixtures, dtype=np.float64))
        inside = np.asarray((self.mean(w) <= self.caps + tolerance).all(1))
        for p, block in enumerate(self.blocks):
            inside = inside & block.contains(self.apart(w)[:, p], tolerance)
        return inside

    def project(self, points: ArrayLike) -> np.ndarray:
        """The nearest mixtures to ``points``, ``n x p * d``, where each phase counts as much as its fraction.

        In that measure the nearest mixture below the caps on the mean is that to points which are lower by the same in
        all phases, by the price of each domain: what is tied stays tied as far as the phases allow. Prices are found by
        accelerated gradient steps (Nesterov 1983). They come close; a step to a mixture well inside makes sure.
        """
        x = np.atleast_2d(np.asarray(points, dtype=np.float64))
        w = self._within_phases(x)
        rows = np.flatnonzero((self.mean(w) > self.caps).any(1)) if self._capped else np.empty(0, np.intp)
        if len(rows):
            w[rows] = self._below_caps(x[rows])
        return w

    def _below_caps(self, x: np.ndarray) -> np.ndarray:
        """The projection of points whose nearest mixtures would be above caps, ``n x p * d``."""
        prices = ahead = np.zeros((len(x), len(self.caps)))
        pace = 1.0
        for _ in range(_MOST_ROUNDS):
            w = self._within_phases(x - np.tile(ahead, (1, len(self.blocks))))
            before, prices = prices, np.maximum(ahead + self.mean(w) - self.caps, 0.0)
            if np.abs(prices - ahead).max() < _CLOSE:
                break
            pace, slower = 0.5 + np.sqrt(0.25 + pace**2), pace
            ahead = np.maximum(prices + (slower - 1) / pace * (prices - before), 0.0)
        return self._drawn_in(w)

    def corners(self) -> np.ndarray:
        """Row i holds as much of domain i as the limits allow, the same in all phases if they do, ``d x p * d``."""
        most = np.concatenate([block.corners() for block in self.blocks], axis=1)
        return self.project(most)

    def sample(self, n: int, rng: np.random.Generator, concentration: float | ArrayLike = 1.0) -> np.ndarray:
        """``n`` mixtures, ``n x p * d``: the first half tied, the rest from tied to what phases would draw alone.

        Args:
            n: number of mixtures.
            rng: source of randomness.
            concentration: of the Dirichlet of each phase, see ``CappedSimplex.sample``.

        Raises:
            ValueError: if n is negative or a concentration is not positive.
        """
        own = np.concatenate([block.sample(n, rng, concentration) for block in self.blocks], axis=1)
        common = np.tile(self.apart(own)[:, int(self.fractions.argmax())], (1, len(self.blocks)))
        reach = rng.random((n, 1))
        reach[: int(_TIED_SHARE * n)] = 0.0
        return self.project(common + reach * (own - common))

    def _within_phases(self, x: np.ndarray) -> np.ndarray:
        parts = self.apart(x)
        return np.concatenate([block.project(parts[:, p]) for p, block in enumerate(self.blocks)], axis=1)

    def _drawn_in(self, w: np.ndarray) -> np.ndarray:
        """Mixtures within their phases, moved to one well inside just as far as caps ask, ``n x p * d``."""
        assert self._middle is not None
        mean, middle = self.mean(w), self.mean(self._middle[None])
        over = mean - self.caps
        share = np.where(over > 0, over / np.maximum(mean - middle, 1e-300), 0.0).max(1, keepdims=True)
        return self._within_phases(w + np.minimum(share, 1.0) * (self._middle - w))


def phased(simplex: CappedSimplex) -> PhasedSimplex:
    """The mixtures of a space, which are of several phases.

    Raises:
        TypeError: if they are not.
    """
    if not isinstance(simplex, PhasedSimplex):
        raise TypeError("The mixtures of the space are one for the whole of a run.")
    return simplex


def _inside(simplex: PhasedSimplex, names: Sequence[str]) -> np.ndarray:
    """A mixture as far below the caps as can be, ``(p * d,)``; see ``PhasedSimplex`` for the error."""
    from scipy.optimize import linprog  # takes long to import, and few searches have such caps

    p, d = len(simplex.blocks), len(simplex.caps)
    finite = np.flatnonzero(np.isfinite(simplex.caps))
    rows, most = [], []
    for i in finite:  # sum_p f_p w_pi + room <= cap
        row = np.zeros(p * d + 1)
        row[i : p * d : d], row[-1] = simplex.fractions, 1.0
        rows.append(row)
        most.append(simplex.caps[i])
    for q, block in enumerate(simplex.blocks):
        for members, least, cap in block.limits:
            row = np.zeros(p * d + 1)
            row[q * d + members] = 1.0
            rows += [row, -row]
            most += [cap, -least]
    sums = np.zeros((p, p * d + 1))
    for q in range(p):
        sums[q, q * d : (q + 1) * d] = 1.0
    bounds = [*zip(simplex.lower, np.maximum(simplex.upper, simplex.lower), strict=True), (None, 1.0)]
    cost = np.zeros(p * d + 1)
    cost[-1] = -1.0
    found = linprog(cost, A_ub=np.array(rows), b_ub=most, A_eq=sums, b_eq=np.ones(p), bounds=bounds)
    if not found.success or found.x[-1] < -_ROUNDING:
        scarce = ", ".join(names[i] for i in finite.tolist())
        raise ValueError(
            f"No mixture of the phases keeps to what there is of {scarce} in the whole run: raise token_supply, "
            "max_epochs or the caps of other domains, or lower floors."
        )
    middle: np.ndarray = simplex._within_phases(found.x[None, :-1])[0]
    return middle
