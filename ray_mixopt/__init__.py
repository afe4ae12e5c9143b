"""Multi-fidelity, multi-scale Bayesian optimisation of pre-training data mixtures, as a Ray Tune plug-in.

The optimizer and the simulators do not import Ray; the adapters load it when they are first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_mixopt import simulators
    from ray_mixopt.optimizer import MixtureOptimizer
    from ray_mixopt.recommendation import Recommendation
    from ray_mixopt.restoration import restore
    from ray_mixopt.scheduler import MixOptScheduler
    from ray_mixopt.searcher import MixOptSearcher
    from ray_mixopt.space import MixtureSpace, Scale
    from ray_mixopt.strategies import Suggestion

_WHERE = {
    "MixOptScheduler": "ray_mixopt.scheduler",
    "MixOptSearcher": "ray_mixopt.searcher",
    "MixtureOptimizer": "ray_mixopt.optimizer",
    "MixtureSpace": "ray_mixopt.space",
    "Recommendation": "ray_mixopt.recommendation",
    "Scale": "ray_mixopt.space",
    "Suggestion": "ray_mixopt.strategies",
    "restore": "ray_mixopt.restoration",
}

__all__ = [
    "MixOptScheduler",
    "MixOptSearcher",
    "MixtureOptimizer",
    "MixtureSpace",
    "Recommendation",
    "Scale",
    "Suggestion",
    "restore",
    "simulators",
]


def __getattr__(name: str) -> Any:
    if name == "simulators":
        return importlib.import_module("ray_mixopt.simulators")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def _register() -> None:
    """Makes "mixopt" a name of Tune's, if Tune is loaded; else importing the searcher and the scheduler does."""
    from ray.tune.schedulers import SCHEDULER_IMPORT
    from ray.tune.search import SEARCH_ALG_IMPORT

    SEARCH_ALG_IMPORT.setdefault("mixopt", lambda: __getattr__("MixOptSearcher"))
    SCHEDULER_IMPORT.setdefault("mixopt", lambda: __getattr__("MixOptScheduler"))


if "ray.tune" in sys.modules:
    _register()
