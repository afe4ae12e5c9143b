"""Random search with full target runs."""

from __future__ import annotations

from ray_mixopt.benchmark.problem import Task
from ray_mixopt.benchmark.rivals.base import Rival
from ray_mixopt.strategies import Suggestion


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
        """A random full run."""
        mixture = self.softmax(self.rng.uniform(-self.bound, self.bound, self.d))
        return self.start(mixture, self.space.target_scale, self.space.target_steps)
