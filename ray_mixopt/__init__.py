"""Multi-fidelity, multi-scale Bayesian optimisation of pre-training data mixtures, as a Ray Tune plug-in.

The optimizer and the simulators do not import Ray; the adapters load it when they are first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_mixopt import simulators
    from ray_mixopt.core.recommendation import Forecast, Recommendation
    from ray_mixopt.core.space import MixtureSpace, Scale
    from ray_mixopt.optimizer import MixtureOptimizer
    from ray_mixopt.strategies import Suggestion
    from ray_mixopt.tune.restore import restore
    from ray_mixopt.tune.scheduler import MixOptScheduler
    from ray_mixopt.tune.searcher import MixOptSearcher

_WHERE = {
    "Forecast": "ray_mixopt.core.recommendation",
    "MixOptScheduler": "ray_mixopt.tune.scheduler",
    "MixOptSearcher": "ray_mixopt.tune.searcher",
    "MixtureOptimizer": "ray_mixopt.optimizer",
    "MixtureSpace": "ray_mixopt.core.space",
    "Recommendation": "ray_mixopt.core.recommendation",
    "Scale": "ray_mixopt.core.space",
    "Suggestion": "ray_mixopt.strategies",
    "restore": "ray_mixopt.tune.restore",
}

__all__ = [
    "Forecast",
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
