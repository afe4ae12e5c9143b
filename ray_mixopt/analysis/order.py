"""What the order of the same data does at the target: domains moved between phases.

Notation: ``p`` points, ``d`` domains, ``m`` shares of a mixture of several phases. All mixtures here have the mean of
the one that they are compared with, so that only what comes when differs. Values are in the objective's own unit and
direction, without the pull to a prior mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ray_mixopt.analysis.landscape import level, through
from ray_mixopt.core.phased import PhasedSimplex, phased
from ray_mixopt.surrogate.posterior import ObjectivePosterior

_N_SHARES = 41  # points of a move
_LEAST_REACH = 0.01  # of the shares of a move that is worth a look
_WITHIN = 1e-6  # by which a mixture may be off its limits


@dataclass(frozen=True, kw_only=True)
class Move:
    """The prediction along the share of a domain in one later phase, where the others have the more of it.

    Attributes:
        phase: its name.
        domain: likewise.
        shares: of the domain in that phase, ascending, ``(p,)``.
        mixtures: with those shares, ``p x m``.
        change: expected objective less that of the recommended mixture, ``(p,)``.
        recommended: the recommended share.
        best_share: the share at which the expected objective is best, of those within the limits.
        limits: least and largest share whose mixture is within the limits.
    """

    phase: str
    domain: str
    shares: np.ndarray
    mixtures: np.ndarray
    change: np.ndarray
    recommended: float
    best_share: float
    limits: tuple[float, float]

    @property
    def effect(self) -> float:
        """What lies between the best and the worst share, in the objective's unit."""
        return float(np.ptp(self.change))


def moves(posterior: ObjectivePosterior, best: np.ndarray) -> list[Move]:
    """The moves of each domain into and out of each later phase of a mixture ``(m,)``; the largest effect first."""
    space, simplex = posterior.space, phased(posterior.space.simplex)
    drawn = []
    for phase in range(1, len(space.phase_names)):
        for i in range(space.n_domains):
            shares, mixtures = _moved(simplex, best, phase, i)
            within = simplex.contains(mixtures, _WITHIN)
            if within.any() and np.ptp(shares[within]) > _LEAST_REACH:
                drawn.append((phase, i, shares, mixtures, within))
    if not drawn:
        return []
    levels = level(posterior, np.concatenate([best[None], *(mixtures for *_, mixtures, _ in drawn)]))
    values = np.split(levels[1:] - levels[0], np.cumsum([len(shares) for _, _, shares, *_ in drawn])[:-1])
    found = [
        Move(
            phase=space.phase_names[phase],
            domain=space.domains[i],
            shares=shares,
            mixtures=mixtures,
            change=change,
            recommended=float(simplex.apart(best[None])[0, phase, i]),
            best_share=float(shares[np.where(within, posterior.sign * change, np.inf).argmin()]),
            limits=(float(shares[within].min()), float(shares[within].max())),
        )
        for (phase, i, shares, mixtures, within), change in zip(drawn, values, strict=True)
    ]
    return sorted(found, key=lambda move: -move.effect)


def _moved(simplex: PhasedSimplex, best: np.ndarray, phase: int, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of a domain in a phase, ``(p,)``, and mixtures with them and the mean of ``best``, ``p x m``."""
    own, f = simplex.apart(best[None])[0], simplex.fractions
    shares = np.unique(np.append(np.linspace(0, 1, _N_SHARES), own[phase, i]))
    here = through(own[phase], [i], shares[:, None])  # p x d
    others = own[None] - (f[phase] / (1 - f[phase])) * (here - own[phase])[:, None]  # p x phases x d
    others[:, phase] = here
    possible = (others >= -_WITHIN).all((1, 2))
    return shares[possible], np.maximum(others[possible], 0.0).reshape(-1, len(best))
