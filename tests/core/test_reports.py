"""What a report says of how far a run is, and what becomes of runs whose reports do not say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ray_mixopt import MixOptSearcher, MixtureSpace, Scale
from ray_mixopt.core.history import Trial
from ray_mixopt.tune.reports import MAX_IDLE, Reports

SPACE = MixtureSpace(domains=("a", "b"), scales=(Scale("S", 1.0),), steps=(100, 300, 1000))
NONE: dict[str, Any] = {"loss": 1.0}


def run_to(steps: int) -> Trial:
    return Trial(trial_id="t", mixture=(0.5, 0.5), scale="S", steps=steps)


def astray_after(run: Trial, steps: list[Any]) -> int | None:
    """The report, counted from 1, after which a run is ended; None if none is. Each is heard of twice, as in Tune."""
    reports = Reports()
    for number, step in enumerate(steps, start=1):
        result = NONE | {"training_iteration": number} | ({} if step is ... else {"step": step})
        reports.count(run, result)
        reports.count(run, result)
        if reports.astray(run, SPACE.steps):
            return number
    return None


@pytest.mark.parametrize("step", [None, "end", ..., math.nan, math.inf, -5, [100], True, 1e300, "9" * 400])
@pytest.mark.parametrize(("steps", "rungs"), [(100, 1), (1000, 3), (500, 2)])
def test_a_run_that_does_not_say_how_far_it_is_ends_after_as_many_reports_as_rungs(
    step: Any, steps: int, rungs: int
) -> None:
    assert astray_after(run_to(steps), [step] * 9) == rungs


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        ([0, 100, 300, 1000], None),  # an evaluation before training
        ([None, 100, None, 300, None, 1000], None),
        ([0, 0, 0, 0], 4),
        ([99] * 9, MAX_IDLE + 1),
        ([100, 200, 50, 100, 50], 5),  # counted anew in every epoch
        ([100, 100, 300, 300, 1000], None),  # two reports a rung
        (["100", 299.9999999, 1000.0], None),
    ],
)
def test_only_reports_that_lead_nowhere_end_a_run(steps: list[Any], end: int | None) -> None:
    assert astray_after(run_to(1000), steps) == end


def test_a_run_that_starts_again_repeats_itself_and_is_left_alone() -> None:
    reports, run = Reports(), run_to(1000)
    for iteration, step in [(1, 100), (2, 300), (1, 100), (2, 300), (1, 100), (2, 300), (3, 1000)]:
        reports.count(run, NONE | {"training_iteration": iteration, "step": step})
        assert not reports.astray(run, SPACE.steps)


@pytest.fixture
def searcher() -> MixOptSearcher:
    made = MixOptSearcher(strategy="random")
    made.set_search_properties("loss", "min", SPACE.param_space())
    made.suggest("t")  # to 1000 steps
    return made


@pytest.mark.parametrize(
    ("reports", "reached", "metrics"),
    [
        ([{"step": None}], 100, {}),
        ([{"step": None}] * 3, 1000, {}),
        ([{}] * 7, 1000, {}),
        ([{"global_step": 100}, {"global_step": 300}], 300, {}),
        ([{"step": "300"}], 300, {"loss": 1.0}),
        ([{"step": None}, {"step": 300}], 300, {"loss": 1.0}),
    ],
)
def test_what_was_trained_is_billed(
    searcher: MixOptSearcher,
    reports: list[dict[str, Any]],
    reached: int,
    metrics: dict[str, float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    searcher.roster.pausing = True
    for number, report in enumerate(reports, start=1):
        searcher.on_trial_result("t", NONE | report | {"training_iteration": number})
    searcher.on_trial_complete("t", NONE | reports[-1] | {"training_iteration": len(reports)})
    history = searcher.optimizer.history
    assert history.spent == history["t"].reached == reached and history["t"].observations[reached] == metrics
    assert len([record for record in caplog.records if "step" in record.getMessage()]) == 1, "one clear warning"
    assert ("does not report how far it is" in caplog.text) == (reports[0] != {"step": "300"})


def test_a_divergence_is_one_at_whatever_step(searcher: MixOptSearcher) -> None:
    searcher.on_trial_complete("t", {"loss": math.nan, "step": None, "training_iteration": 1})
    run = searcher.optimizer.history["t"]
    assert run.status == "diverged" and run.reached == 100


def test_without_a_scheduler_that_stops_it_a_run_that_trains_on_ends_the_search(searcher: MixOptSearcher) -> None:
    searcher.on_trial_result("t", NONE | {"step": 1000, "training_iteration": 1})
    searcher.on_trial_result("t", NONE | {"step": 1000, "training_iteration": 2})
    with pytest.raises(RuntimeError, match="asked for 1000 steps and trains on after that.*MixOptScheduler"):
        searcher.on_trial_result("t", NONE | {"step": 2000, "training_iteration": 3})
    assert searcher.optimizer.history.spent == 2000


def test_without_a_scheduler_reports_without_a_step_end_the_search_too(searcher: MixOptSearcher) -> None:
    for number in (1, 2, 3):
        searcher.on_trial_result("t", NONE | {"training_iteration": number})
    with pytest.raises(RuntimeError, match="trains on after that"):
        searcher.on_trial_result("t", NONE | {"training_iteration": 4})
