"""The data of a mixture of several phases in other orders: turned round, and evenly spread.

The mixture of all tokens is the same in all of them, so that only what comes when differs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ray_mixopt.core.details import Reordered
from ray_mixopt.core.phased import PhasedSimplex, phased
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.surrogate.posterior import ObjectivePosterior

_WITHIN = 1e-6  # by which a mixture may be off its limits


def reordered(posterior: ObjectivePosterior, best: np.ndarray) -> Iterator[Reordered]:
    """The data of a mixture ``(m,)`` turned round, and evenly spread; none where it is the same in all phases."""
    simplex = phased(posterior.space.simplex)
    even = np.tile(simplex.mean(best[None])[0], len(simplex.blocks))
    name, turned = _opposite(simplex, best, even)
    others = {} if same_mixture(turned, even) else {name: turned}
    for called, other in (others | {"the same mixture in all phases": even}).items():
        if simplex.contains(other[None], _WITHIN)[0] and not same_mixture(other, best):
            yield Reordered(
                name=called,
                predicted=posterior.prediction(other),
                change=posterior.prediction(other, best),
                probability=posterior.probability_better(best, other),
            )


def _opposite(simplex: PhasedSimplex, best: np.ndarray, even: np.ndarray) -> tuple[str, np.ndarray]:
    """The mixture that has late what ``best`` has early, as far as shares and limits allow."""
    reach = np.linspace(1, 0, 101)[:, None]
    turned = even - reach * (best - even)
    inside = (turned >= 0).all(1) & simplex.contains(np.maximum(turned, 0.0), _WITHIN)
    far = int(inside.argmax()) if inside.any() else len(reach) - 1
    allowed = f", as far as shares allow ({reach[far, 0]:.0%})" if far else ""
    return f"the opposite order of the same data{allowed}", turned[far]
