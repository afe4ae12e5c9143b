"""The initial design, derived from the space.

Nothing is known before it, so it spends a fixed share of one target run on two questions: what do mixtures do at the
smallest scale, and do the same mixtures do the same at a larger one? Only such pairs show what transfers. The first
runs of it are a design as well: every third one is at the larger scale, so that six runs tell something of both.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from ray_mixopt.core.history import History
from ray_mixopt.core.phased import phased
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Proposal

MAX_TRIES = 3  # of a run that is lost again and again
_LOW_SHARE = 0.05  # of a target run's cost, for the runs at the smallest scale
_HIGH_SHARE = 0.15  # of a target run's cost, for the runs at the larger one
_MOST_PAIRS = 8  # of opposite contrasts between phases
_CONTRAST = 0.6  # of the way from the mean to a later phase of some domains only
_FEWEST = 3  # mixtures at the larger scale, for their differences to tell something
_TILTED_SHARE = 0.8  # of the tokens, from the domain that a mixture is about
_N_RANDOM = 512  # mixtures, to choose distant ones from
_FAR = 1 / 3  # of the way to the target on a log scale, in scale and in steps: how far the larger scale should reach
# Of the budget, for the near-corners further up where the design does not reach far; at most one target run in all.
_AGAIN_SHARE = 0.3
_CORNER_SHARE = 0.95  # of the tokens, from the domain a near-corner is about


def initial_design(
    space: MixtureSpace,
    rng: np.random.Generator,
    baselines: Sequence[np.ndarray] = (),
    n_runs: int | None = None,
    budget: float | None = None,
) -> list[Proposal]:
    """The first runs, in the order in which they are worth most.

    At the smallest scale, trained for as long as the share of money allows: the baselines, mixtures tilted towards one
    domain each, and mixtures far from all of these, ``2 d + 2`` in all where so many can be paid for. At the largest
    scale that can be paid for, trained for no shorter: the baselines and the tilted ones again. No run is there twice.

    Where mixtures are of several phases, all these are tied, and pairs of opposite contrasts between phases follow at
    the smallest scale: what the order of the data does shows in the difference of two runs with the same data.

    Where it is known that there will be fewer runs than that, each of them trains the longer. Half of up to six, and a
    third of more, are those at the larger scale, and all mixtures there are at the smallest, too.

    Args:
        space: the search space.
        rng: source of randomness.
        baselines: mixtures that answers are compared with, ``(d,)`` each; equal shares if there are none.
        n_runs: how many runs there will be; None where that is not known, and the budget pays for as many as it does.
        budget: what all of these may cost; None for no limit.
    """
    d, first = space.n_domains, list(baselines) or [space.uniform()]
    low, _ = min(space.fidelities, key=lambda cell: space.cost(*cell))
    plan = _Plan.of(space, len(first), n_runs, budget)
    steps = plan.length(space, low)
    tilted = list(_towards_corners(space, _TILTED_SHARE)[rng.permutation(d)[: plan.tilted]])
    some = space.sample(_N_RANDOM, rng)
    if space.phase_names:
        some = phased(space.simplex).tied(phased(space.simplex).mean(some))
    distant = _distant(some, [*first, *tilted], max(0, plan.small - len(first) - len(tilted)))
    mixed = [mixture for pair in zip_longest(tilted, distant) for mixture in pair if mixture is not None]
    further = [(m, z) for m, z in space.fidelities if m != low and z >= steps]
    cheapest = min((space.cost(*cell) for cell in further), default=math.inf)
    again = [*first, *tilted][: min(plan.large, math.floor(plan.plenty / cheapest))]
    if len(again) < min(_FEWEST, plan.large):
        again = []
    high = max(
        (cell for cell in further if len(again) * space.cost(*cell) <= plan.plenty),
        key=lambda cell: (space.scale(cell[0]).cost_per_step, cell[1]),
        default=(low, steps),
    )
    once = [*first, *mixed]
    if plan.few:  # the pairs first, since there is no room for all
        once = list({tuple(w.tolist()): w for w in [*first, *again, *mixed]}.values())[: plan.small]
    if space.phase_names and not plan.few:
        once += _contrasting(space, rng, first[0])
    at_low = [Proposal(mixture=w, scale=low, steps=steps) for w in once]
    at_high = [Proposal(mixture=w, scale=high[0], steps=high[1]) for w in again]
    design = []
    while at_low or at_high:
        design += [*at_low[:2], *at_high[:1]]
        at_low, at_high = at_low[2:], at_high[1:]
    # Tight bounds leave little room between mixtures.
    return list({(*run.mixture.tolist(), run.scale, run.steps): run for run in reversed(design)}.values())[::-1]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How many runs the design has, and what they may cost.

    Attributes:
        small: runs at the smallest scale.
        large: runs at the larger scale.
        tilted: mixtures towards one domain.
        money: for the runs at the smallest scale.
        plenty: for those at the larger one.
        few: whether there will be fewer runs than a design has.
    """

    small: int
    large: int
    tilted: int
    money: float
    plenty: float
    few: bool

    @classmethod
    def of(cls, space: MixtureSpace, n_first: int, n_runs: int | None, budget: float | None) -> _Plan:
        """As ``initial_design`` says, with ``n_first`` baselines."""
        low, shortest = min(space.fidelities, key=lambda cell: space.cost(*cell))
        cheap = space.cost(low, shortest)
        dear = min((space.cost(m, z) for m, z in space.fidelities if m != low and z >= shortest), default=cheap)
        money, plenty = _LOW_SHARE * space.target_cost, _HIGH_SHARE * space.target_cost
        small, large = min(2 * space.n_domains + 2, max(4, math.floor(money / cheap))), space.n_domains + 1
        # Every third run is at the larger scale.
        affordable = sys.maxsize if budget is None else max(1, math.floor(3 * budget / (2 * cheap + dear)))
        total = min(affordable, n_runs or sys.maxsize)
        if total >= small + large:
            limit = 1.0 if budget is None else min(1.0, budget / (money + plenty))
            money, plenty = limit * money, limit * plenty
            return cls(small=small, large=large, tilted=max(1, small // 2), money=money, plenty=plenty, few=False)
        usual, large = small, max(min(_FEWEST, total // 2), total // 3)
        small = total - large
        if budget is not None:  # there are no other runs to pay for, and none takes what was to pay for another
            share = budget / (small * cheap + large * dear)
            money, plenty = share * small * cheap, share * large * dear
        fewest = 1 if total == n_runs else 2  # one pair is better than none where that is what there will be
        if large < fewest or min(_FEWEST, large) * dear > plenty:  # all at one scale
            money, alone = (money, usual) if budget is None else (budget, max(1, math.floor(budget / cheap)))
            small, large = min(usual, alone, n_runs or usual), 0
        tilted = max(1, small // 2, large - n_first)
        return cls(small=small, large=large, tilted=tilted, money=money, plenty=plenty, few=True)

    def length(self, space: MixtureSpace, low: str) -> int:
        """Steps of the runs at the smallest scale: as many as the money allows; of few runs so that pairs are left."""
        rungs = space.rungs(low)
        lengths = [z for z in rungs if self.small * space.cost(low, z) <= self.money] or [rungs[0]]
        if self.few:
            cells = [(z, space.cost(m, z)) for m, z in space.fidelities if m != low]
            enough = min(_FEWEST, self.large)
            paired = [z for z in lengths if any(z_ >= z and enough * cost <= self.plenty for z_, cost in cells)]
            lengths = paired or lengths
        return max(lengths)


def _distant(mixtures: np.ndarray, others: Sequence[np.ndarray], n: int) -> list[np.ndarray]:
    """``n`` of ``c x d`` mixtures, each the one furthest from ``others`` and those chosen before (Hellinger)."""
    roots = np.sqrt(mixtures)
    gap = np.min([np.square(roots - np.sqrt(other)).sum(1) for other in others], axis=0)
    chosen = []
    for _ in range(n):
        chosen.append(int(gap.argmax()))
        gap = np.minimum(gap, np.square(roots - roots[chosen[-1]]).sum(1))
    return [mixtures[i] for i in chosen]


def _contrasting(space: MixtureSpace, rng: np.random.Generator, middle: np.ndarray) -> list[np.ndarray]:
    """Pairs of mixtures of several phases with one mean, of which one has late what the other has early.

    Each is about one later phase, and about half of the domains drawn at random.

    Args:
        space: the search space.
        rng: source of randomness.
        middle: a mixture whose mean they have, as far as the limits allow, ``(n_shares,)``.
    """
    simplex, d = phased(space.simplex), space.n_domains
    mean, fractions, found = simplex.mean(middle[None])[0], simplex.fractions, []
    for i in range(min(math.ceil(d / 2), _MOST_PAIRS)):
        late = 1 + i % (len(fractions) - 1)
        chosen = np.zeros(d, dtype=bool)
        chosen[rng.permutation(d)[: max(1, d // 2)]] = True
        for some in (chosen, ~chosen):
            tilt = _CONTRAST * (np.where(some, mean, 0.0) / max(mean[some].sum(), 1e-12) - mean)  # sums to 0
            # What the late phase has more of the others have less of, which cannot be more than they have.
            room = np.where(tilt > 0, mean / np.maximum(fractions[late] / (1 - fractions[late]) * tilt, 1e-300), np.inf)
            tilt = min(1.0, float(room.min())) * tilt
            each = np.tile(mean - fractions[late] / (1 - fractions[late]) * tilt, (len(fractions), 1))
            each[late] = mean + tilt
            found.append(simplex.project(each.reshape(1, -1))[0])
    return found


def corners_again(space: MixtureSpace, budget: float) -> list[Proposal]:
    """The near-corners further up, if the design does not reach a third of the way in scale and in steps.

    Larger models and longer runs may turn the order of mixtures around, as HellaSwag does: what small ones have shown
    to be bad would not be looked at again. Where the budget is not enough for all near-corners, there are none.
    """
    start = min(space.fidelities, key=lambda cell: space.cost(*cell))
    design = initial_design(space, np.random.default_rng(0))
    reached = [_progress(space, start, cell) for cell in {(run.scale, run.steps) for run in design}]
    if max(map(min, reached)) >= _FAR:
        return []
    limit = min(_AGAIN_SHARE * budget, space.target_cost) / space.n_domains
    far = [c for c in space.fidelities if space.cost(*c) <= limit and min(_progress(space, start, c)) >= _FAR]
    if not far:
        return []
    scale, steps = max(far, key=lambda cell: _ranked(_progress(space, start, cell)))
    return [Proposal(mixture=w, scale=scale, steps=steps) for w in _towards_corners(space, _CORNER_SHARE)]


def _towards_corners(space: MixtureSpace, share: float) -> np.ndarray:
    """Mixtures in which one domain has that share of the tokens and more, within the bounds, ``d x d``."""
    return space.simplex.project(share * space.corners() + (1 - share) * space.uniform())


def _progress(space: MixtureSpace, start: tuple[str, int], cell: tuple[str, int]) -> tuple[float, float]:
    """How far a fidelity is from a first one to the target, 0 to 1, in scale and in steps, on a log scale."""
    price = [space.scale(name).cost_per_step for name in (start[0], cell[0], space.target_scale)]
    steps = [start[1], cell[1], space.target_steps]
    along = [
        math.log(here / begin) / math.log(end / begin) if end > begin else 1.0 for begin, here, end in (price, steps)
    ]
    return along[0], along[1]


def _ranked(progress: tuple[float, float]) -> tuple[float, float]:
    return min(progress), sum(progress)


def n_reported(history: History, mixture: np.ndarray, scale: str, steps: int = 1) -> int:
    """Number of runs of a mixture ``(d,)`` at a scale that have reported, at some step or a later one."""
    runs = [np.array(run.mixture) for run in history if run.scale == scale and run.reached >= steps]
    return sum(bool(same_mixture(run, mixture)) for run in runs)


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
