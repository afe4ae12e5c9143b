"""Tests to subclass: what Ray Tune asks of a searcher or a scheduler, and what must hold of every history.

Needs pytest to run, and Ray; the scheduler's tests run small real experiments, in the Ray that is initialised.

    from ray_mixopt.testing import SearcherConformance

    class TestMySearcher(SearcherConformance):
        def make_searcher(self):
            return MySearcher(seed=1)
"""

from ray_mixopt.testing.history import check_history, violations
from ray_mixopt.testing.schedulers import SchedulerConformance
from ray_mixopt.testing.searchers import SearcherConformance

__all__ = ["SchedulerConformance", "SearcherConformance", "check_history", "violations"]
