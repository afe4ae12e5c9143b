"""What the runs of a history cost, how they ended, and what they reported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ray_mixopt.core.branches import cost_of
from ray_mixopt.core.history import History, Trial

GIVEN = "given"  # a run that was made elsewhere, whatever its status
ENDS = (GIVEN, "done", "paused", "running", "diverged", "failed", "lost")
_BAD = ("diverged", "failed", "lost")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A scale and a length at which runs reported. Costs are in full runs at the target.

    Attributes:
        scale: the model scale.
        steps: the length.
        reported: number of runs that reported there.
        ended: number of runs that reported nothing later.
        cost: of those that ended there, from their start.
        paid: what of it the search paid; the rest is that of given runs.
    """

    scale: str
    steps: int
    reported: int
    ended: int
    cost: float
    paid: float


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

    @property
    def bad(self) -> list[Trial]:
        """The runs that diverged, failed or were lost, in the order they were asked for."""
        return [trial for trial in self._history if trial.status in _BAD]

    @property
    def at_target(self) -> int:
        """Number of runs that reported at the target."""
        space = self._space
        return sum(t.scale == space.target_scale and space.target_steps in t.observations for t in self._history)

    @cached_property
    def places(self) -> list[Place]:
        """Where runs reported, by scale in the order of ``scale_names``, then by length."""
        full, space = self._space.target_cost, self._space
        found: dict[tuple[int, int], list[float]] = {}
        for trial in self._history:
            for step in trial.observations:
                counts = found.setdefault((self._row(trial), step), [0, 0, 0.0, 0.0])
                counts[0] += 1
                if step == trial.reached:
                    cost = cost_of(space, trial, step) / full
                    counts[1] += 1
                    counts[2] += cost
                    counts[3] += 0.0 if trial.evaluated else cost
        return [
            Place(
                scale=self.scale_names[row],
                steps=step,
                reported=int(reported),
                ended=int(ended),
                cost=cost,
                paid=paid,
            )
            for (row, step), (reported, ended, cost, paid) in sorted(found.items())
        ]

    def _row(self, trial: Trial) -> int:
        return self.scale_names.index(trial.scale)
