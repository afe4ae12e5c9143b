"""The predicted objective at the target over mixtures: along each domain, over pairs of domains, over all three.

Notation: ``d`` domains, ``p`` points. Values are in the objective's own unit and direction, without the pull to a prior
mixture. Of several phases, shares are those of all tokens; mixtures have ``m = n_shares`` columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from ray_mixopt.core.forecast import NORMAL_95
from ray_mixopt.core.simplex import CappedSimplex
from ray_mixopt.surrogate.posterior import ObjectivePosterior

_N_SHARES = 41  # points of a slice
_GRID = 36  # steps on the side of a surface


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """By how much the last report of each of ``n`` runs differs from what is predicted at its own fidelity.

    Attributes:
        mixtures: of the runs, ``n x m``.
        values: observed minus predicted objective, ``(n,)``.
        at_target: whether the report is at the target, ``(n,)``.
        runs: the name, the scale and the step of each report.
    """

    mixtures: np.ndarray
    values: np.ndarray
    at_target: np.ndarray
    runs: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The prediction along the share of one domain, the others in the recommended proportions.

    Several phases have more and less of the domain together: what they differ by stays as far as it can.

    Attributes:
        domain: its name.
        shares: of that domain, ascending, ``(p,)``.
        mixtures: with those shares, ``p x m``.
        mean: expected objective, ``(p,)``.
        best_share: the share at which the expected objective is best.
        recommended: the recommended share.
        limits: least and largest share allowed.
        run_shares: share of the domain in each of ``n`` runs, ``(n,)``.
        run_values: where each run lies by its residual from the prediction at its own fidelity, ``(n,)``.
        run_at_target: whether it reported at the target, ``(n,)``.
    """

    domain: str
    shares: np.ndarray
    mixtures: np.ndarray
    mean: np.ndarray
    best_share: float
    recommended: float
    limits: tuple[float, float]
    run_shares: np.ndarray
    run_values: np.ndarray
    run_at_target: np.ndarray

    @property
    def effect(self) -> float:
        """What lies between the best and the worst share, in the objective's unit."""
        return float(np.ptp(self.mean))


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The prediction over the shares of two domains, the others in the recommended proportions; or of all three.

    The mixtures are the same in all phases.

    Attributes:
        domains: their ``k`` names.
        shares: of those domains, ``p x k``.
        mean: expected objective, ``(p,)``.
        best: the shares at which the expected objective is best, ``(k,)``.
        recommended: the recommended shares, ``(k,)``.
    """

    domains: tuple[str, ...]
    shares: np.ndarray
    mean: np.ndarray
    best: np.ndarray
    recommended: np.ndarray


def level(posterior: ObjectivePosterior, mixtures: np.ndarray) -> np.ndarray:
    """The expected objective of ``p x m`` mixtures where the posterior looks, ``(p,)``."""
    values: np.ndarray = posterior.sign * (posterior.mean(mixtures) - posterior.penalty(mixtures)).numpy()
    return values


def slices(posterior: ObjectivePosterior, best: np.ndarray, residuals: Residuals) -> list[Slice]:
    """One slice for each domain through a mixture ``(m,)``, in the order of the space."""
    space, simplex, shares, found = posterior.space, posterior.space.simplex, np.linspace(0, 1, _N_SHARES), []
    lines = np.stack([_along(simplex, best, i, shares) for i in range(space.n_domains)])
    means = level(posterior, lines.reshape(-1, space.n_shares)).reshape(lines.shape[:2])
    recommended, of_runs = simplex.mean(best[None])[0], simplex.mean(residuals.mixtures)
    low, high = simplex.mean_bounds
    for i, (domain, mixtures, mean) in enumerate(zip(space.domains, lines, means, strict=True)):
        run_shares = of_runs[:, i]
        found.append(
            Slice(
                domain=domain,
                shares=shares,
                mixtures=mixtures,
                mean=mean,
                best_share=float(shares[np.argmin(posterior.sign * mean)]),
                recommended=float(recommended[i]),
                limits=(float(low[i]), float(high[i])),
                run_shares=run_shares,
                run_values=np.interp(run_shares, shares, mean) + residuals.values,
                run_at_target=residuals.at_target,
            )
        )
    return found


def half_widths(posterior: ObjectivePosterior, best: np.ndarray, mixtures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half the widths of the 95% intervals of some mixtures, ``(p,)``: of the value, and of it less ``best``'s.

    Args:
        posterior: of the objective.
        best: the mixture that the slice goes through, ``(m,)``.
        mixtures: such as those of a slice, ``p x m``.
    """
    points = posterior.solve(mixtures)
    return _half_width(*posterior.marginal(points)), _half_width(
        *posterior.marginal(points, posterior.solve(best[None]))
    )


