"""Mixtures within floors and caps: the capped simplex, its samples, corners and projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Bounds that miss 1 by less than this are taken to meet it: caps often come from divisions.
_SLACK = 1e-9
_REJECTION_ROUNDS = 8
_GIBBS_SWEEPS = 64


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
