"""Would it have been right on runs like these? The largest scale hidden, and predicted from the smaller ones.

Hidden are all runs at one scale and at larger ones; predicted is what the hidden mixtures showed there at one length.
Whatever all mixtures have in common is the level; what a mixture is chosen by are the contrasts, its differences from
the mean of the hidden mixtures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from ray_mixopt.analysis.baselines import METHODS, Method, Mixture, OneScale, add, by_cell
from ray_mixopt.analysis.scores import (
    SURROGATE,
    Backtest,
    Case,
    Cell,
    Differences,
    Hindcast,
    Proxy,
    Scores,
    spread_of,
)
from ray_mixopt.core.forecast import NORMAL_95, contrast_deviations
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.settings import Settings
from ray_mixopt.core.simplex import distinct_mixtures
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.strategies.hindsight import up_to

LEAST_HIDDEN = 5  # mixtures: fewer have no rank correlation to speak of


def backtest(
    history: History,
    settings: Settings,
    *,
    hide: tuple[str, int | None] | None = None,
    given: Sequence[str] = (),
    mixtures: Sequence[int | None] = (8, 16, None),
    known: int = 0,
    nested: bool = True,
    draws: int = 5,
    seed: int = 0,
    methods: Mapping[str, Method] = METHODS,
    tick: Callable[[str], None] = lambda what: None,
) -> Backtest:
    """Hides the largest scale of some runs and predicts it from the smaller ones.

    Args:
        history: the runs.
        settings: what is predicted, and by which strategy's surrogate.
        hide: scale to hide, with all larger ones, and the length at which it is predicted (None: where most mixtures
            are known). By default the largest scale at which at least 5 mixtures are known.
        given: names of the smaller scales whose runs are given; all of them by default.
        mixtures: how many mixtures are given at the smaller scales, drawn at random; None for all.
        known: how many of the hidden mixtures are given at the hidden scale too.
        nested: whether the same mixtures are given at all smaller scales, or others at each as far as there are enough.
        draws: how often they are drawn.
        seed: of the draws and the surrogate.
        methods: what predicts, by name; by default the surrogate and what needs no model.
        tick: called before each fit with what it is about.

    Raises:
        ValueError: if there is nothing to hide, or nothing to predict it from.
    """
    goal = settings.goal
    if goal is not None and (goal.relative_to is not None or goal.guardrails or goal.closeness):
        raise ValueError(
            "A backtest compares with what was measured: leave relative_to, guardrails and closeness out of the "
            "objective (--relative-to, --guardrail, --closeness)."
        )
    history = _canonical(history)
    everything = Problem(space=history.space, settings=settings)
    cells = by_cell(history, everything)
    if not cells:
        raise ValueError(f"No run reports {', '.join(everything.weights)}: there are {', '.join(history.metrics)}.")
    hidden = _hidden(history.space, cells, hide)
    space = _smaller(history.space, hidden, given)
    truth = cells[hidden]
    if not 0 <= known <= len(truth) - LEAST_HIDDEN:
        raise ValueError(
            f"{known} of the {len(truth)} mixtures known at {_named(hidden)} cannot be given: at least {LEAST_HIDDEN} "
            "must remain to be predicted (--known)."
        )
    smaller = {
        scale: set().union(*(found for cell, found in cells.items() if cell[0] == scale))
        for scale in space.scale_names[:-1]
    }
    at_smaller = sorted(set().union(*smaller.values()))
    sizes = sorted({min(size or len(at_smaller), len(at_smaller)) for size in mixtures})
    problem = Problem(space=space, settings=replace(settings, seed=seed, budget=None, points_to_evaluate=()))
    cases = []
    for size in sizes:
        n_draws = 1 if size == len(at_smaller) and not known else draws
        found: dict[str, list[Scores]] = {}
        largest, differences = None, None
        for draw in range(n_draws):
            rng = np.random.default_rng([seed, draw])
            order = [at_smaller[i] for i in rng.permutation(len(at_smaller))]
            shown = {sorted(truth)[i] for i in rng.permutation(len(truth))[:known]}
            runs = _given(history, space, _drawn(smaller, order, size, nested), shown)
            asked = [mixture for mixture in sorted(truth) if mixture not in shown]
            true = np.array([truth[mixture] for mixture in asked])
            largest = largest or OneScale.of(runs, problem)
            for name, method in methods.items():
                tick(f"{size} mixtures, draw {draw + 1} of {n_draws}")
                scored = _scored(method, problem, runs, asked, true)
                if scored is None:
                    continue
                found.setdefault(name, []).append(scored[0])
                if name == SURROGATE:
                    differences = differences or _differences(true, scored[1])
        cases.append(
            Case(
                mixtures=size,
                draws=n_draws,
                largest=None if largest is None else largest.cell,
                scores={method: Scores.mean(scores) for method, scores in found.items()},
                differences=differences,
            )
        )
    return Backtest(
        objective=" + ".join(f"{weight:g} {metric}" for metric, weight in problem.weights.items()).removeprefix("1 "),
        hidden=hidden,
        n_hidden=len(truth),
        known=known,
        given=space.scale_names[:-1],
        spread=spread_of(np.array(list(truth.values()))),
        cases=tuple(cases),
        proxies=_proxies(space, cells, hidden, problem.sign),
    )


def _scored(
    method: Method, problem: Problem, given: History, asked: Sequence[Mixture], truth: np.ndarray
) -> tuple[Scores, Hindcast] | None:
    start = time.perf_counter()
    said = method(problem, given, np.array(asked))
    if said is None:
        return None
    return Scores.of(truth, said, problem.sign, time.perf_counter() - start), said


def _differences(truth: np.ndarray, said: Hindcast) -> Differences:
    assert said.covariance is not None
    return Differences(
        measured=tuple((truth - truth.mean()).tolist()),
        predicted=tuple((said.mean - said.mean.mean()).tolist()),
        half=tuple((NORMAL_95 * contrast_deviations(said.covariance)).tolist()),
    )


def _drawn(
    known: Mapping[str, set[Mixture]], order: Sequence[Mixture], size: int, nested: bool
) -> dict[str, set[Mixture]]:
    """The mixtures given at each scale: the first of an order, or where not nested, as far as they go, others each."""
    if nested:
        return {scale: set(order[:size]) for scale in known}
    drawn: dict[str, set[Mixture]] = {}
    for scale, there in known.items():
        taken = set().union(*drawn.values())
        own = [mixture for mixture in order if mixture in there]
        drawn[scale] = set(sorted(own, key=taken.__contains__)[:size])  # stable: fresh ones first
    return drawn


def _hidden(
    space: MixtureSpace, cells: Mapping[Cell, Mapping[Mixture, float]], hide: tuple[str, int | None] | None
) -> Cell:
    """The scale and length to hide.

    Raises:
        ValueError: if too little is known there, or no scale is smaller.
    """
    ordered = space.scales  # small to large
    if len(scales := {cell[0] for cell in cells}) == 1:
        raise ValueError(
            f"All runs that report the objective are at {scales.pop()}: a backtest hides a scale and predicts it from "
            "smaller ones, so that runs at a second scale are needed."
        )
    if hide is not None:
        name, steps = space.scale(hide[0]).name, hide[1]
        places = [cell for cell in cells if cell[0] == name and steps in (None, cell[1])]
    else:
        enough = {cell[0] for cell, found in cells.items() if len(found) >= LEAST_HIDDEN}
        name = next((scale.name for scale in reversed(ordered[1:]) if scale.name in enough), ordered[-1].name)
        places = [cell for cell in cells if cell[0] == name]
    chosen = max(places, key=lambda cell: (len(cells[cell]), cell[1]), default=None)
    if chosen is None:
        lengths = ", ".join(str(cell[1]) for cell in sorted(cells) if cell[0] == name)
        raise ValueError(f"No run of {name} reports the objective at that length: there are {lengths or 'none'}.")
    if len(cells[chosen]) < LEAST_HIDDEN:
        raise ValueError(
            f"Only {len(cells[chosen])} mixtures are known at {_named(chosen)}: at least {LEAST_HIDDEN} are needed, to "
            "see how well they are predicted."
        )
    below = [s.name for s in ordered[: [s.name for s in ordered].index(name)]]
    if not any(cell[0] in below for cell in cells):
        raise ValueError(
            f"No run is of a scale smaller than {name}, to predict it from: a backtest needs runs at two scales or "
            "more."
        )
    return chosen


def _smaller(space: MixtureSpace, hidden: Cell, given: Sequence[str]) -> MixtureSpace:
    """The space of the scales given and the hidden one, which is its target."""
    found = up_to(space, *hidden)
    *below, _ = found.scale_names
    if unknown := sorted(set(given) - set(below)):
        raise ValueError(
            f"{unknown[0]!r} is no scale smaller than {hidden[0]}, which is hidden: give some of {', '.join(below)}."
        )
    kept = {*(given or below), hidden[0]}
    return replace(found, scales=tuple(scale for scale in found.scales if scale.name in kept))


def _canonical(history: History) -> History:
    """The same runs, sorted, and with the same shares where their mixtures are the same: nothing hangs on the rows."""
    runs = sorted(history, key=lambda t: (t.mixture, t.scale, [(z, sorted(v.items())) for z, v in _sorted(t)]))
    mixtures, which = distinct_mixtures(np.array([trial.mixture for trial in runs]).reshape(len(runs), -1))
    result = History(history.space)
    for trial, place in zip(runs, which, strict=True):
        add(result, replace(trial, mixture=tuple(mixtures[place].tolist())), [step for step, _ in _sorted(trial)])
    return result


def _sorted(trial: Trial) -> list[tuple[int, dict[str, float]]]:
    return sorted(trial.observations.items(), key=lambda report: report[0])


def _given(history: History, space: MixtureSpace, chosen: Mapping[str, set[Mixture]], shown: set[Mixture]) -> History:
    """The runs of the mixtures chosen at the smaller scales, and of those shown at the hidden one."""
    wanted = {**chosen, space.target_scale: shown}
    result = History(space)
    for trial in history:
        if trial.mixture in wanted.get(trial.scale, ()):
            add(result, trial, list(trial.observations))
    return result


def _proxies(
    space: MixtureSpace, cells: Mapping[Cell, Mapping[Mixture, float]], hidden: Cell, sign: float
) -> tuple[Proxy, ...]:
    found = []
    truth, full = cells[hidden], space.cost(*hidden)
    spread = spread_of(np.array(list(truth.values())))
    for (scale, steps), values in cells.items():
        common = sorted(truth.keys() & values.keys())
        if scale not in space.scale_names[:-1] or len(common) < LEAST_HIDDEN:
            continue
        there, then = np.array([values[w] for w in common]), np.array([truth[w] for w in common])
        if np.ptp(there) == 0 or np.ptp(then) == 0:
            continue
        pick = int(np.argmin(sign * there))
        found.append(
            Proxy(
                scale=scale,
                steps=steps,
                cost=space.cost(scale, steps) / full,
                n=len(common),
                rank=float(spearmanr(there, then).statistic),
                regret=float(sign * then[pick] - (sign * then).min()) / spread,
            )
        )
    return tuple(sorted(found, key=lambda proxy: (proxy.cost, proxy.scale)))


def _named(cell: Cell) -> str:
    return f"{cell[0]} x {cell[1]:,}"
