"""What has been bought so far, and what goes together with what could be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.core.history import History
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.surrogate.posterior import SURE, ObjectivePosterior


class Bought:
    """How far each mixture has been trained at each scale, or is on its way to be."""

    def __init__(self, history: History) -> None:
        self._at: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._pending = history.pending()
        for scale in dict.fromkeys(trial.scale for trial in history):
            trials = [trial for trial in history if trial.scale == scale]
            steps = np.array([trial.steps if trial.pending else trial.reached for trial in trials])
            self._at[scale] = np.array([trial.mixture for trial in trials]), steps

    def steps(self, mixture: np.ndarray, scale: str) -> int:
        """The furthest step of a mixture ``(d,)`` at a scale; 0 where it was never trained there."""
        if scale not in self._at:
            return 0
        mixtures, steps = self._at[scale]
        return int(steps[same_mixture(mixtures, mixture)].max(initial=0))

    def has_ended(self, mixture: np.ndarray, scale: str, steps: int) -> bool:
        """Whether a mixture ``(d,)`` has been trained to just that step at a scale, and no run of it is on its way."""
        return self.steps(mixture, scale) == steps and not any(
            trial.scale == scale and same_mixture(np.array(trial.mixture), mixture) for trial in self._pending
        )


def drowned(posterior: ObjectivePosterior, mixture: np.ndarray) -> bool:
    """Whether noise is what the verdict on a mixture ``(d,)`` waits for.

    That is so where it is not surely better than the anchor, and a report scatters by more than what is not known of
    their difference: then it is the reports that are little known, and not the effects of mixtures.
    """
    if same_mixture(mixture, posterior.anchor):
        return False
    mean, variance = posterior.marginal(mixture[None], posterior.anchor[None])
    doubt = math.sqrt(float(mean.var(correction=0) + variance.mean()))
    scatter = math.sqrt(float(posterior.variance_of([model.hyper.noise().sqrt() for model in posterior.models]).mean()))
    return float(mean.mean()) + SURE * (1 + posterior.fewness) * doubt >= 0 and scatter > doubt


def still_needed(design: Sequence[Proposal], history: History) -> list[Proposal]:
    """The design without the fidelities at which, or above which, as many runs were given."""
    cost = history.space.cost
    given = [cost(trial.scale, trial.reached) for trial in history if trial.evaluated]
    if not given:
        return list(design)
    wanted = Counter((run.scale, run.steps) for run in design)
    enough = {cell for cell, n in wanted.items() if sum(paid >= cost(*cell) for paid in given) >= n}
    return [run for run in design if (run.scale, run.steps) not in enough]


def was_asked(run: Proposal, history: History) -> bool:
    """Whether a run of the mixture and the scale has been asked to go so far."""
    return any(
        t.steps >= run.steps and t.scale == run.scale and same_mixture(np.array(t.mixture), run.mixture)
        for t in history
    )


def partners_of(runs: Sequence[Proposal], costs: Sequence[float], incumbent: np.ndarray, affordable: float) -> Tensor:
    """For each run, the index of the incumbent's run at its fidelity, where both are affordable; else -1, ``(a,)``."""
    of_incumbent = {
        (run.scale, run.steps): i
        for i, run in enumerate(runs)
        if run.continues is None and np.array_equal(run.mixture, incumbent)
    }
    found = [of_incumbent.get((run.scale, run.steps), -1) for run in runs]
    rows = enumerate(found)
    return torch.tensor([j if j >= 0 and j != i and costs[i] + costs[j] <= affordable else -1 for i, j in rows])
