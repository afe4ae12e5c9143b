"""Multi-fidelity, multi-scale Bayesian optimisation of pre-training data mixtures, as a Ray Tune plug-in.

The public names are here, each loaded when it is first used. ``MixOptSearcher``, ``MixOptScheduler`` and ``restore``
load Ray, and nothing else does.
"""

from __future__ import annotations

import importlib
import sys

TYPE_CHECKING = False  # as type checkers know it; typing takes a while to load, in which the command hears no Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from ray_mixopt import simulators as simulators
    from ray_mixopt.core.forecast import Forecast as Forecast
    from ray_mixopt.core.merging import DomainMap as DomainMap
    from ray_mixopt.core.objective import Guardrail as Guardrail
    from ray_mixopt.core.objective import Objective as Objective
    from ray_mixopt.core.phases import Phase as Phase
    from ray_mixopt.core.problem import Problem as Problem
    from ray_mixopt.core.recommendation import Recommendation as Recommendation
    from ray_mixopt.core.scale import Scale as Scale
    from ray_mixopt.core.simplex import Group as Group
    from ray_mixopt.core.space import MixtureSpace as MixtureSpace
    from ray_mixopt.core.strategy import Callback as Callback
    from ray_mixopt.core.strategy import Proposal as Proposal
    from ray_mixopt.core.strategy import Strategy as Strategy
    from ray_mixopt.core.strategy import Suggestion as Suggestion
    from ray_mixopt.optimizer import MixtureOptimizer as MixtureOptimizer
    from ray_mixopt.tune.restore import restore as restore
    from ray_mixopt.tune.scheduler import MixOptScheduler as MixOptScheduler
    from ray_mixopt.tune.searcher import MixOptSearcher as MixOptSearcher

_WHERE = {
    "Callback": "core.strategy",
    "DomainMap": "core.merging",
    "Forecast": "core.forecast",
    "Group": "core.simplex",
    "Guardrail": "core.objective",
    "MixOptScheduler": "tune.scheduler",
    "MixOptSearcher": "tune.searcher",
    "MixtureOptimizer": "optimizer",
    "MixtureSpace": "core.space",
    "Objective": "core.objective",
    "Phase": "core.phases",
    "Problem": "core.problem",
    "Proposal": "core.strategy",
    "Recommendation": "core.recommendation",
    "Scale": "core.scale",
    "Strategy": "core.strategy",
    "Suggestion": "core.strategy",
    "restore": "tune.restore",
}

__all__ = [*_WHERE, "simulators"]


if not TYPE_CHECKING:  # else a name that there is not would pass

    def __getattr__(name: str) -> Any:
        if name == "simulators":
            return importlib.import_module(f"{__name__}.simulators")
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    """Makes "mixopt" a name of Tune's, if Tune is loaded; else importing the searcher and the scheduler does."""
    from ray.tune.schedulers import SCHEDULER_IMPORT
    from ray.tune.search import SEARCH_ALG_IMPORT

    SEARCH_ALG_IMPORT.setdefault("mixopt", lambda: sys.modules[__name__].MixOptSearcher)
    SCHEDULER_IMPORT.setdefault("mixopt", lambda: sys.modules[__name__].MixOptScheduler)


if "ray.tune" in sys.modules:
    _register()
