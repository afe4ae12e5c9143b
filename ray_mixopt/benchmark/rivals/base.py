"""What the rivals share: the book of their runs, softmax logits, the best observation as answer; and the simplest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from ray_mixopt.benchmark.problem import Task
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Suggestion


@dataclass(kw_only=True)
class RivalRun:
    """A training run.

    Attributes:
        trial_id: its name.
        mixture: shares, ``(d,)``.
        scale: name of the scale.
        steps: the rung it was asked to reach.
        losses: what it reported, by step; signed so that less is better.
        failed: whether it failed.
    """

    trial_id: str
    mixture: np.ndarray
    scale: str
    steps: int
    losses: dict[int, float] = field(default_factory=dict)
    failed: bool = False

    @property
    def loss(self) -> float:
        """The last report; infinite before the first and after a failure."""
        return self.losses[max(self.losses)] if self.losses and not self.failed else np.inf


class Rival:
    """Keeps the runs; a subclass decides what to run in ``ask``.

    Args:
        task: what is searched.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.runs: dict[str, RivalRun] = {}
        self.rng = np.random.default_rng([task.seed, 1])

    @property
    def space(self) -> MixtureSpace:
        """The search space, with the rungs at which this method wants reports."""
        return self.task.space

    @property
    def d(self) -> int:
        """Number of domains."""
        return self.space.n_domains

    def cells(self) -> list[tuple[str, int]]:
        """Scales and rungs up to those of the target, cheapest first."""
        space = self.space
        most = space.scale(space.target_scale).cost_per_step
        scales = [scale.name for scale in space.scales if scale.cost_per_step <= most]
        steps = [z for z in space.steps if z <= space.target_steps]
        return sorted(product(scales, steps), key=lambda cell: space.cost(*cell))

    def start(self, mixture: np.ndarray, scale: str, steps: int) -> Suggestion:
        """Files a new run and suggests it.

        Args:
            mixture: shares in domain order, ``(d,)``.
            scale: name of the scale.
            steps: rung to reach.
        """
        run = RivalRun(trial_id=f"run_{len(self.runs):05d}", mixture=mixture, scale=scale, steps=steps)
        self.runs[run.trial_id] = run
        return self._suggestion(run, None, self.space.cost(scale, steps))

    def go_on(self, run: RivalRun, steps: int) -> Suggestion:
        """Takes a run further, for the price of the further steps."""
        cost = self.space.cost(run.scale, steps, start=run.steps)
        run.steps = steps
        return self._suggestion(run, run.trial_id, cost)

    def tell(self, trial_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Files the loss of a report, unless one of its metrics is missing."""
        loss = self.task.loss(metrics)
        if loss is not None:
            self.runs[trial_id].losses[step] = loss

    def finish(self, trial_id: str, failed: bool = False) -> None:
        """The run is at its rung, or failed."""
        self.runs[trial_id].failed = failed

    def recommend(self) -> dict[str, float]:
        """The best mixture at the most costly fidelity observed; the uniform one before there is any."""
        seen = [
            (self.space.cost(run.scale, step), -loss, run.mixture)
            for run in self.runs.values()
            for step, loss in run.losses.items()
        ]
        if not seen:
            return self.space.named(self.space.uniform())
        return self.space.named(max(seen, key=lambda entry: entry[:2])[2])

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        """The mixture ``(d,)`` of some logits, within the bounds."""
        weights = np.exp(logits - logits.max())
        return self.space.simplex.project((weights / weights.sum())[None])[0]

    def _suggestion(self, run: RivalRun, continues: str | None, cost: float) -> Suggestion:
        return Suggestion(
            trial_id=run.trial_id,
            mixture=self.space.named(run.mixture),
            scale=run.scale,
            steps=run.steps,
            continues=continues,
            cost=cost,
        )


class RandomLogits(Rival):
    """Mixtures from uniform softmax logits, each trained in full at the target; recommends the best.

    Args:
        task: what is searched.
        bound: logits are between -bound and bound.
    """

    def __init__(self, task: Task, *, bound: float) -> None:
        super().__init__(task)
        self.bound = bound

    def ask(self) -> Suggestion:
        """A full run at the target of a random mixture."""
        mixture = self.softmax(self.rng.uniform(-self.bound, self.bound, self.d))
        return self.start(mixture, self.space.target_scale, self.space.target_steps)


def geometric_rungs(task: Task, eta: float, smallest: float) -> tuple[int, ...]:
    """Rungs of Hyperband: the target's steps divided by powers of ``eta``, down to ``smallest`` steps.

    Where only the space's rungs can be reported, those of them up to the target.
    """
    target = task.space.target_steps
    if not task.any_steps:
        return tuple(z for z in task.space.steps if z <= target)
    rungs = [target]
    while rungs[0] / eta >= smallest:
        rungs.insert(0, round(target / eta ** len(rungs)))
    return tuple(rungs)
