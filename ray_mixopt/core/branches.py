"""Runs that go on from the checkpoint of another, at a border of phases: which can, and what they cost.

A run of several phases keeps a checkpoint where its first ones end, for it may go on to a further rung from there. A
run of the same scale and length whose first phases are the same need not train them again: it begins there, as a branch
of that run, its trunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Protocol

import numpy as np

from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.trial import Branch, Trial


def borders(space: MixtureSpace, steps: int) -> tuple[int, ...]:
    """The training steps at which the searched phases of a run to a rung end, but for the last one."""
    return tuple(round(end * steps) for end in _ends(space))


def _ends(space: MixtureSpace) -> list[float]:
    """Where the searched phases but the last one end, as parts of a whole run."""
    n = len(space.phase_names)
    return [*accumulate(phase.fraction for phase in space.phases)][len(space.phases) - n : -1] if n else []


class Paid(Protocol):
    """A run that is paid for."""

    @property
    def scale(self) -> str:
        """Name of its model scale."""
        ...

    @property
    def branch(self) -> Branch | None:
        """Where it began; None: from nothing."""
        ...


def price(space: MixtureSpace, scale: str, steps: int, branch: Branch | None) -> float:
    """What a new run costs that is to reach a rung, from nothing or as a branch."""
    if branch is None:
        return space.cost(scale, steps)
    return space.scale(scale).cost_per_step * (steps - branch.from_step)


def cost_of(space: MixtureSpace, run: Paid, steps: float, *, start: float = 0) -> float:
    """Cost of training a run from step ``start`` to step ``steps``: of a branch, no more than it trains itself.

    Raises:
        ValueError: if it would go back.
    """
    branch = run.branch
    if branch is None or start >= branch.steps:
        return space.cost(run.scale, steps, start=start)
    trained = max(0, min(steps, branch.steps) - max(start, branch.from_step))
    further = space.cost(run.scale, steps, start=branch.steps) if steps > branch.steps else 0.0
    return space.scale(run.scale).cost_per_step * trained + further


class Trunks:
    """The runs that others may branch from: paused ones, whose checkpoints are kept, at the rung they have reached.

    Args:
        space: of the runs.
        runs: of a history; the first of several that will do is the parent.
    """

    def __init__(self, space: MixtureSpace, runs: Iterable[Trial]) -> None:
        self.space = space
        self._ends = _ends(space)
        known = list(runs) if self._ends else []
        cells: dict[tuple[str, int], list[Trial]] = {}
        for run in known:
            if run.status == "paused":
                cells.setdefault((run.scale, run.reached), []).append(run)
        self._at = {cell: (of, np.array([run.mixture for run in of])) for cell, of in cells.items()}
        reported: dict[str, list[tuple[float, ...]]] = {}
        for run in known:
            if run.reached:
                reported.setdefault(run.scale, []).append(run.mixture)
        self._reported = {scale: np.array(mixtures) for scale, mixtures in reported.items()}

    def crossed(self, mixtures: np.ndarray) -> Iterator[tuple[np.ndarray, str, int]]:
        """Runs with the first phase of one that is there and the later phases of one of ``c x n_shares`` mixtures.

        Of the runs of a scale that are at a rung it is the one whose first phase is nearest to that of the mixture.

        Yields:
            The mixture ``(n_shares,)``, the scale and the rung, each once, of those that are within all limits.
        """
        d = self.space.n_domains
        for (scale, steps), (_, there) in self._at.items():
            if (scale, steps) not in self.space.fidelities:
                continue
            apart = np.abs(there[:, None, :d] - mixtures[None, :, :d]).max(-1)
            branches = np.concatenate([there[apart.argmin(0), :d], mixtures[:, d:]], axis=1)
            for mixture in np.unique(branches[self.space.simplex.contains(branches)], axis=0):
                yield mixture, scale, steps

    def branch(self, mixture: np.ndarray, scale: str, steps: int) -> Branch | None:
        """Where a new run can begin that shares as much as any with one that is there; None where it shares nothing.

        One that repeats a run begins at its start: it tells how reports scatter only if it shares nothing.

        Args:
            mixture: of all phases, ``(n_shares,)``.
            scale: name of the model scale.
            steps: the rung that it is to reach.
        """
        if (scale, steps) not in self._at or self._repeats(mixture, scale):
            return None
        runs, mixtures = self._at[scale, steps]
        shared = self._shared(mixtures, mixture)
        best = int(shared.argmax())
        return self._at_border(runs[best], int(shared[best]), steps) if shared[best] else None

    def branch_of(self, parent: Trial, mixture: np.ndarray, scale: str, steps: int) -> Branch:
        """Where a new run begins as a branch of a certain one.

        Args:
            parent: the one.
            mixture: of the new run, ``(n_shares,)``.
            scale: name of its model scale.
            steps: the rung that it is to reach.

        Raises:
            ValueError: if it cannot be a branch of that run; the message says why.
        """
        name, first = f"Trial {parent.trial_id!r}", next(iter(self.space.phase_names), "")
        if not self._ends:
            raise ValueError(f"{name} has one mixture that is searched: only runs of several phases have branches.")
        if parent.scale != scale:
            raise ValueError(f"{name} is of scale {parent.scale}: a run of {scale} cannot go on from its checkpoint.")
        if parent.status != "paused":
            raise ValueError(
                f"{name} is {parent.status} at step {parent.reached}: a run can branch only from one that is paused at "
                "its rung, with its checkpoint kept."
            )
        if parent.reached != steps:
            raise ValueError(
                f"{name} has reached step {parent.reached}: in a run to step {steps} the phase {first} is of another "
                "length."
            )
        if self._repeats(mixture, scale):
            raise ValueError(
                f"A run of {scale} with this mixture has reported already: one that repeats it begins at its start."
            )
        shared = int(self._shared(np.array([parent.mixture]), mixture)[0])
        border = self._at_border(parent, shared, steps) if shared else None
        if border is None:
            raise ValueError(
                f"{name} has another mixture in the phase {first}: a branch has the first phases of its parent, and "
                "differs in a later one."
            )
        return border

    def _repeats(self, mixture: np.ndarray, scale: str) -> bool:
        return scale in self._reported and bool(same_mixture(self._reported[scale], mixture).any())

    def _shared(self, mixtures: np.ndarray, mixture: np.ndarray) -> np.ndarray:
        """How many phases, from the first on, are just those of ``n x n_shares`` mixtures, ``(n,)``; 0 if all are."""
        equal = (mixtures == mixture).reshape(len(mixtures), len(self._ends) + 1, -1).all(-1)
        shared: np.ndarray = np.cumprod(equal, axis=1).sum(1)
        shared[same_mixture(mixtures, mixture)] = 0
        return shared

    def _at_border(self, parent: Trial, shared: int, steps: int) -> Branch | None:
        step = borders(self.space, steps)[shared - 1]
        return Branch(parent=parent.trial_id, from_step=step, steps=steps) if 0 < step < steps else None
