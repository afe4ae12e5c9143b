"""Learning curves: what runs reported of a metric on their way, and the law fitted to all runs, drawn through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ray_mixopt.analysis.landscape import level
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.objective import Mode
from ray_mixopt.surrogate.posterior import ObjectivePosterior

MOST_LAWS = 5  # curves a scale that the law is drawn through, from the best run to the worst
_N_STEPS = 16  # points of a law


@dataclass(frozen=True, kw_only=True, eq=False)
class LearningCurve:
    """What one run reported of a metric.

    Attributes:
        run: its name.
        scale: its model scale.
        mixture: shares in domain order, ``(d,)``.
        steps: at which it reported the metric, ascending, ``(k,)``.
        values: of the metric there, ``(k,)``.
        law_steps: lengths from the first to the last of them, ascending, ``(p,)``; none where no law is drawn.
        law: the metric that the model of all runs expects of this one's mixture and scale there, ``(p,)``.
    """

    run: str
    scale: str
    mixture: tuple[float, ...]
    steps: np.ndarray
    values: np.ndarray
    law_steps: np.ndarray
    law: np.ndarray


def curves(history: History, metric: str, mode: Mode, known: ObjectivePosterior | None) -> list[LearningCurve]:
    """The curve of every run that reported a metric, in the order of the history.

    The law is drawn through those that reported at two steps or more: a few of each scale, from the best to the worst.

    Args:
        history: the runs.
        metric: its name.
        mode: whether less of it is better.
        known: what the model knows of the metric; None where there is no model, and no law.
    """
    reported = [(trial, _steps(trial, metric)) for trial in history]
    runs = [(trial, steps) for trial, steps in reported if steps]
    laws = {} if known is None else _laws(runs, metric, mode, known)
    nothing = np.empty(0), np.empty(0)
    return [
        LearningCurve(
            run=trial.trial_id,
            scale=trial.scale,
            mixture=trial.mixture,
            steps=np.array(steps),
            values=np.array([trial.observations[step][metric] for step in steps]),
            law_steps=laws.get(trial.trial_id, nothing)[0],
            law=laws.get(trial.trial_id, nothing)[1],
        )
        for trial, steps in runs
    ]


def _steps(trial: Trial, metric: str) -> list[int]:
    return sorted(step for step, values in trial.observations.items() if metric in values)


def _laws(
    runs: list[tuple[Trial, list[int]]], metric: str, mode: Mode, known: ObjectivePosterior
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Lengths and expected values, by run."""
    found = {}
    sign = 1.0 if mode == "min" else -1.0
    for scale in dict.fromkeys(trial.scale for trial, _ in runs):
        long = [(trial, steps) for trial, steps in runs if trial.scale == scale and len(steps) > 1]
        # Those that went furthest come first: a short curve says little of the law.
        furthest = max((steps[-1] for _, steps in long), default=0)
        far = [(trial, steps) for trial, steps in long if steps[-1] == furthest]
        far.sort(key=lambda run: sign * run[0].observations[run[1][-1]][metric])
        chosen = [far[i] for i in np.unique(np.linspace(0, len(far) - 1, min(len(far), MOST_LAWS)).astype(int))]
        if not chosen:
            continue
        first = min(steps[0] for _, steps in chosen)
        lengths = np.unique(np.geomspace(first, furthest, _N_STEPS).round().astype(int))
        mixtures = np.array([trial.mixture for trial, _ in chosen])
        table = np.array([level(known.at(scale, int(steps)), mixtures) for steps in lengths])
        for k, (trial, steps) in enumerate(chosen):
            within = lengths >= steps[0]
            found[trial.trial_id] = lengths[within], table[within, k]
    return found
