"""What the runs of a history cost, how they ended, and what they reported."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ray_mixopt.core.history import History, Trial

GIVEN = "given"  # a run that was made elsewhere, whatever its status
ENDS = (GIVEN, "done", "paused", "running", "diverged", "failed", "lost")
_BAD = ("diverged", "failed", "lost")


class Ledger:
    """The books of one history. Scales are in the order of the space, earlier ones last.

    Args:
        history: what was asked, seen and paid; it must not change afterwards.
    """

    def __init__(self, history: History) -> None:
        self._history, self._space = history, history.space
        self.scale_names = tuple(scale.name for scale in (*self._space.scales, *self._space.earlier_scales))

    @cached_property
    def ends(self) -> dict[str, np.ndarray]:
        """Number of runs at each scale, ``(n_scales,)``, by how they ended or stand, one of ``ENDS``; none left out."""
        found: dict[str, np.ndarray] = {}
        for trial in self._history:
            end = GIVEN if trial.evaluated else trial.status
            found.setdefault(end, np.zeros(len(self.scale_names), dtype=int))[self._row(trial)] += 1
        return found

    @cached_property
    def paid_runs(self) -> dict[str, int]:
        """Number of runs that the search paid for, by scale; those given to it are left out."""
        paid = [trial.scale for trial in self._history if not trial.evaluated]
        return {name: paid.count(name) for name in self._space.scale_names}

    @cached_property
    def full_runs_by_rung(self) -> np.ndarray:
        """What the search paid at each of its scales to come from one rung to the next, ``n_scales x n_steps``.

        In full runs at the target. Steps beyond the last rung count to the last rung.
        """
        space = self._space
        starts, ends = np.array([0, *space.steps[:-1]]), np.array([*space.steps[:-1], np.inf])
        paid = np.zeros((len(space.scales), len(space.steps)))
        for trial in self._history:
            if not trial.evaluated:
                steps = np.clip(trial.reached, starts, ends) - starts
                paid[self._row(trial)] += space.scale(trial.scale).cost_per_step * steps
        return paid / space.target_cost

    @property
    def bad(self) -> list[Trial]:
        """The runs that diverged, failed or were lost, in the order they were asked for."""
        return [trial for trial in self._history if trial.status in _BAD]

    @property
    def at_target(self) -> int:
        """Number of runs that reported at the target."""
        space = self._space
        return sum(t.scale == space.target_scale and space.target_steps in t.observations for t in self._history)

    def curves(self, metric: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """The scale, the steps ``(k,)`` and a metric's values there ``(k,)`` of every run that reported the metric."""
        found = []
        for trial in self._history:
            steps = sorted(step for step, values in trial.observations.items() if metric in values)
            if steps:
                values = [trial.observations[step][metric] for step in steps]
                found.append((trial.scale, np.array(steps), np.array(values)))
        return found

    def _row(self, trial: Trial) -> int:
        return self.scale_names.index(trial.scale)
