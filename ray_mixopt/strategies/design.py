"""The initial design, derived from the space.

Nothing is known before it, so it spends a fixed share of one target run on two questions: what do mixtures do at the
cheapest fidelity, and do they do the same further up? The second matters because differences between mixtures at small
scales can be noise, or point the wrong way.
"""

from __future__ import annotations

import math

import numpy as np

from ray_mixopt.space import MixtureSpace
from ray_mixopt.strategies.base import Proposal

_BRIDGE_SHARE = 0.15  # of a target run's cost, for the runs between the cheapest fidelity and the target
_CHEAP_SHARE = 0.05  # of a target run's cost, for the runs at the cheapest fidelity
_CORNER_SHARE = 0.95  # of the tokens, from the domain a near-corner is about


def initial_design(space: MixtureSpace, rng: np.random.Generator) -> list[Proposal]:
    """The first runs, cheapest first.

    At the cheapest fidelity: the uniform mixture and up to ``2 d + 2`` Dirichlet(1) draws. At the bridge, the fidelity
    furthest from it in both scale and steps that the design can pay for: the uniform mixture and the near-corners, in
    which one domain has 95% of the tokens (within the bounds). Where even the cheapest fidelity cannot hold all
    near-corners, a random subset is taken. No run is there twice.
    """
    d = space.n_domains
    cheap = min(_cells(space), key=lambda cell: space.cost(*cell))
    n_cheap = min(2 * d + 2, max(4, math.floor(_CHEAP_SHARE * space.target_cost / space.cost(*cheap))))
    mixtures = [space.uniform(), *space.sample(n_cheap, rng)]
    design = [Proposal(mixture=w, scale=cheap[0], steps=cheap[1]) for w in mixtures]
    bridge = _bridge(space, cheap, (d + 1))
    n_corners = min(d, max(2, math.floor(_BRIDGE_SHARE * space.target_cost / space.cost(*bridge)) - 1))
    chosen = np.sort(rng.permutation(d)[:n_corners])
    rest = space.uniform()
    corners = [
        space.simplex.project(_CORNER_SHARE * space.corners()[i] + (1 - _CORNER_SHARE) * rest)[0] for i in chosen
    ]
    design += [Proposal(mixture=w, scale=bridge[0], steps=bridge[1]) for w in [space.uniform(), *corners]]
    # The bridge may be the cheapest fidelity, and tight bounds leave little room between corners.
    return list({(*run.mixture.tolist(), run.scale, run.steps): run for run in reversed(design)}.values())[::-1]


def _cells(space: MixtureSpace) -> list[tuple[str, int]]:
    return [(scale, steps) for scale in space.scale_names for steps in space.steps]


def _bridge(space: MixtureSpace, cheap: tuple[str, int], n_runs: int) -> tuple[str, int]:
    """The affordable fidelity that goes furthest towards the target on both axes, on a log scale."""

    def progress(cell: tuple[str, int]) -> tuple[float, float]:
        price = [space.scale(name).cost_per_step for name in (cheap[0], cell[0], space.target_scale)]
        steps = [cheap[1], cell[1], space.target_steps]
        along = [
            math.log(here / start) / math.log(end / start) if end > start else 1.0
            for start, here, end in (price, steps)
        ]
        return min(along), sum(along)

    limit = _BRIDGE_SHARE * space.target_cost / n_runs
    affordable = [cell for cell in _cells(space) if space.cost(*cell) <= limit]
    return max(affordable, key=progress, default=cheap)
