"""Candidates: which mixtures may be the optimum, and which runs can be bought."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.phased import phased
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Proposal

Run = tuple[np.ndarray, str, int]
"""A mixture ``(d,)``, a scale and steps."""

_MAX_POOL_MIXTURES = 512
_MOST_TRIED = 1000  # mixtures tried that are candidates


class Candidates(Protocol):
    """What the strategy may choose from."""

    def restrict(self, design: Sequence[Proposal]) -> list[Proposal]:
        """The design, made of runs that exist."""
        ...

    def at_target(self, rng: np.random.Generator, n: int, history: History | None = None) -> np.ndarray:
        """About ``n`` mixtures that could be recommended, ``c x d``."""
        ...

    def near(self, mixtures: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """More of them around those of lowest value (``(c,)`` for ``c x d``)."""
        ...

    def best(self, mixtures: np.ndarray, score: Callable[[np.ndarray], Tensor], rng: np.random.Generator) -> np.ndarray:
        """What could be recommended, lowest score first, ``c x d``."""
        ...

    def runs(self, mixtures: np.ndarray, history: History) -> Iterable[Run]:
        """New runs worth considering when ``mixtures`` (``c x d``) look best."""
        ...

    def further_steps(self, trial: Trial) -> list[int]:
        """Rungs to which a paused trial can go on."""
        ...


class SimplexCandidates:
    """Any mixture within the bounds, at any scale and any rung of it.

    Args:
        space: the search space.
    """

    def __init__(self, space: MixtureSpace) -> None:
        self.space = space

    def restrict(self, design: Sequence[Proposal]) -> list[Proposal]:
        """The design as it is."""
        return list(design)

    def at_target(self, rng: np.random.Generator, n: int, history: History | None = None) -> np.ndarray:
        """Half uniform, half near the faces (Dirichlet 0.3), the corners, near-corners and the mixtures tried.

        Of very many mixtures tried, those whose runs cost most.
        """
        space = self.space
        corners = space.corners()
        near = space.simplex.project(0.9 * corners + 0.1 * space.uniform())
        tried = np.empty((0, space.n_shares))
        if history:
            furthest = sorted(history, key=lambda trial: -space.cost(trial.scale, trial.reached))[:_MOST_TRIED]
            tried = np.unique(np.array([trial.mixture for trial in furthest]), axis=0)
        tried = tried[space.simplex.contains(tried)]  # runs made elsewhere may be outside the limits
        half = n // 2
        faces = space.sample(n - half, rng, 0.3)
        return np.concatenate([space.uniform()[None], corners, near, space.sample(half, rng), faces, tried])

    def near(self, mixtures: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Perturbations of the best eight."""
        order = np.argsort(values, kind="stable")[:8]
        return self._perturbed(mixtures[order], len(mixtures) // 4, rng, reach=0.3)

    def best(self, mixtures: np.ndarray, score: Callable[[np.ndarray], Tensor], rng: np.random.Generator) -> np.ndarray:
        """Local search from the best of ``mixtures``, closer in every round."""
        pool, values = mixtures, score(mixtures).numpy()
        for reach in (0.4, 0.16, 0.064, 0.026):
            keep = np.argsort(values, kind="stable")[:200]
            new = self._perturbed(pool[keep[:4]], 256, rng, reach)
            pool, values = np.concatenate([pool[keep], new]), np.concatenate([values[keep], score(new).numpy()])
        return pool[np.argsort(values, kind="stable")]

    def runs(self, mixtures: np.ndarray, history: History) -> Iterable[Run]:
        """Every mixture at every scale and rung."""
        fidelities = self.space.fidelities
        return [(w, *fidelity) for w in mixtures for fidelity in fidelities]

    def further_steps(self, trial: Trial) -> list[int]:
        """Every rung beyond the one it reached."""
        return [steps for steps in self.space.rungs(trial.scale) if steps > trial.reached]

    def _perturbed(self, centers: np.ndarray, n: int, rng: np.random.Generator, reach: float) -> np.ndarray:
        """Mixtures moved from ``centers`` towards random ones by up to ``reach``, ``n x d``.

        A third of them also drop one domain, since optima often lie on a face.
        """
        d = self.space.n_domains
        base = centers[rng.integers(len(centers), size=n)]
        size = reach * rng.random((n, 1)) ** 2
        moved = (1 - size) * base + size * rng.dirichlet(np.full(d, 0.5), n)
        dropped = np.flatnonzero(rng.random(n) < 1 / 3)
        moved[dropped, rng.integers(d, size=len(dropped))] = 0.0
        total = moved.sum(1, keepdims=True)
        return self.space.simplex.project(np.divide(moved, total, out=base.copy(), where=total > 0))


class PhasedCandidates(SimplexCandidates):
    """Mixtures of several phases within the bounds, many of them the same in all phases.

    Args:
        space: the search space.
        tied: whether they are the same in all phases, as far as the limits allow.
    """

    def __init__(self, space: MixtureSpace, *, tied: bool = False) -> None:
        super().__init__(space)
        self.simplex, self.tied = phased(space.simplex), tied

    def at_target(self, rng: np.random.Generator, n: int, history: History | None = None) -> np.ndarray:
        """As of one mixture; half of the random ones are tied, and so are the corners."""
        found = super().at_target(rng, n, history)
        return self.simplex.tied(self.simplex.mean(found)) if self.tied else found

    def _perturbed(self, centers: np.ndarray, n: int, rng: np.random.Generator, reach: float) -> np.ndarray:
        """As of one mixture: all phases towards the same one, or, two times in three, one phase alone."""
        p, d = len(self.simplex.fractions), self.space.n_domains
        base = self.simplex.apart(centers[rng.integers(len(centers), size=n)])  # n x p x d
        size = reach * rng.random((n, 1, 1)) ** 2
        moving = np.ones((n, p), dtype=bool)
        if not self.tied:
            alone = rng.random(n) < 2 / 3
            moving[alone] = np.eye(p, dtype=bool)[rng.integers(p, size=int(alone.sum()))]
        towards = rng.dirichlet(np.full(d, 0.5), n)[:, None]
        moved = np.where(moving[..., None], (1 - size) * base + size * towards, base)
        dropped = np.flatnonzero(rng.random(n) < 1 / 3)
        for row, domain in zip(dropped, rng.integers(d, size=len(dropped)), strict=True):
            moved[row, moving[row], domain] = 0.0
        total = moved.sum(-1, keepdims=True)
        moved = np.divide(moved, total, out=base.copy(), where=total > 0)
        return self.simplex.project(moved.reshape(n, -1))


class PoolCandidates:
    """Only logged runs, each once.

    Args:
        space: the search space.
        pool: the logged runs.

    Raises:
        ValueError: if no logged run reaches the target, so that nothing could be recommended.
    """

    def __init__(self, space: MixtureSpace, pool: Pool) -> None:
        self.space, self.pool = space, pool.of(space)
        self._targets = self.pool.logged_at(space.target_scale, space.target_steps)
        if not len(self._targets):
            raise ValueError(
                f"No logged run reaches the target {space.target_scale} x {space.target_steps} steps: choose another."
            )

    def restrict(self, design: Sequence[Proposal]) -> list[Proposal]:
        """The nearest logged run for each one of the design: same fidelity if logged, else the nearest in cost."""
        used = np.zeros_like(self.pool.available)
        cells = [(i, j) for i in range(len(self.space.scales)) for j in range(len(self.space.steps))]
        result = []
        for wanted in design:
            price = np.log(self.space.cost(wanted.scale, wanted.steps))
            open_cells = [cell for cell in cells if (self.pool.available & ~used)[:, *cell].any()]
            if not open_cells:
                break
            i, j = min(open_cells, key=lambda cell: abs(np.log(self._cost(cell)) - price))
            rows = np.flatnonzero(self.pool.available[:, i, j] & ~used[:, i, j])
            row = rows[np.square(self.pool.mixtures[rows] - wanted.mixture).sum(1).argmin()]
            used[row, i] = True
            result.append(
                Proposal(mixture=self.pool.mixtures[row], scale=self.space.scale_names[i], steps=self.space.steps[j])
            )
        return result

    def at_target(self, rng: np.random.Generator, n: int, history: History | None = None) -> np.ndarray:
        """The mixtures logged at the target."""
        return self._targets

    def near(self, mixtures: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """No further mixtures, ``0 x d``: only those logged can be recommended."""
        return np.empty((0, self.space.n_domains))

    def best(self, mixtures: np.ndarray, score: Callable[[np.ndarray], Tensor], rng: np.random.Generator) -> np.ndarray:
        """The mixtures logged at the target, in order."""
        return self._targets[np.argsort(score(self._targets).numpy(), kind="stable")]

    def runs(self, mixtures: np.ndarray, history: History) -> Iterable[Run]:
        """Logged runs not yet taken, of the mixtures nearest to ``mixtures`` if there are very many."""
        open_ = self.pool.available.copy()
        if len(history):
            for trial, row in zip(history, self.pool.rows(history.mixtures()), strict=True):
                if row >= 0 and trial.scale in self.space.scale_names:
                    open_[row, self.space.scale_names.index(trial.scale)] = False
        rows = np.flatnonzero(open_.any((1, 2)))
        if len(rows) > _MAX_POOL_MIXTURES:
            distance = np.square(self.pool.mixtures[rows, None] - mixtures[None]).sum(-1).min(1)
            rows = rows[np.argsort(distance, kind="stable")[:_MAX_POOL_MIXTURES]]
        return [
            (self.pool.mixtures[row], self.space.scale_names[i], self.space.steps[j])
            for row in rows
            for i, j in np.argwhere(open_[row])
        ]

    def further_steps(self, trial: Trial) -> list[int]:
        """Logged rungs beyond the one it reached."""
        return [steps for steps in self.pool.rungs(trial.mixture, trial.scale) if steps > trial.reached]

    def _cost(self, cell: tuple[int, int]) -> float:
        return self.space.cost(self.space.scale_names[cell[0]], self.space.steps[cell[1]])


def candidates_of(problem: Problem) -> Candidates:
    """What a problem lets a strategy choose from."""
    space, pool = problem.space, problem.pool
    if pool is not None:
        return PoolCandidates(space, pool)
    return PhasedCandidates(space) if space.phase_names else SimplexCandidates(space)
