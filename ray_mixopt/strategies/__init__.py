"""What to run next and what to recommend: the strategies of ``MixtureOptimizer``."""

from __future__ import annotations

import importlib

from ray_mixopt.core.problem import Problem, Proposal, Strategy, Suggestion

__all__ = ["STRATEGIES", "Problem", "Proposal", "Strategy", "Suggestion", "create"]

# Loaded when first used: random search should not wait for the surrogate's imports.
STRATEGIES: dict[str, tuple[str, str, dict[str, str]]] = {  # module, class, options
    "default": ("ray_mixopt.strategies.default", "RegretStrategy", {}),
    "paper": ("ray_mixopt.strategies.paper", "PaperStrategy", {}),
    "paper-tv": ("ray_mixopt.strategies.paper", "PaperStrategy", {"kernel": "tv"}),
    "paper-jsd": ("ray_mixopt.strategies.paper", "PaperStrategy", {"kernel": "jsd"}),
    "paper-script-noise": ("ray_mixopt.strategies.paper", "PaperStrategy", {"noise": "script"}),
    "random": ("ray_mixopt.strategies.random", "RandomStrategy", {}),
}


def create(name: str, problem: Problem) -> Strategy:
    """The strategy of that name for a problem.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in STRATEGIES:
        raise ValueError(f"Unknown strategy {name!r}: choose one of {', '.join(STRATEGIES)}.")
    module, cls, options = STRATEGIES[name]
    strategy: Strategy = getattr(importlib.import_module(module), cls)(problem, **options)
    return strategy
