"""Runs made earlier, for tests of what becomes of them."""

from __future__ import annotations

import numpy as np

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.core.history import History

DOMAINS = ("web", "code", "math")
COST = {"S": 0.1, "L": 1.0}
PARAMETERS = {"S": 1e7, "L": 1e8}
SPACE = MixtureSpace(
    domains=DOMAINS, scales=tuple(Scale(name, COST[name], PARAMETERS[name]) for name in COST), steps=(100, 1000)
)


def loss(mixture, scale: str, step: int) -> float:
    w = np.array([mixture[name] for name in DOMAINS]) - [0.2, 0.5, 0.3]
    return float(2.0 + 0.4 * (scale == "S") + 0.3 * (step == 100) + 3.0 * np.square(w).sum())


def awkward() -> History:
    """Curves with a metric that is missing here and there, a repeated mixture, and awkward numbers."""
    optimizer = MixtureOptimizer(SPACE, objective={"loss": 1.0})
    rng = np.random.default_rng(0)
    mixtures = [*SPACE.sample(12, rng), np.array([0.1, 0.2, 0.7]), np.array([0.1, 0.2, 0.7]), np.array([1.0, 0.0, 0.0])]
    for i, w in enumerate(mixtures):
        for step in (100, 1000)[: 1 + i % 2]:
            mixture, scale = SPACE.named(w), ("S", "L")[i // 2 % 2]
            metrics = {"loss": loss(mixture, scale, step), "val_loss/code": 1 / 3 + i, "acc": 1e-17 * i}
            if i == 4:
                del metrics["acc"]
            optimizer.add_evaluated_point(mixture, scale, step, metrics, trial_id=f"run {i}")
    return optimizer.history
