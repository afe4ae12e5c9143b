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

from ray_mixopt.analysis.scores import (
    SURROGATE,
    Backtest,
    Case,
    Cell,
    Differences,
    Proxy,
    Scores,
    spread_of,
)
from ray_mixopt.core.history import History, Status, Trial
from ray_mixopt.core.problem import Problem, Settings
from ray_mixopt.core.recommendation import NORMAL_95, contrast_deviations
from ray_mixopt.core.simplex import distinct_mixtures
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.optimizer import MixtureOptimizer

LEAST_HIDDEN = 5  # mixtures: fewer have no rank correlation to speak of

Mixture = tuple[float, ...]


def backtest(
    history: History,
    settings: Settings,
    *,
    hide: tuple[str, int | None] | None = None,
    given: Sequence[str] = (),
    mixtures: Sequence[int | None] = (8, 16, None),
    known: int = 0,
    draws: int = 5,
    seed: int = 0,
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
        draws: how often they are drawn.
        seed: of the draws and the surrogate.
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
    cells = _cells(history, Problem(space=history.space, settings=settings))
    hidden = _hidden(history.space, cells, hide)
    space = _smaller(history.space, hidden, given)
    truth = cells[hidden]
    if not 0 <= known <= len(truth) - LEAST_HIDDEN:
        raise ValueError(
            f"{known} of the {len(truth)} mixtures known at {_named(hidden)} cannot be given: at least {LEAST_HIDDEN} "
            "must remain to be predicted (--known)."
        )
    smaller = [found for cell, found in cells.items() if cell[0] in space.scale_names[:-1]]
    at_smaller = sorted(set().union(*smaller))
    sizes = sorted({min(size or len(at_smaller), len(at_smaller)) for size in mixtures})
    problem = Problem(space=space, settings=replace(settings, seed=seed, budget=None, points_to_evaluate=()))
    cases = []
    for size in sizes:
        n_draws = 1 if size == len(at_smaller) and not known else draws
        found: dict[str, list[Scores]] = {}
        first: Differences | None = None
        for draw in range(n_draws):
            tick(f"{size} mixtures, draw {draw + 1} of {n_draws}")
            rng = np.random.default_rng([seed, draw])
            chosen = {at_smaller[i] for i in rng.permutation(len(at_smaller))[:size]}
            shown = {sorted(truth)[i] for i in rng.permutation(len(truth))[:known]}
            runs = _given(history, space, chosen, shown)
            asked = [mixture for mixture in sorted(truth) if mixture not in shown]
            of_draw, differences = _predicted(problem, runs, cells, chosen, asked, hidden)
            first = first or differences
            for method, scores in of_draw.items():
                found.setdefault(method, []).append(scores)
        assert first is not None
        means = {method: Scores.mean(scores) for method, scores in found.items()}
        cases.append(Case(mixtures=size, draws=n_draws, scores=means, differences=first))
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


def _predicted(
    problem: Problem,
    given: History,
    cells: Mapping[Cell, Mapping[Mixture, float]],
    chosen: set[Mixture],
    asked: Sequence[Mixture],
    hidden: Cell,
) -> tuple[dict[str, Scores], Differences]:
    """The scores of each method for the mixtures ``asked``, given some runs, and what the surrogate said of each."""
    truth, shares = np.array([cells[hidden][mixture] for mixture in asked]), np.array(asked)
    largest = _last(cells, given.space.scale_names[:-1], chosen)
    scores, differences = _by_surrogate(problem, given, truth, shares)
    result = {SURROGATE: scores}
    if largest is None:
        return result, differences
    only = {mixture: value for mixture, value in cells[largest].items() if mixture in chosen}
    name = _named(largest)
    if len(only) > 1:
        result[f"surrogate of {name} alone"] = _by_surrogate(problem, _alone(given, largest), truth, shares)[0]
    same = np.array([only.get(mixture, np.nan) for mixture in asked])
    result[f"same differences as at {name}"] = Scores.of(truth, same, None, problem.sign, 0.0)
    start = time.perf_counter()
    linear = _linear(np.array(list(only)), np.array(list(only.values())), shares)
    seconds = time.perf_counter() - start
    result[f"linear regression of {name}"] = Scores.of(truth, linear, None, problem.sign, seconds)
    return result, differences


def _by_surrogate(problem: Problem, given: History, truth: np.ndarray, asked: np.ndarray) -> tuple[Scores, Differences]:
    start = time.perf_counter()
    forecast = MixtureOptimizer.of_history(given, problem.settings).predict(asked)
    scores = Scores.of(truth, forecast.mean, forecast.covariance, problem.sign, time.perf_counter() - start)
    differences = Differences(
        measured=tuple((truth - truth.mean()).tolist()),
        predicted=tuple((forecast.mean - forecast.mean.mean()).tolist()),
        half=tuple((NORMAL_95 * contrast_deviations(forecast.covariance)).tolist()),
    )
    return scores, differences


def _linear(mixtures: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Values ``(k,)`` at ``k x d`` mixtures, linear in the shares; of all fits the smallest where there are several."""
    slopes, *_ = np.linalg.lstsq(mixtures - 1 / mixtures.shape[1], values - values.mean(), rcond=None)
    return (asked - 1 / mixtures.shape[1]) @ slopes + values.mean()


def _cells(history: History, problem: Problem) -> dict[Cell, dict[Mixture, float]]:
    """The objective at each scale and length by mixture, the mean over repeats."""
    seen: dict[Cell, dict[Mixture, list[float]]] = {}
    for trial in history:
        for step, metrics in trial.observations.items():
            value = problem.value(metrics)
            if value is not None:
                seen.setdefault((trial.scale, step), {}).setdefault(trial.mixture, []).append(value)
    if not seen:
        raise ValueError(f"No run reports {', '.join(problem.weights)}: there are {', '.join(history.metrics)}.")
    return {cell: {mixture: float(np.mean(y)) for mixture, y in found.items()} for cell, found in seen.items()}


def _hidden(
    space: MixtureSpace, cells: Mapping[Cell, Mapping[Mixture, float]], hide: tuple[str, int | None] | None
) -> Cell:
    """The scale and length to hide.

    Raises:
        ValueError: if too little is known there, or no scale is smaller.
    """
    ordered = space.scales  # small to large
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
    ordered = space.scales
    below = ordered[: [scale.name for scale in ordered].index(hidden[0])]
    if unknown := sorted(set(given) - {scale.name for scale in below}):
        raise ValueError(
            f"{unknown[0]!r} is no scale smaller than {hidden[0]}, which is hidden: give some of "
            f"{', '.join(scale.name for scale in below)}."
        )
    kept = [scale for scale in below if not given or scale.name in given]
    return replace(space, scales=(*kept, space.scale(hidden[0])), target=hidden, earlier_scales=())


def _canonical(history: History) -> History:
    """The same runs, sorted, and with the same shares where their mixtures are the same: nothing hangs on the rows."""
    runs = sorted(history, key=lambda t: (t.mixture, t.scale, [(z, sorted(v.items())) for z, v in _sorted(t)]))
    mixtures, which = distinct_mixtures(np.array([trial.mixture for trial in runs]).reshape(len(runs), -1))
    result = History(history.space)
    for trial, place in zip(runs, which, strict=True):
        _add(result, replace(trial, mixture=tuple(mixtures[place].tolist())), [step for step, _ in _sorted(trial)])
    return result


def _sorted(trial: Trial) -> list[tuple[int, dict[str, float]]]:
    return sorted(trial.observations.items(), key=lambda report: report[0])


def _given(history: History, space: MixtureSpace, chosen: set[Mixture], shown: set[Mixture]) -> History:
    """The runs of the mixtures chosen at the smaller scales, and of those shown at the hidden one."""
    wanted = {name: shown if name == space.target_scale else chosen for name in space.scale_names}
    result = History(space)
    for trial in history:
        if trial.mixture in wanted.get(trial.scale, ()):
            _add(result, trial, list(trial.observations))
    return result


def _alone(history: History, cell: Cell) -> History:
    """What the runs showed at one scale and length."""
    result = History(history.space)
    for trial in history:
        if trial.scale == cell[0] and cell[1] in trial.observations:
            _add(result, trial, [cell[1]])
    return result


def _add(history: History, trial: Trial, steps: Sequence[int]) -> None:
    seen = {step: trial.observations[step] for step in steps}
    status: Status = "diverged" if trial.status == "diverged" else "done"
    history.add(replace(trial, observations=seen, status=status, evaluated=True))
    history.arrivals += [(trial.trial_id, step) for step in steps]


def _last(cells: Mapping[Cell, Mapping[Mixture, float]], scales: Sequence[str], chosen: set[Mixture]) -> Cell | None:
    """The largest scale at which one of the mixtures chosen is known, and its length at which most of them are.

    Of equals the longest; None where none is known anywhere.
    """
    for scale in reversed(scales):
        places = [cell for cell, found in cells.items() if cell[0] == scale and chosen & found.keys()]
        if places:
            return max(places, key=lambda cell: (len(chosen & cells[cell].keys()), cell[1]))
    return None


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
