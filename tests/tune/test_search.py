"""Searches in a real Ray Tune: pausing and continuing, budgets, concurrency, other searchers and schedulers."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from curve import Curve, Watch
from ladder import LadderStrategy, observations
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Repeater
from ray.tune.search.optuna import OptunaSearch

import ray_mixopt.tune.trials
from ray_mixopt import MixOptScheduler, MixOptSearcher, MixtureSpace, simulators

MakeTuner = Callable[..., tune.Tuner]


def over(searcher: MixOptSearcher) -> bool:
    """Whether no run is left on its way or paused."""
    return all(run.status not in ("running", "paused") for run in searcher.optimizer.history)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_search_pauses_continues_and_ends_at_its_budget(
    make_tuner: MakeTuner, space: MixtureSpace, concurrency: int
) -> None:
    searcher, watch = MixOptSearcher(strategy=LadderStrategy, budget=400), Watch()
    results = make_tuner(searcher, watch=watch, num_samples=-1, max_concurrent_trials=concurrency).fit()
    history = searcher.optimizer.history
    assert not results.errors and all(result.metrics["step"] <= 40 for result in results)
    assert watch.most_running <= watch.most_busy == concurrency and watch.most_paused >= 2
    assert over(searcher)
    assert 400 - 10 < history.spent <= 400, "the cheapest run costs 10"
    assert history.spent == sum(space.cost(run.scale, run.reached) for run in history)
    assert any(run.steps > 10 for run in history), "none was continued"
    assert all(sorted(run.observations) == list(range(10, run.reached + 1, 10)) for run in history)
    assert len(watch.reports) == len(history.arrivals) and history.n_duplicates == 0
    assert [(name, step) for name, step, _ in watch.reports] == history.arrivals


def test_a_scale_is_trained_to_its_own_rungs(make_tuner: MakeTuner, space: MixtureSpace) -> None:
    small, large = (
        replace(scale, steps=steps) for scale, steps in zip(space.scales, ((10, 20), (20, 40)), strict=True)
    )
    own = MixtureSpace(domains=space.domains, scales=(small, large))
    searcher = MixOptSearcher(strategy=LadderStrategy, budget=600)
    results = make_tuner(searcher, num_samples=-1, param_space=own.param_space()).fit()
    runs = list(searcher.optimizer.history)
    assert not results.errors and over(searcher)
    for scale, last in (("20M", 20), ("60M", 40)):
        reached = {run.reached for run in runs if run.scale == scale}
        assert reached <= set(own.rungs(scale)) and max(reached) == last
    assert all(sorted(run.observations) == list(range(10, run.reached + 1, 10)) for run in runs)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_num_samples_counts_new_trials(make_tuner: MakeTuner, concurrency: int) -> None:
    searcher, watch = MixOptSearcher(strategy=LadderStrategy), Watch()
    results = make_tuner(searcher, watch=watch, num_samples=7, max_concurrent_trials=concurrency).fit()
    assert len(results) == len(searcher.optimizer.history) == 7
    assert watch.most_paused >= 2 and over(searcher)
    assert searcher.optimizer.history.n_asked > 7, "continuations are asked for, too"


def test_points_to_evaluate_are_run_first(make_tuner: MakeTuner, space: MixtureSpace) -> None:
    mixture = space.named(space.corners()[0])
    points = [{"mixture": mixture, "scale": scale, "steps": 20} for scale in space.scale_names]
    searcher = MixOptSearcher(strategy=LadderStrategy, budget=400, points_to_evaluate=points)
    results = make_tuner(searcher, num_samples=-1, param_space=space.param_space() | {"lr": tune.uniform(0, 1)}).fit()
    runs = list(searcher.optimizer.history)
    assert not results.errors and len(runs) > 4
    assert all(space.named(run.mixture) == mixture for run in runs[:2])
    assert [run.scale for run in runs[:2]] == list(space.scale_names)
    assert all(10 in run.observations and run.reached >= 20 for run in runs[:2])
    assert mixture not in [space.named(run.mixture) for run in runs[2:]]
    assert len({result.config["lr"] for result in results}) == len(runs)


def test_the_default_strategy_searches_the_simulator(make_tuner: MakeTuner) -> None:
    simulator = simulators.load("slimpajama", steps=(2000, 6000, 19700))
    searcher = MixOptSearcher(budget=30)
    trainable = tune.with_parameters(simulators.SimulatorTrainable, simulator=simulator)
    make_tuner(searcher, None, trainable, param_space=simulator.space.param_space(), num_samples=8).fit()
    history = searcher.optimizer.history
    assert len(history) <= 8 and history.spent <= 30 and over(searcher)
    assert sum(searcher.recommend().mixture.values()) == pytest.approx(1)


def test_the_same_seed_gives_the_same_search(make_tuner: MakeTuner) -> None:
    seen = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        searcher = MixOptSearcher(strategy=LadderStrategy, budget=150, seed=seed)
        make_tuner(searcher, name=name, num_samples=-1).fit()
        seen.append(observations(searcher.optimizer.history))
    assert seen[0] == seen[1] != seen[2]


def test_one_searcher_serves_two_tuners_in_turn(make_tuner: MakeTuner) -> None:
    searcher, scheduler = MixOptSearcher(strategy=LadderStrategy), MixOptScheduler()
    make_tuner(searcher, scheduler, name="first", num_samples=3).fit()
    make_tuner(searcher, scheduler, name="second", num_samples=3).fit()
    assert len(searcher.optimizer.history) == 6 and over(searcher)


def test_two_tuners_with_a_searcher_each(make_tuner: MakeTuner) -> None:
    one, two = (
        MixOptSearcher(strategy=LadderStrategy, budget=40),
        MixOptSearcher(strategy=LadderStrategy, budget=80, seed=1),
    )
    first, second = (make_tuner(s, name=f"tuner{i}", num_samples=-1) for i, s in enumerate((one, two)))
    first.fit()
    second.fit()
    assert one.optimizer.history.spent <= 40 < two.optimizer.history.spent <= 80
    assert not set(one.optimizer.history.trials) & set(two.optimizer.history.trials)


def test_a_diverged_run_is_stopped_at_once(make_tuner: MakeTuner) -> None:
    class Diverges(Curve):
        def loss(self) -> float:
            return math.nan if self.share("web") > 0.5 else super().loss()

    searcher, watch = MixOptSearcher(strategy=LadderStrategy, budget=400), Watch()
    make_tuner(searcher, None, Diverges, watch=watch, num_samples=-1).fit()
    history = searcher.optimizer.history
    diverged = [run for run in history if run.mixture[0] > 0.5]
    assert diverged and all(run.status == "diverged" and list(run.observations) == [10] for run in diverged)
    assert all(run.status == "done" for run in history if run.mixture[0] <= 0.5)
    assert all(math.isfinite(loss) or step == 10 for _, step, loss in watch.reports)


def test_a_failed_run_is_kept_with_what_it_showed(make_tuner: MakeTuner) -> None:
    class Fails(Curve):
        def step(self) -> dict[str, Any]:
            if self.reached == 10 and self.settings["scale"] == "60M":
                raise RuntimeError("out of memory")
            return super().step()

    searcher = MixOptSearcher(strategy=LadderStrategy, budget=150)
    results = make_tuner(searcher, None, Fails, num_samples=-1).fit()
    failed = [run for run in searcher.optimizer.history if run.status == "failed"]
    assert failed and len(results.errors) == len(failed)
    assert all(list(run.observations) == [10] and run.scale == "60M" for run in failed)
    assert over(searcher)


def test_a_broken_trainable_ends_the_search(make_tuner: MakeTuner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_mixopt.tune.trials, "MAX_FAILURES", 3)

    class Broken(Curve):
        def step(self) -> dict[str, Any]:
            raise RuntimeError("no such file")

    searcher = MixOptSearcher(strategy=LadderStrategy, budget=400)
    with pytest.raises(RuntimeError, match="3 trials in a row failed before their first report"):
        make_tuner(searcher, None, Broken, num_samples=-1, max_concurrent_trials=2).fit()
    assert searcher.optimizer.history.spent == 0


def test_a_retried_run_is_seen_once(make_tuner: MakeTuner, tmp_path: Any) -> None:
    class FailsOnce(Curve):
        def step(self) -> dict[str, Any]:
            mark = tmp_path / f"failed-{self.trial_id}"
            if self.reached == 10 and not mark.exists():
                mark.touch()
                raise RuntimeError("node lost")
            return super().step()

    searcher = MixOptSearcher(strategy=LadderStrategy, budget=60)
    results = make_tuner(searcher, None, FailsOnce, num_samples=-1, max_failures=2).fit()
    history = searcher.optimizer.history
    assert not results.errors and list(tmp_path.glob("failed-*"))
    assert over(searcher) and not any(run.status == "failed" for run in history)
    assert len(set(history.arrivals)) == len(history.arrivals)


def test_a_missing_metric_ends_the_run_with_its_name(make_tuner: MakeTuner) -> None:
    tuner = make_tuner(MixOptSearcher(strategy="random"), num_samples=1, metric="perplexity")
    with pytest.raises(tune.TuneError, match="perplexity"):
        tuner.fit()


def test_missing_metrics_are_unknown_where_tune_is_lenient(
    make_tuner: MakeTuner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    searcher = MixOptSearcher(strategy=LadderStrategy, budget=100)
    make_tuner(searcher, num_samples=-1, metric="perplexity").fit()
    history = searcher.optimizer.history
    assert history.n_missing == len(history.arrivals) > 0 and history.spent > 0
    assert "reported no number for perplexity" in caplog.text


def test_several_metrics_make_the_objective(make_tuner: MakeTuner) -> None:
    searcher = MixOptSearcher(strategy=LadderStrategy, objective={"loss": 1.0, "web": -0.1}, budget=100)
    make_tuner(searcher, num_samples=-1, metric=None).fit()
    for run in searcher.optimizer.history:
        for metrics in run.observations.values():
            assert set(metrics) == {"loss", "web"} and metrics["web"] == pytest.approx(run.mixture[0])


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"lr": tune.grid_search([0.1, 0.2])}, {}, "grid_search is not supported .*lr"),
        ({}, {"metric": None}, "metric"),
        ({"mixture": {"web": 0.5, "code": 0.5}}, {}, "must be a dict of at least two domains"),
    ],
)
def test_what_cannot_be_searched_is_said(
    make_tuner: MakeTuner, space: MixtureSpace, change: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    param_space = space.param_space() | change
    if "mixture" in change:
        param_space |= {"scale": "20M", "steps": 10}
    tuner = make_tuner(MixOptSearcher(strategy="random"), param_space=param_space, num_samples=1, **settings)
    with pytest.raises((ValueError, RuntimeError), match=message):
        tuner.fit()


def test_without_a_param_space_the_searcher_must_know_all(make_tuner: MakeTuner, space: MixtureSpace) -> None:
    with pytest.raises(RuntimeError, match="param_space"):
        make_tuner(MixOptSearcher(strategy="random"), param_space={}, num_samples=1).fit()
    searcher = MixOptSearcher(space, metric="loss", mode="min", strategy="random")
    make_tuner(searcher, param_space={}, num_samples=2, name="known").fit()
    assert len(searcher.optimizer.history.arrivals) == 8


def test_a_hand_written_space_and_further_parameters(make_tuner: MakeTuner) -> None:
    class Renamed(Curve):
        def reset_config(self, new_config: dict[str, Any]) -> bool:
            assert isinstance(new_config["optimizer"]["lr"], float) and new_config["note"] == ["kept", 1]
            names = {"weights": "mixture", "model": "scale", "rung": "steps"}
            return super().reset_config({names.get(key, key): value for key, value in new_config.items()})

    param_space = {
        "weights": {"web": tune.uniform(0, 1), "code": tune.uniform(0, 1)},
        "model": tune.choice(["20M", "60M"]),
        "rung": tune.choice([10, 20, 40]),
        "optimizer": {"lr": tune.loguniform(1e-4, 1e-2)},
        "note": ["kept", 1],
    }
    keys = {"scale_key": "model", "steps_key": "rung", "cost_per_step": {"20M": 1.0, "60M": 2.0}}
    searcher = MixOptSearcher(strategy=LadderStrategy, budget=300, **keys)
    results = make_tuner(searcher, None, Renamed, param_space=param_space, num_samples=-1).fit()
    assert not results.errors and any(run.reached > 10 for run in searcher.optimizer.history)
    rates = [result.config["optimizer"]["lr"] for result in results]
    assert len(set(rates)) == len(rates) and all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert all(result.config["note"] == ["kept", 1] for result in results)


def test_a_trainable_that_goes_on_by_itself_is_held(make_tuner: MakeTuner) -> None:
    class NeverDone(Curve):
        def step(self) -> dict[str, Any]:
            return super().step() | {"done": False}

    searcher = MixOptSearcher(strategy=LadderStrategy, budget=200)
    make_tuner(searcher, None, NeverDone, num_samples=-1).fit()
    assert all(run.reached == run.steps for run in searcher.optimizer.history)


def test_function_trainables_pause_and_continue(make_tuner: MakeTuner) -> None:
    def train(config: dict[str, Any]) -> None:
        curve = Curve.__new__(Curve)
        curve.reset_config(config)
        if checkpoint := tune.get_checkpoint():
            with checkpoint.as_directory() as folder:
                curve.load_checkpoint(folder)
        while True:
            report = curve.step()
            with tempfile.TemporaryDirectory() as folder:
                curve.save_checkpoint(folder)
                tune.report(report, checkpoint=tune.Checkpoint.from_directory(folder))
            if report.pop("done"):
                return

    searcher = MixOptSearcher(strategy=LadderStrategy, budget=70)
    results = make_tuner(searcher, None, train, num_samples=-1, reuse_actors=False).fit()
    history = searcher.optimizer.history
    assert not results.errors and over(searcher) and any(run.reached > 10 for run in history)
    assert history.n_duplicates == 0


# -- apart: other schedulers, other searchers


@pytest.mark.parametrize(
    "scheduler", [FIFOScheduler, lambda: ASHAScheduler(time_attr="step", max_t=40, grace_period=10)]
)
def test_the_searcher_under_other_schedulers(make_tuner: MakeTuner, scheduler: Any) -> None:
    searcher, watch = MixOptSearcher(strategy=LadderStrategy, budget=120), Watch()
    results = make_tuner(searcher, scheduler(), watch=watch, num_samples=-1, max_concurrent_trials=2).fit()
    history = searcher.optimizer.history
    assert watch.most_paused == 0 and watch.most_busy <= 2
    assert all(run.status == "done" and run.reached == run.steps == 10 for run in history)
    assert 110 < history.spent <= 120 and len(results) == len(history)


@pytest.mark.parametrize(
    "foreign",
    [
        lambda: BasicVariantGenerator(random_state=1, max_concurrent=2),
        lambda: ConcurrencyLimiter(OptunaSearch(seed=1), 2),
    ],
    ids=["random", "optuna"],
)
def test_the_scheduler_stops_other_searchers_trials_at_their_steps(make_tuner: MakeTuner, foreign: Any) -> None:
    class NeverDone(Curve):
        def step(self) -> dict[str, Any]:
            return super().step() | {"done": False}

    results = make_tuner(foreign(), None, NeverDone, num_samples=6, max_concurrent_trials=None).fit()
    assert len(results) == 6 and not results.errors
    assert all(result.metrics["step"] == result.config["steps"] for result in results)


def test_the_scheduler_stops_diverged_trials_of_other_searchers(make_tuner: MakeTuner) -> None:
    class Diverges(Curve):
        def loss(self) -> float:
            return math.inf

    generator = BasicVariantGenerator(random_state=1, max_concurrent=2)
    results = make_tuner(generator, None, Diverges, num_samples=4, max_concurrent_trials=None).fit()
    assert [result.metrics["step"] for result in results] == [10] * 4


def test_repeater_is_refused(make_tuner: MakeTuner) -> None:
    tuner = make_tuner(Repeater(MixOptSearcher(strategy="random"), repeat=2), num_samples=2, max_concurrent_trials=None)
    with pytest.raises(ValueError, match="Repeater"):
        tuner.fit()


def test_the_registered_names(make_tuner: MakeTuner, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(tune.create_searcher("mixopt", seed=3, strategy="random"), MixOptSearcher)
    assert isinstance(tune.create_scheduler("mixopt"), MixOptScheduler)
    results = make_tuner("mixopt", "mixopt", num_samples=1).fit()
    assert len(results) == 1 and not results.errors


@pytest.mark.parametrize(
    "first",
    [
        "from ray import tune; import ray_mixopt",
        "import ray_mixopt.tune.searcher, ray_mixopt.tune.scheduler; from ray import tune",
    ],
)
def test_the_names_are_known_after_an_import(first: str) -> None:
    code = (
        f"{first}; print(type(tune.create_searcher('mixopt')).__name__, type(tune.create_scheduler('mixopt')).__name__)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.stdout.split() == ["MixOptSearcher", "MixOptScheduler"], child.stderr


class StopAll(tune.Stopper):
    """Ends the experiment after some reports, as a time budget would: Tune then tells nobody."""

    def __init__(self, reports: int) -> None:
        self.left = reports

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.left -= 1
        return False

    def stop_all(self) -> bool:
        return self.left <= 0


def test_runs_that_tune_ended_unheard_are_lost_to_the_next_tuner(make_tuner: MakeTuner) -> None:
    searcher = MixOptSearcher(strategy=LadderStrategy)
    make_tuner(searcher, num_samples=-1, stop=StopAll(7), max_concurrent_trials=2).fit()
    history = searcher.optimizer.history
    assert len(history.arrivals) >= 7 and not over(searcher)
    unfinished = [run for run in history if run.status in ("running", "paused")]
    make_tuner(searcher, name="second", num_samples=3).fit()
    assert over(searcher)
    assert all(run.status == "lost" for run in unfinished)
