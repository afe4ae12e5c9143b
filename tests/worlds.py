"""Small worlds to search, for all tests: what can be trained, what a run reports, and which mixture is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale, Suggestion
from ray_mixopt.core.history import History

DOMAINS = ("web", "code", "math")
SMALL_LARGE = (Scale("S", 0.1, 1e7), Scale("L", 1.0, 1e8))
SMALL_MEDIUM_LARGE = (Scale("small", 0.01, 1e7), Scale("medium", 0.1, 1e8), Scale("large", 1.0, 1e9))
Report = float | Mapping[str, float]


def two_scales(*domains: str, **limits: Any) -> MixtureSpace:
    """A space of two scales and two lengths, each a tenth of the other."""
    return MixtureSpace(domains=domains or DOMAINS, scales=SMALL_LARGE, steps=(100, 1000), **limits)


THREE_SCALES = MixtureSpace(domains=DOMAINS, scales=SMALL_MEDIUM_LARGE, steps=(100, 400))
TINY = MixtureSpace(
    domains=DOMAINS, scales=(Scale("20M", 1.0, 20e6), Scale("60M", 3.0, 60e6)), steps=(10, 20, 40)
)  # cheap to run to the end
PAPER = MixtureSpace(  # the paper's kind of scales, the rungs of its design and of its search
    domains=("wikipedia", "github", "book"),
    scales=(Scale("20M", 0.01, 20e6), Scale("150M", 0.08, 150e6), Scale("1B", 1.0, 1e9)),
    steps=(100, 300, 500, 700, 900, 6000, 12000, 19700),
)
PAIR = MixtureSpace(domains=("a", "b"), scales=(Scale("s", 1.0, 1e6), Scale("l", 9.0, 1e7)), steps=(10, 20))


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """A loss that grows with the squared distance from one mixture, and falls with size and length.

    Args:
        space: of the runs.
        best: shares of its domains; of the first ones where there are fewer.
        depth: of the bowl.
        size: what a model a tenth as large loses.
        length: what a tenth of the steps loses.
        moves: how far the best mixture moves, from the first domain to the others, for a model a tenth as large.
    """

    space: MixtureSpace
    best: Sequence[float]
    depth: float = 1.0
    size: float = 0.3
    length: float = 0.2
    moves: float = 0.0

    def __call__(self, mixture: Mapping[str, float], scale: str, step: int) -> float:
        """The loss of a run at a step."""
        size, target = (self.space.scale(name).parameters for name in (scale, self.space.target_scale))
        smaller, shorter = math.log10(target / size), math.log10(self.space.target_steps / step)
        n = min(len(self.best), self.space.n_domains)
        moved = self.moves * smaller * np.array([-1.0, *[1 / (n - 1)] * (n - 1)])
        off = np.array([mixture[name] for name in self.space.domains[:n]]) - self.best[:n] - moved
        return float(2.0 + self.size * smaller + self.length * shorter + self.depth * np.square(off).sum())


# -- runs


def train(optimizer: MixtureOptimizer, run: Suggestion, value: Callable[..., Report]) -> None:
    """A run goes to its rung, and reports ``value(mixture, scale, step)`` at each that it passes."""
    reached = optimizer.history[run.trial_id].reached
    for step in optimizer.space.rungs(run.scale):
        if reached < step <= run.steps and (run.parent is None or step == run.steps):  # a branch passes no other rung
            optimizer.tell(run.trial_id, step, value(run.mixture, run.scale, step))
    optimizer.finish(run.trial_id)


def search(optimizer: MixtureOptimizer, n: int, value: Callable[..., Report]) -> list[Suggestion]:
    """Up to ``n`` suggestions, trained one after the other."""
    runs: list[Suggestion] = []
    while len(runs) < n and (run := optimizer.ask()) is not None:
        train(optimizer, run, value)
        runs.append(run)
    return runs


def given(
    optimizer: MixtureOptimizer,
    n: int,
    value: Callable[..., Report],
    *,
    cells: Sequence[tuple[str, int]] = (),
    among: MixtureSpace | None = None,
) -> MixtureOptimizer:
    """An optimizer that is given ``n`` runs of random mixtures, at each scale and rung in turn.

    Args:
        optimizer: is told.
        n: number of runs.
        value: what ``(mixture, scale, step)`` reports.
        cells: scales and steps; all of the space by default.
        among: space of the mixtures; that of the optimizer by default.
    """
    space = optimizer.space
    cells = cells or sorted(space.fidelities, key=lambda cell: (cell[1], space.scale_names.index(cell[0])))
    for i, w in enumerate((among or space).sample(n, np.random.default_rng(3))):
        scale, step = cells[i % len(cells)]
        mixture = space.named(w)
        optimizer.add_evaluated_point(mixture, scale, step, value(mixture, scale, step))
    return optimizer


# -- runs made earlier

OLD = two_scales()
OLD_LOSS = Bowl(space=OLD, best=(0.2, 0.5, 0.3), depth=3.0, size=0.4, length=0.3)


def awkward() -> History:
    """Curves with a metric that is missing here and there, a repeated mixture, and awkward numbers."""
    optimizer = MixtureOptimizer(OLD, objective={"loss": 1.0})
    rng = np.random.default_rng(0)
    mixtures = [*OLD.sample(12, rng), np.array([0.1, 0.2, 0.7]), np.array([0.1, 0.2, 0.7]), np.array([1.0, 0.0, 0.0])]
    for i, w in enumerate(mixtures):
        for step in (100, 1000)[: 1 + i % 2]:
            mixture, scale = OLD.named(w), ("S", "L")[i // 2 % 2]
            metrics = {"loss": OLD_LOSS(mixture, scale, step), "val_loss/code": 1 / 3 + i, "acc": 1e-17 * i}
            if i == 4:
                del metrics["acc"]
            optimizer.add_evaluated_point(mixture, scale, step, metrics, trial_id=f"run {i}")
    return optimizer.history
