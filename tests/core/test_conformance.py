"""The conformance tests of ``ray_mixopt.testing``: our searcher passes, others do not, and each test can fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dice
import pytest
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from ray_mixopt import MixOptSearcher
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.testing import SearcherConformance, check_history, violations


class TestMixOptSearcher(SearcherConformance):
    def make_searcher(self) -> Searcher:
        return MixOptSearcher(seed=2)

    def param_space(self) -> dict[str, Any]:
        return super().param_space() | {"optimizer": {"lr": tune.loguniform(1e-4, 1e-1)}, "note": "kept"}


class TestOptunaSearch(SearcherConformance):
    def make_searcher(self) -> Searcher:
        return OptunaSearch(seed=3)

    @pytest.mark.xfail(strict=True, raises=KeyError, reason="looks up the metric of every result")
    def test_missing_values(self) -> None:
        super().test_missing_values()

    @pytest.mark.xfail(strict=True, raises=KeyError, reason="looks up every trial")
    def test_unknown_trials(self) -> None:
        super().test_unknown_trials()


class TestTuneBOHB(SearcherConformance):
    def make_searcher(self) -> Searcher:
        pytest.importorskip("hpbandster")
        from ray.tune.search.bohb import TuneBOHB

        return TuneBOHB(seed=1)

    @pytest.mark.xfail(strict=True, raises=KeyError, reason="looks up trials that it dropped when they ended")
    def test_late_and_repeated_reports(self) -> None:
        super().test_late_and_repeated_reports()

    @pytest.mark.xfail(strict=True, raises=KeyError, reason="looks up every trial")
    def test_unknown_trials(self) -> None:
        super().test_unknown_trials()


BROKEN: list[tuple[str, Callable[[], Searcher]]] = [
    ("test_suggestions_resolve_the_space", dice.LeavesOpen),
    ("test_the_same_seed_suggests_the_same", dice.Unseeded),
    ("test_suggestions_in_flight_are_distinct", dice.RepeatsItself),
    ("test_a_limiter_holds_back", dice.KnowsNoLimit),
    ("test_grid_search_is_refused", dice.IgnoresGrids),
    ("test_a_searcher_without_a_space_says_so", dice.SearchesNothing),
    ("test_invalid_values", dice.FearsNan),
    ("test_missing_values", dice.WantsMetrics),
    ("test_failed_trials", dice.WantsResults),
    ("test_late_and_repeated_reports", dice.CountsReports),
    ("test_unknown_trials", dice.CountsReports),
    ("test_it_can_be_pickled", dice.HoldsALock),
    ("test_saving_changes_nothing", dice.DrawsWhenSaved),
    ("test_a_restored_searcher_suggests_the_same", dice.Forgets),
    ("test_five_and_five_are_ten", dice.Forgets),
    ("test_a_fresh_process_suggests_the_same", dice.DependsOnTheProcess),
]


@pytest.mark.parametrize(("name", "broken"), BROKEN)
def test_each_test_can_fail(name: str, broken: Callable[[], Searcher], tmp_path: Path) -> None:
    good, bad = dice.TestDice(), getattr(dice, f"Test{broken.__name__}", dice.TestDice)()
    bad.make_searcher = broken
    arguments = [tmp_path] if "tmp_path" in getattr(good, name).__code__.co_varnames else []
    if name != "test_a_fresh_process_suggests_the_same":  # ours shows that it can pass
        getattr(good, name)(*arguments)
        arguments = [Path(tmp_path, "bad")] if arguments else []
        for folder in arguments:
            folder.mkdir()
    with pytest.raises((AssertionError, KeyError, TypeError, ValueError, OverflowError)):
        getattr(bad, name)(*arguments)


def test_none_is_left_out() -> None:
    tests = {name for name in dir(SearcherConformance) if name.startswith("test_")}
    assert tests == {name for name, _ in BROKEN}


# -- histories


@pytest.fixture
def history(space: MixtureSpace) -> History:
    """A paused and a running trial, and a run made earlier at a scale that is not trained any more."""
    made = History(replace(space, earlier_scales=(Scale("5M", 0.004, 5e6),)))
    made.add(Trial(trial_id="old", mixture=(0.5, 0.5, 0.0), scale="5M", steps=300, status="done", evaluated=True))
    made.observe("old", 300, {"loss": 2.0})
    made.add(Trial(trial_id="a", mixture=(0.5, 0.25, 0.25), scale="20M", steps=500))
    made.add(Trial(trial_id="b", mixture=(1.0, 0.0, 0.0), scale="1B", steps=500))
    made.n_asked = 2
    made.observe("a", 100, {"loss": 1.0})
    made.observe("a", 500, {"loss": 0.5})
    made["a"].status = "paused"
    return made


def _rename(history: History) -> None:
    history.trials["c"] = history.trials.pop("b")


def _set(name: str, **fields: Any) -> Callable[[History], None]:
    return lambda history: [setattr(history[name], field, value) for field, value in fields.items()] and None


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_rename, "filed under another name"),
        (_set("b", mixture=(0.5, 0.5)), "no mixture of 3 domains"),
        (_set("b", mixture=(0.5, 0.5, 0.5)), "shares that sum to 1.5"),
        (_set("b", scale="7B"), "unknown scale '7B'"),
        (_set("b", scale="5M"), "asked for at '5M', a scale of earlier runs"),
        (_set("b", steps=0), "asked to reach step 0"),
        (_set("b", status="paused"), "is paused without having reported"),
        (_set("b", status="diverged"), "is diverged without having reported"),
        (_set("a", acquisition="1.5"), "cannot be read back: The acquisition of trial .a. must be a number"),
        (_set("a", evaluated=True), "made elsewhere, but is paused here"),
        (lambda history: history.arrivals.pop(), "observed but did not arrive"),
        (lambda history: history.arrivals.append(("a", 100)), "arrived 2 times"),
        (lambda history: history["a"].observations.pop(100), "arrived but was not observed"),
        (lambda history: history["a"].observations.update({100: {"loss": math.nan}}), "not finite"),
        (lambda history: history["a"].observations.update({-5: {}}), "observation at step -5"),
        (lambda history: setattr(history, "n_asked", 1), "2 trials, but only 1 were asked for"),
    ],
)
def test_damaged_histories_are_told_from_good_ones(history: History, damage: Any, sentence: str) -> None:
    check_history(history, budget=505)
    damage(history)
    with pytest.raises(AssertionError, match=f"inconsistent:(.|\n)*{sentence}"):
        check_history(history)


def test_the_budget_binds_what_is_committed(history: History) -> None:
    assert history.committed == 505
    (sentence,) = violations(history, budget=504)
    assert "more than the budget, 504" in sentence
