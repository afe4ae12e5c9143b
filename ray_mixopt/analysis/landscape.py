"""The predicted objective at the target over mixtures: along each domain, over pairs of domains, over all three.

Notation: ``d`` domains, ``p`` points. Values are in the objective's own unit and direction, without the pull to a prior
mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from ray_mixopt.core.forecast import NORMAL_95
from ray_mixopt.surrogate.posterior import ObjectivePosterior

_N_SHARES = 41  # points of a slice
_GRID = 36  # steps on the side of a surface


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """By how much the last report of each of ``n`` runs differs from what is predicted at its own fidelity.

    Attributes:
        mixtures: of the runs, ``n x d``.
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

    Attributes:
        domain: its name.
        shares: of that domain, ascending, ``(p,)``.
        mixtures: with those shares, ``p x d``.
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
    """The expected objective of ``p x d`` mixtures where the posterior looks, ``(p,)``."""
    values: np.ndarray = posterior.sign * (posterior.mean(mixtures) - posterior.penalty(mixtures)).numpy()
    return values


def slices(posterior: ObjectivePosterior, best: np.ndarray, residuals: Residuals) -> list[Slice]:
    """One slice for each domain through a mixture ``(d,)``, in the order of the space."""
    space, shares, found = posterior.space, np.linspace(0, 1, _N_SHARES), []
    through = np.stack([_through(best, [i], shares[:, None]) for i in range(space.n_domains)])
    means = level(posterior, through.reshape(-1, space.n_domains)).reshape(through.shape[:2])
    for i, (domain, mixtures, mean) in enumerate(zip(space.domains, through, means, strict=True)):
        run_shares = residuals.mixtures[:, i]
        found.append(
            Slice(
                domain=domain,
                shares=shares,
                mixtures=mixtures,
                mean=mean,
                best_share=float(shares[np.argmin(posterior.sign * mean)]),
                recommended=float(best[i]),
                limits=(float(space.simplex.lower[i]), float(space.simplex.upper[i])),
                run_shares=run_shares,
                run_values=np.interp(run_shares, shares, mean) + residuals.values,
                run_at_target=residuals.at_target,
            )
        )
    return found


def half_widths(posterior: ObjectivePosterior, best: np.ndarray, line: Slice) -> tuple[np.ndarray, np.ndarray]:
    """Half the widths of the 95% intervals along a slice, ``(p,)``: of the value, and of it less ``best``'s.

    Args:
        posterior: of the objective.
        best: the mixture that the slice goes through, ``(d,)``.
        line: the slice.
    """
    points = posterior.solve(line.mixtures)
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
    """The surfaces through a mixture ``(d,)``: all of three domains at once, of more domains three pairs.

    The pairs are those of the three domains that change the prediction much or have a large share.

    Args:
        posterior: of the objective.
        best: the mixture, ``(d,)``.
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
    mean = level(posterior, _through(best, places, shares))
    return Surface(
        domains=tuple(posterior.space.domains[i] for i in places),
        shares=shares,
        mean=mean,
        best=shares[np.argmin(posterior.sign * mean)],
        recommended=best[places],
    )


def _through(best: np.ndarray, places: list[int], shares: np.ndarray) -> np.ndarray:
    """Mixtures ``p x d`` with given shares ``p x k`` of some domains, and ``best``'s proportions among the others."""
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
