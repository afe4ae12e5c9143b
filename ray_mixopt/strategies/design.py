"""The initial design, derived from the space.

Nothing is known before it, so it spends a fixed share of one target run on two questions: what do mixtures do at the
cheapest fidelity, and do they do the same further up? The second matters because differences between mixtures at small
scales can be noise, or point the wrong way.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from ray_mixopt.core.history import History
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Proposal

MAX_TRIES = 3  # of a run that is lost again and again
_BRIDGE_SHARE = 0.15  # of a target run's cost, for the runs between the cheapest fidelity and the target
_CHEAP_SHARE = 0.05  # of a target run's cost, for the runs at the cheapest fidelity
_FAR = 1 / 3  # of the way to the target on a log scale, in scale and in steps: how far a bridge should reach
# Of the budget, for the near-corners further up where the bridge does not reach far; at most one target run in all.
_AGAIN_SHARE = 0.3
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
    corners = _near_corners(space)[chosen]
    design += [Proposal(mixture=w, scale=bridge[0], steps=bridge[1]) for w in [space.uniform(), *corners]]
    # The bridge may be the cheapest fidelity, and tight bounds leave little room between corners.
    return list({(*run.mixture.tolist(), run.scale, run.steps): run for run in reversed(design)}.values())[::-1]


def corners_again(space: MixtureSpace, budget: float) -> list[Proposal]:
    """The near-corners further up, if the bridge of the design does not reach a third of the way in scale and in steps.

    Larger models and longer runs may turn the order of mixtures around, as HellaSwag does: what a short bridge has
    shown to be bad would not be looked at again. Where the budget is not enough for all near-corners, there are none.
    """
    cheap = min(_cells(space), key=lambda cell: space.cost(*cell))
    if min(_progress(space, cheap, _bridge(space, cheap, space.n_domains + 1))) >= _FAR:
        return []
    limit = min(_AGAIN_SHARE * budget, space.target_cost) / space.n_domains
    far = [c for c in _cells(space) if space.cost(*c) <= limit and min(_progress(space, cheap, c)) >= _FAR]
    if not far:
        return []
    scale, steps = max(far, key=lambda cell: _ranked(_progress(space, cheap, cell)))
    return [Proposal(mixture=w, scale=scale, steps=steps) for w in _near_corners(space)]


def _near_corners(space: MixtureSpace) -> np.ndarray:
    """Mixtures in which one domain has nearly all tokens, within the bounds, ``d x d``."""
    return space.simplex.project(_CORNER_SHARE * space.corners() + (1 - _CORNER_SHARE) * space.uniform())


def _cells(space: MixtureSpace) -> list[tuple[str, int]]:
    return [(scale, steps) for scale in space.scale_names for steps in space.steps]


def _bridge(space: MixtureSpace, cheap: tuple[str, int], n_runs: int) -> tuple[str, int]:
    """The affordable fidelity that goes furthest towards the target on both axes, on a log scale."""
    limit = _BRIDGE_SHARE * space.target_cost / n_runs
    affordable = [cell for cell in _cells(space) if space.cost(*cell) <= limit]
    return max(affordable, key=lambda cell: _ranked(_progress(space, cheap, cell)), default=cheap)


def _progress(space: MixtureSpace, cheap: tuple[str, int], cell: tuple[str, int]) -> tuple[float, float]:
    """How far a fidelity is from the cheapest to the target, 0 to 1, in scale and in steps, on a log scale."""
    price = [space.scale(name).cost_per_step for name in (cheap[0], cell[0], space.target_scale)]
    steps = [cheap[1], cell[1], space.target_steps]
    along = [
        math.log(here / start) / math.log(end / start) if end > start else 1.0 for start, here, end in (price, steps)
    ]
    return along[0], along[1]


def _ranked(progress: tuple[float, float]) -> tuple[float, float]:
    return min(progress), sum(progress)


def lost_run(problem: Problem, history: History) -> Proposal | None:
    """A run that nothing came of through no fault of its own, to be made again; None if there is none.

    A run that was tried ``MAX_TRIES`` times is given up.
    """
    if not any(run.status == "lost" for run in history):
        return None
    tries = _tries(history)
    answered = {(run.mixture, run.scale) for run in history if run.status != "lost" or run.observations}
    for run in history:
        key = run.mixture, run.scale
        if run.status != "lost" or run.evaluated or key in answered or tries[key] >= MAX_TRIES:
            continue
        again = Proposal(
            mixture=problem.space.mixture(run.mixture),
            scale=run.scale,
            steps=run.steps,
            acquisition=run.acquisition,
            counts=False,
        )
        if problem.affords(again, history):
            return again
    return None


def first_run(problem: Problem, history: History) -> Proposal | None:
    """The first of the ``points_to_evaluate`` that can be made and was not asked for yet; None if there is none."""
    if not problem.first_runs:
        return None
    tries = _tries(history)
    asked: dict[tuple[tuple[float, ...], str], list[int]] = {}
    for trial in history:
        key = trial.mixture, trial.scale
        in_vain = trial.status == "lost" and not trial.observations and tries[key] < MAX_TRIES
        if not trial.evaluated and not in_vain:
            asked.setdefault(key, []).append(trial.steps)
    for run in problem.first_runs:
        of_run = asked.get((tuple(run.mixture.tolist()), run.scale), [])
        done = min((steps for steps in of_run if steps >= run.steps), default=None)
        if done is not None:
            of_run.remove(done)  # a point may be there twice
        elif problem.affords(run, history) and not problem.obstacle(run):  # limits may have been revised
            return run
    return None


def _tries(history: History) -> Counter[tuple[tuple[float, ...], str]]:
    return Counter((run.mixture, run.scale) for run in history if not run.evaluated)