def by_importance(along: Sequence[Slice]) -> np.ndarray:
    """Places of the domains that change the prediction much or have a large share, the most important first, ``(d,)``.

    Args:
        along: the slice of each domain.
    """
    effect, share = (np.array([getattr(line, what) for line in along]) for what in ("effect", "recommended"))
    return np.argsort(-effect / max(effect.max(), 1e-12) - share / share.max(), kind="stable")


def surfaces(posterior: ObjectivePosterior, best: np.ndarray, along: Sequence[Slice]) -> list[Surface]:
    """The surfaces through a mixture ``(m,)``: all of three domains at once, of more domains three pairs.

    The pairs are those of the three domains that change the prediction much or have a large share.

    Args:
        posterior: of the objective.
        best: the mixture, ``(m,)``.
        along: the slice of each domain.

    Returns:
        An empty list for two domains, which a slice shows whole.
    """
    d = posterior.space.n_domains
    if d < 3:
        return []
    if d == 3:
        return [_surface(posterior, best, [0, 1, 2])]
    three = np.sort(by_importance(along)[:3]).tolist()
    return [_surface(posterior, best, list(pair)) for pair in combinations(three, 2)]


def _surface(posterior: ObjectivePosterior, best: np.ndarray, places: list[int]) -> Surface:
    a, b = np.meshgrid(np.arange(_GRID + 1), np.arange(_GRID + 1), indexing="ij")
    inside = a + b <= _GRID
    shares = np.stack([a[inside], b[inside], _GRID - a[inside] - b[inside]], axis=1)[:, : len(places)] / _GRID
    middle = posterior.space.simplex.mean(best[None])[0]
    mean = level(posterior, np.tile(through(middle, places, shares), len(best) // len(middle)))
    return Surface(
        domains=tuple(posterior.space.domains[i] for i in places),
        shares=shares,
        mean=mean,
        best=shares[np.argmin(posterior.sign * mean)],
        recommended=middle[places],
    )


def _along(simplex: CappedSimplex, best: np.ndarray, i: int, shares: np.ndarray) -> np.ndarray:
    """Mixtures ``p x m`` through ``best`` with given shares ``(p,)`` of a domain in all tokens.

    Below the recommended share each phase has as many times less of the domain, above it of all others.
    """
    mean, parts = simplex.mean(best[None])[0, i], []
    for own in simplex.apart(best[None])[0]:
        less = own[i] * shares / max(mean, 1e-12)
        more = 1 - (1 - own[i]) * (1 - shares) / max(1 - mean, 1e-12)
        parts.append(through(own, [i], np.where(shares <= mean, less, more)[:, None]))
    return np.concatenate(parts, axis=1)


def through(best: np.ndarray, places: list[int], shares: np.ndarray) -> np.ndarray:
    """One phase's mixtures ``p x d`` with given shares ``p x k`` of some domains, and ``best``'s of the others."""
    others = np.ones_like(best)
    others[places] = 0.0
    rest = best * others
    rest = rest / rest.sum() if rest.sum() > 1e-9 else others / max(others.sum(), 1.0)
    mixtures = np.clip(1 - shares.sum(1, keepdims=True), 0, 1) * rest
    mixtures[:, places] = shares
    return mixtures


def _half_width(mean: Tensor, variance: Tensor) -> np.ndarray:
    """Half the width of 95% intervals, ``(p,)``, of moments ``s x p`` of ``s`` equally likely draws."""
    half: np.ndarray = NORMAL_95 * (mean.var(0, correction=0) + variance.mean(0)).sqrt().numpy()
    return half
