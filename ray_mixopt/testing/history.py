"""What holds of every history, whatever happened to its runs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np

from ray_mixopt.core.branches import cost_of
from ray_mixopt.core.history import History, Trial

_ROUNDING = 1e-9


def check_history(history: History, *, budget: float | None = None) -> None:
    """Raises AssertionError, with a line for each of the ``violations``, if there are any."""
    found = violations(history, budget=budget)
    assert not found, "The history is inconsistent:\n" + "\n".join(found)


def violations(history: History, *, budget: float | None = None) -> list[str]:
    """A sentence for everything that cannot be true of a history.

    Args:
        history: of a search that runs, was interrupted or is over.
        budget: what the search may commit, if it was limited.
    """
    priced = all(trial.scale in history.space.scale_names for trial in history if not trial.evaluated)
    return [*_arrivals(history), *(_money(history, budget) if priced else ()), *_exchange(history)] + [
        f"Trial {name!r} {sentence}." for name, trial in history.trials.items() for sentence in _trial(history, trial)
    ]


def _trial(history: History, trial: Trial) -> Iterator[str]:
    space = history.space
    if history.trials.get(trial.trial_id) is not trial:
        yield f"is filed under another name than its own, {trial.trial_id!r}"
    if len(trial.mixture) != space.n_shares or not all(0 <= share <= 1 for share in trial.mixture):
        yield f"has no mixture of {space.n_domains} domains: {trial.mixture}"
    elif np.abs(space.mixture(trial.mixture) - trial.mixture).max() > _ROUNDING:
        yield f"has shares that sum to {math.fsum(trial.mixture)!r}"
    if trial.scale not in {scale.name for scale in (*space.scales, *space.earlier_scales)}:
        yield f"has the unknown scale {trial.scale!r}"
    elif trial.scale not in space.scale_names and not trial.evaluated:
        yield f"was asked for at {trial.scale!r}, a scale of earlier runs that is not trained any more"
    if trial.steps <= 0:
        yield f"was asked to reach step {trial.steps}"
    for step, metrics in trial.observations.items():
        if step <= 0:
            yield f"has an observation at step {step}"
        if not all(math.isfinite(value) for value in metrics.values()):
            yield f"has a metric at step {step} that is not finite: {metrics}"
    if trial.status in ("paused", "diverged") and not trial.observations:
        yield f"is {trial.status} without having reported"
    if trial.evaluated and trial.status in ("running", "paused"):
        yield f"was made elsewhere, but is {trial.status} here"


def _arrivals(history: History) -> Iterator[str]:
    for (name, step), times in Counter(history.arrivals).items():
        if times > 1:
            yield f"Step {step} of trial {name!r} arrived {times} times."
    seen = {(trial.trial_id, step) for trial in history for step in trial.observations}
    for name, step in sorted(seen - set(history.arrivals)):
        yield f"Step {step} of trial {name!r} was observed but did not arrive."
    for name, step in sorted(set(history.arrivals) - seen):
        yield f"Step {step} of trial {name!r} arrived but was not observed."
    paid, asked = sum(not trial.evaluated for trial in history), history.n_asked + history.n_apart
    if asked < paid:
        yield f"There are {paid} trials, but only {asked} were asked for."


def _money(history: History, budget: float | None) -> Iterator[str]:
    spent = math.fsum(cost_of(history.space, trial, trial.reached) for trial in history if not trial.evaluated)
    for label, amount in (("spent", history.spent), ("spent by scale", math.fsum(history.spent_by_scale().values()))):
        if not math.isclose(amount, spent, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            yield f"The steps reached cost {spent!r}, but {label} is {amount!r}."
    if history.committed < spent * (1 - _ROUNDING):
        yield f"Committed, {history.committed!r}, is less than spent, {spent!r}."
    if budget is not None and history.committed > budget * (1 + _ROUNDING):
        yield f"Committed, {history.committed!r}, is more than the budget, {budget!r}."


def _exchange(history: History) -> Iterator[str]:
    state = history.state_dict()
    try:
        again = History.from_state_dict(json.loads(json.dumps(state, allow_nan=False))).state_dict()
    except ValueError as error:
        yield f"Its state cannot be read back: {error}"
        return
    if again != state:
        yield "Its state changes when it is written and read."
