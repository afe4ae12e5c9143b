"""What is not a matter of course: each line of docs/failures.md in a real Ray Tune, unless another file has it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from curve import Curve, curve_tuner, load
from ladder import LadderStrategy, observations
from ray import tune
from ray.tune.experiment import Trial

import ray_mixopt
from ray_mixopt import MixOptSearcher
from ray_mixopt.core.history import History
from ray_mixopt.io import searches
from ray_mixopt.testing import check_history
from ray_mixopt.tune.session import listening

MakeTuner = Callable[..., tune.Tuner]
BUDGET = 120


@pytest.fixture
def searcher() -> Iterator[MixOptSearcher]:
    """A search whose history is consistent in the end, whatever happened."""
    made = MixOptSearcher(strategy=LadderStrategy, budget=BUDGET, seed=1)
    yield made
    check_history(made.optimizer.history, budget=BUDGET)


def by_status(history: History, status: str) -> list[str]:
    return [run.trial_id for run in history if run.status == status]


class Once(Curve):
    """Something happens once, in the first trial that gets to step 10, or 0."""

    mark: Path
    at = 0

    def step(self) -> dict[str, Any]:
        if self.reached == self.at and not self.mark.exists():
            self.mark.touch()
            self.happens()
        return super().step()

    def happens(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("at", [0, 10])
def test_a_killed_process_is_not_held_against_the_run(
    make_tuner: MakeTuner, searcher: MixOptSearcher, tmp_path: Path, at: int
) -> None:
    """As by the kernel when memory runs out, or when a node is taken away."""
    killed = type("Killed", (Once,), {"mark": tmp_path / "killed", "at": at})
    results = make_tuner(searcher, None, killed, num_samples=-1).fit()
    history = searcher.optimizer.history
    (lost,) = by_status(history, "lost")
    assert len(results.errors) == 1 and history[lost].reached == at
    again = [run for run in history if run.mixture == history[lost].mixture and run.trial_id != lost]
    assert len(again) == (1 if at == 0 else 0), "it is repeated if nothing came of it"
    assert all(run.status == "done" and run.reached >= 10 for run in again)


def test_a_killed_process_is_started_again_where_tune_may(
    make_tuner: MakeTuner, searcher: MixOptSearcher, tmp_path: Path
) -> None:
    killed = type("Killed", (Once,), {"mark": tmp_path / "killed", "at": 10})
    results = make_tuner(searcher, None, killed, num_samples=-1, max_failures=1).fit()
    assert not results.errors and (tmp_path / "killed").exists()
    assert not by_status(searcher.optimizer.history, "lost")


def test_an_exploding_metric_is_a_divergence(make_tuner: MakeTuner, searcher: MixOptSearcher) -> None:
    class Explodes(Curve):
        def loss(self) -> float:
            return 1e12 if self.share("web") > 0.5 and self.reached == 10 else super().loss()

    make_tuner(searcher, None, Explodes, num_samples=-1).fit()
    history = searcher.optimizer.history
    diverged = by_status(history, "diverged")
    assert diverged == [run.trial_id for run in history if run.mixture[0] > 0.5] != []
    assert all(
        history[name].observations == {10: {"web": pytest.approx(history[name].mixture[0])}} for name in diverged
    )
    assert searcher.recommend().mixture["web"] <= 0.5


class Slow(Curve):
    """In the middle of its second rung when time is up."""

    def step(self) -> dict[str, Any]:
        time.sleep(6.0 if self.reached >= 10 else 0.1)
        return super().step()


def test_out_of_time_leaves_runs_to_the_next_tuner(make_tuner: MakeTuner, searcher: MixOptSearcher) -> None:
    make_tuner(searcher, None, Slow, num_samples=-1, time_budget_s=6, max_concurrent_trials=2).fit()
    history = searcher.optimizer.history
    unfinished = by_status(history, "running") + by_status(history, "paused")
    assert unfinished and history.spent < BUDGET - 10
    before = observations(history)
    make_tuner(searcher, name="second", num_samples=-1).fit()
    assert observations(history)[: len(before)] == before and history.spent > BUDGET - 10
    assert set(by_status(history, "lost")) == set(unfinished)


def test_a_stopped_trial_is_over_with_what_it_showed(make_tuner: MakeTuner, searcher: MixOptSearcher) -> None:
    """RunConfig(stop=...) ends a trial without asking the scheduler."""
    make_tuner(searcher, num_samples=-1, stop={"step": 10}).fit()
    history = searcher.optimizer.history
    assert len(history) > 5 and all(run.status == "done" and list(run.observations) == [10] for run in history)


def test_fail_fast_ends_the_experiment_and_keeps_what_is_known(
    make_tuner: MakeTuner, searcher: MixOptSearcher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def happens(self: Once) -> None:
        raise RuntimeError("no such file")

    broken = type("Broken", (Once,), {"mark": tmp_path / "broken", "at": 10, "happens": happens})
    results = make_tuner(searcher, None, broken, num_samples=-1, fail_fast=True).fit()
    history = searcher.optimizer.history
    (failed,) = by_status(history, "failed")
    assert len(results.errors) == 1 and list(history[failed].observations) == [10] and history.spent < BUDGET - 10
    assert len(load(tmp_path / "run").optimizer.history.arrivals) > 0
    assert "do not report 'step'" not in caplog.text, "a trial that never reported has no step to report"


class Signal(tune.Callback):
    """Sends this process a signal after some reports, once."""

    def __init__(self, number: int, mark: Path) -> None:
        self.number, self.mark, self.left = number, mark, 5

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self.left -= 1
        if self.left == 0 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> History:
    """What the search of ``searcher`` leads to if nobody interrupts it."""
    searcher = MixOptSearcher(strategy=LadderStrategy, budget=BUDGET, seed=1)
    curve_tuner(tmp_path_factory.mktemp("whole"), searcher, num_samples=-1).fit()
    return searcher.optimizer.history


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=["SIGINT", "SIGUSR1"])
def test_a_signal_interrupts_and_restore_goes_on(
    make_tuner: MakeTuner, searcher: MixOptSearcher, whole: History, tmp_path: Path, number: int
) -> None:
    stop = Signal(number, tmp_path / "signalled")
    handler = signal.getsignal(number)
    with listening() as interrupted:
        tuner = make_tuner(searcher, num_samples=-1, callbacks=[stop])
        assert not interrupted()
        tuner.fit()
        assert interrupted(), "of which Tune's results say nothing where no run was going on"
    assert signal.getsignal(number) == handler, "the next one is not swallowed by what Tune leaves behind"
    interrupted = observations(searcher.optimizer.history)
    assert len(interrupted) < len(whole.arrivals)
    assert not ray_mixopt.restore(tmp_path / "run", Curve).fit().errors
    history = load(tmp_path / "run").optimizer.history
    assert observations(history) == observations(whole)
    check_history(history, budget=BUDGET)
    # The strategy is one's own, of which the files have only the name.
    with pytest.raises(ValueError, match="a strategy of its own, 'ladder:LadderStrategy'"):
        MixOptSearcher.load(tmp_path / "run")
    assert searches.load(tmp_path / "run", strategy="default").history.state_dict() == history.state_dict()
