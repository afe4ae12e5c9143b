"""A small space with the paper's shape, and an objective with a known optimum."""

from __future__ import annotations

import numpy as np
import pytest

from ray_mixopt.core.space import MixtureSpace, Scale

DOMAINS = ("wikipedia", "github", "book")


@pytest.fixture
def space() -> MixtureSpace:
    """Three domains, three scales, the paper's design rungs and three search rungs."""
    return MixtureSpace(
        domains=DOMAINS,
        scales=(Scale("20M", 0.01, 20e6), Scale("150M", 0.08, 150e6), Scale("1B", 1.0, 1e9)),
        steps=(100, 300, 500, 700, 900, 6000, 12000, 19700),
    )


@pytest.fixture
def loss():
    """``loss(mixture, scale, step)``: falls with scale and steps, lowest where most of the tokens are books."""

    def evaluate(mixture, scale: str, step: int) -> float:
        w = np.array([mixture[name] for name in DOMAINS])
        size = {"20M": 20e6, "150M": 150e6, "1B": 1e9}[scale]
        scaling = 0.4 * (np.log(1e9 / size) / 4) + 0.3 * np.log(19700 / step) / 5
        return float(2.0 + scaling + 1.5 * np.sum((w - np.array([0.1, 0.2, 0.7])) ** 2))

    return evaluate


@pytest.fixture
def drive(loss):
    """``drive(optimizer, n)`` runs up to n suggestions one after the other and returns them."""

    def run(optimizer, n: int) -> list:
        suggestions = []
        for _ in range(n):
            suggestion = optimizer.ask()
            if suggestion is None:
                break
            suggestions.append(suggestion)
            for step in optimizer.space.steps:
                if step <= suggestion.steps:
                    optimizer.tell(suggestion.trial_id, step, loss(suggestion.mixture, suggestion.scale, step))
            optimizer.finish(suggestion.trial_id)
        return suggestions

    return run
