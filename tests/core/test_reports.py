"""What a report says of how far a run is, and what becomes of runs whose reports do not say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.util.debug import reset_log_once

from ray_mixopt import MixOptSearcher, MixtureSpace, Scale
from ray_mixopt.core.history import Trial
from ray_mixopt.tune.reports import MAX_IDLE, Reports
from ray_mixopt.tune.scheduler import _is_over

SPACE = MixtureSpace(domains=("a", "b"), scales=(Scale("S", 1.0),), steps=(100, 300, 1000))
NONE: dict[str, Any] = {"loss": 1.0}


def run_to(steps: int) -> Trial:
    return Trial(trial_id="t", mixture=(0.5, 0.5), scale="S", steps=steps)


def astray_after(run: Trial, steps: Sequence[Any], rungs: tuple[int, ...] = SPACE.steps) -> int | None:
    """The report, counted from 1, after which a run is ended; None if none is. Each is heard of twice, as in Tune."""
    reports = Reports()
    for number, step in enumerate(steps, start=1):
        result = NONE | {"training_iteration": number} | ({} if step is ... else {"step": step})
        reports.count(run, result, rungs)
        reports.count(run, result, rungs)
        if reports.astray(run, rungs):
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


@pytest.mark.parametrize(
    ("steps", "rungs", "end"),
    [
        ([409_600], (100, 300, 1000), 1),  # tokens
        ([50, 10_001], (100, 300, 1000), 2),
        ([10_000], (100, 300, 1000), None),
        (range(1, 999), (50_000,), 50),  # epochs
        (range(1, 999), (30_000, 60_000), 100),
        (range(10, 20_001, 10), (20_000,), None),
        (range(1, 20_001), (20_000,), None),
        (range(100_010, 200_000, 10), (100_000, 200_000), None),
    ],
)
def test_steps_in_another_unit_end_a_run_and_frequent_reports_do_not(
    steps: Sequence[int], rungs: tuple[int, ...], end: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert astray_after(run_to(rungs[-1]), steps, rungs) == end
    assert caplog.text.count("Tokens, samples or epochs are none") == (end is not None)


def test_a_run_that_starts_again_repeats_itself_and_is_left_alone() -> None:
    reports, run = Reports(), run_to(1000)
    for iteration, step in [(1, 100), (2, 300), (1, 100), (2, 300), (1, 100), (2, 300), (3, 1000)]:
        reports.count(run, NONE | {"training_iteration": iteration, "step": step}, SPACE.steps)
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
        ([{"step": 10_001}], 1000, {}),
        ([{"step": 100}, {"step": 409_600}, {"step": 819_200}], 1000, {}),
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
    unread = "step" not in reports[0] or reports[0]["step"] is None
    assert ("does not report how far it is" in caplog.text) == unread


@pytest.mark.parametrize(
    ("steps", "stop", "undisturbed", "reached"),
    [
        ([1], {}, True, 1000),
        ([1, 2, 3], {}, True, 1000),
        (range(1, 52), {}, True, 51),  # each step reported, and ended early
        ([40], {}, True, 40),
        ([100], {}, True, 100),
        ([1, 2, 3], {"training_iteration": 3}, True, 3),
        ([1, 2, 3], {}, False, 3),  # by a scheduler that ends trials early
    ],
)
def test_a_run_that_ends_by_itself_after_a_few_epochs_is_billed_as_what_it_was_asked_for(
    searcher: MixOptSearcher,
    steps: Sequence[int],
    stop: dict[str, Any],
    undisturbed: bool,
    reached: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    searcher.roster.pausing, searcher.roster.undisturbed = True, undisturbed
    searcher.roster.confirm(tune.experiment.Trial("any", trial_id="t", stopping_criterion=stop, stub=True))
    for number, step in enumerate(steps[:-1], start=1):
        searcher.on_trial_result("t", NONE | {"step": step, "training_iteration": number})
    searcher.on_trial_complete("t", NONE | {"step": steps[-1], "training_iteration": len(steps)})
    history = searcher.optimizer.history
    assert history.spent == history["t"].reached == reached and history["t"].status == "done"
    assert history["t"].observations[steps[-1]] and not history["t"].observations.get(1000)
    assert ("ended by itself with step" in caplog.text) == (reached == 1000)


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


@pytest.mark.parametrize(("steps", "number"), [((20_000,), 1), ((100, 40_000), 2)])
def test_without_a_scheduler_steps_in_another_unit_end_the_search(
    searcher: MixOptSearcher, steps: tuple[int, ...], number: int
) -> None:
    for iteration, step in enumerate(steps[:-1], start=1):
        searcher.on_trial_result("t", NONE | {"step": step, "training_iteration": iteration})
    with pytest.raises(RuntimeError, match=f"asked for 1000 steps and reports step {steps[-1]} with.* number {number}"):
        searcher.on_trial_result("t", NONE | {"step": steps[-1], "training_iteration": number})
    assert searcher.optimizer.history["t"].reached == max((0, *steps[:-1]))


@pytest.mark.parametrize(
    ("steps", "word"), [([800], "all of them are paid for"), (range(1, 16), "report less often"), ([100], "")]
)
def test_steps_that_may_be_in_another_unit_are_asked_about(
    steps: Sequence[int], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Trial(trial_id="t", mixture=(0.5, 0.5), scale="S", steps=100)
    assert astray_after(run, steps) is None
    assert word in caplog.text and len(caplog.records) == bool(word)


def test_without_a_scheduler_reports_without_a_step_end_the_search_too(searcher: MixOptSearcher) -> None:
    for number in (1, 2, 3):
        searcher.on_trial_result("t", NONE | {"training_iteration": number})
    with pytest.raises(RuntimeError, match="trains on after that"):
        searcher.on_trial_result("t", NONE | {"training_iteration": 4})


@pytest.mark.parametrize(
    ("steps", "over", "warned"),
    [("100", True, 0), (100, True, 0), (np.int64(300), False, 0), (99.9, True, 0), (None, False, 1), ("all", False, 1)],
)
def test_trials_of_other_searchers_are_over_at_their_steps_where_these_are_a_number(
    steps: object, over: bool, warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    reset_log_once("mixopt_no_steps")
    trial = tune.experiment.Trial("any", config={"steps": steps}, stub=True)
    assert [_is_over(trial, 100, {"step": 100}) for _ in range(3)] == [over] * 3
    assert caplog.text.count(f"has config['steps'] = {steps!r}, so that") == warned == len(caplog.records)
