"""The scheduler's conformance tests: ours passes, Tune's own do not pass all, so that they can fail."""

from __future__ import annotations

from typing import Any

import pytest
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

import ray_mixopt
from ray_mixopt import MixOptScheduler, MixOptSearcher
from ray_mixopt.testing import SchedulerConformance


class TestMixOptScheduler(SchedulerConformance):
    def make_scheduler(self) -> TrialScheduler:
        return MixOptScheduler()

    def make_searcher(self) -> Searcher:
        return MixOptSearcher(seed=2, strategy="random")

    def restore(self, folder: str, trainable: Any) -> tune.Tuner:
        return ray_mixopt.restore(folder, trainable)


class TestFIFOScheduler(SchedulerConformance):
    test_retried_trials = test_an_interrupted_experiment_goes_on = None  # type: ignore[assignment]  # Tune's own affair

    def make_scheduler(self) -> TrialScheduler:
        return FIFOScheduler()

    @pytest.mark.xfail(strict=True, raises=ValueError, reason="is instantiated with its metric once and for all")
    def test_it_serves_two_tuners_in_turn(self, tmp_path: Any) -> None:
        super().test_it_serves_two_tuners_in_turn(tmp_path)
