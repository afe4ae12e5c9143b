"""Tests to subclass: what Ray Tune asks of a searcher or a scheduler, and what must hold of every history.

Needs pytest to run, and Ray; the scheduler's tests run small real experiments, in the Ray that is initialised.

    from ray_mixopt.testing import SearcherConformance

    class TestMySearcher(SearcherConformance):
        def make_searcher(self):
            return MySearcher(seed=1)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ray_mixopt.testing.history import check_history, violations

if TYPE_CHECKING:
    from ray_mixopt.testing.schedulers import SchedulerConformance
    from ray_mixopt.testing.searchers import SearcherConformance

__all__ = ["SchedulerConformance", "SearcherConformance", "check_history", "violations"]

_WHERE = {"SchedulerConformance": "schedulers", "SearcherConformance": "searchers"}


def __getattr__(name: str) -> Any:
    # Histories can be checked without Ray.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
