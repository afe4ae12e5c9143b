"""``MixOptSearcher`` without a Ray cluster: what test_conformance.py does not ask of every searcher."""

from __future__ import annotations

import json
import logging
import math
import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from ladder import observations
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import ConcurrencyLimiter, Searcher, SearchGenerator
from ray.tune.utils.mock_trainable import MOCK_TRAINABLE_NAME, register_mock_trainable

from ray_mixopt import MixOptSearcher, MixtureSpace
from ray_mixopt.core.settings import Settings
from ray_mixopt.core.strategy import Callback, Suggestion
from ray_mixopt.io import snapshots
from ray_mixopt.strategies.random import RandomStrategy
from ray_mixopt.tune.layout import Layout
from ray_mixopt.tune.param_space import Parameters
from ray_mixopt.tune.reports import metrics_of, training_step

Loss = Callable[[dict[str, float], str, int], float]


@pytest.fixture
def searcher(space: MixtureSpace) -> MixOptSearcher:
    made = MixOptSearcher(strategy="random", seed=5)
    assert made.set_search_properties("loss", "min", space.param_space())
    return made


def complete(searcher: Searcher, trial_id: str, config: dict[str, Any], loss: float) -> None:
    searcher.on_trial_complete(trial_id, {"step": config["steps"], "loss": loss, "training_iteration": 1})


def drive(searcher: Searcher, names: list[str], loss: Loss) -> list[dict[str, Any]]:
    """Suggests and completes trials one by one."""
    configs = []
    for name in names:
        configs.append(searcher.suggest(name))
        complete(searcher, name, configs[-1], loss(configs[-1]["mixture"], configs[-1]["scale"], configs[-1]["steps"]))
    return configs


# -- suggestions


def test_a_suggestion_resolves_every_domain(space: MixtureSpace) -> None:
    others = {"lr": tune.loguniform(1e-4, 1e-1), "model": {"depth": tune.randint(2, 9), "act": "gelu"}, "note": [1, 2]}
    searcher = MixOptSearcher(strategy="random")
    searcher.set_search_properties("loss", "min", space.param_space() | others)
    config = searcher.suggest("a")
    assert set(config) == {"mixture", "scale", "steps", "lr", "model"}, "constants are Tune's to keep"
    assert set(config["mixture"]) == set(space.domains)
    assert sum(config["mixture"].values()) == pytest.approx(1, abs=1e-12)
    assert config["scale"] in space.scale_names and config["steps"] in space.steps
    assert 1e-4 <= config["lr"] <= 1e-1 and config["model"]["depth"] in range(2, 9)
    json.dumps(config)


def test_constants_and_further_domains_reach_tunes_trials(space: MixtureSpace, tmp_path: Path) -> None:
    register_mock_trainable()
    config = space.param_space() | {"lr": tune.uniform(1, 2), "nested": {"list": [1, 2], "x": 3}, "pair": (1, "b")}
    generator = SearchGenerator(MixOptSearcher(strategy="random"))
    generator.set_search_properties("loss", "min", config)
    spec = {"run": MOCK_TRAINABLE_NAME, "config": config, "num_samples": 2, "storage_path": str(tmp_path)}
    generator.add_configurations({"t": spec})
    trial = generator.next_trial()
    assert isinstance(trial, Trial)
    assert trial.config["nested"] == {"list": [1, 2], "x": 3} and trial.config["pair"] == (1, "b")
    assert 1 <= trial.config["lr"] <= 2
    assert "wikipedia=" in trial.experiment_tag
    assert generator.next_trial() is not None and generator.next_trial() is None and generator.is_finished()


def test_a_hand_written_space_with_other_keys(loss: Loss) -> None:
    config = {
        "data": {"web": tune.uniform(0, 1), "code": tune.uniform(0, 1)},
        "size": tune.choice(["s", "l"]),
        "length": tune.choice([10, 20]),
    }
    searcher = MixOptSearcher(strategy="random", scale_key="size", steps_key="length", cost_per_step={"s": 1, "l": 3})
    searcher.set_search_properties("loss", "min", config)
    assert searcher.optimizer.space.domains == ("web", "code")
    suggestion = searcher.suggest("a")
    assert set(suggestion) == {"data", "size", "length"} and suggestion["size"] == "l" and suggestion["length"] == 20
    searcher.on_trial_complete("other", {"config/data/web": 3, "config/data/code": 1, "config/size": "s"})
    result = {"config/data/web": 3, "config/data/code": 1, "config/size": "s", "config/length": 10}
    searcher.on_trial_complete("other", result | {"step": 10, "loss": 2.0})
    assert searcher.optimizer.history["other"].mixture == (0.75, 0.25)


def test_the_limit_counts_live_trials(searcher: MixOptSearcher) -> None:
    assert searcher.set_max_concurrency(2)
    configs = {name: searcher.suggest(name) for name in ("a", "b", "c")}
    assert configs["c"] is None and configs["a"] != configs["b"]
    complete(searcher, "a", configs["a"], 1.0)
    assert searcher.suggest("d") is not None and searcher.suggest("e") is None


def test_the_limiter_passes_its_limit_on(space: MixtureSpace) -> None:
    limiter = ConcurrencyLimiter(MixOptSearcher(strategy="random"), max_concurrent=1)
    limiter.set_search_properties("loss", "min", space.param_space())
    config = limiter.suggest("a")
    assert limiter.suggest("b") is None
    limiter.on_trial_complete("a", {"step": config["steps"], "loss": 1.0})
    assert limiter.suggest("c") is not None


def test_the_search_is_finished_when_nothing_is_affordable(space: MixtureSpace) -> None:
    searcher = MixOptSearcher(strategy="random", budget=2.5 * space.target_cost)
    searcher.set_search_properties("loss", "min", space.param_space())
    configs = [searcher.suggest(name) for name in "ab"]
    assert searcher.suggest("c") is None, "a running trial may still fail and leave its money"
    complete(searcher, "a", configs[0], 1.0)
    assert searcher.suggest("d") is None
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("e") is not None
    searcher.on_trial_complete("e", error=True)
    complete(searcher, "f", searcher.suggest("f"), 1.0)
    assert searcher.suggest("g") == Searcher.FINISHED


def test_only_reports_and_ends_are_worth_asking_again(space: MixtureSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = MixOptSearcher(strategy="random", budget=1.5 * space.target_cost)
    searcher.set_search_properties("loss", "min", space.param_space())
    searcher.suggest("a")
    assert searcher.suggest("b") is None
    monkeypatch.setattr(searcher.optimizer, "ask", lambda trial_id: pytest.fail("asked without news"))
    assert searcher.suggest("c") is None


# -- results of all kinds


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_invalid_values_mark_a_run_as_diverged(searcher: MixOptSearcher, value: float) -> None:
    config = searcher.suggest("a")
    searcher.on_trial_result("a", {"step": 100, "loss": value})
    complete(searcher, "a", config, 1.0)
    assert searcher.optimizer.history["a"].status == "diverged"
    assert searcher.suggest("b") is not None
    assert searcher.recommend().diverged == 1


def test_late_repeated_and_unknown_results_do_no_harm(searcher: MixOptSearcher) -> None:
    config = searcher.suggest("a")
    searcher.on_trial_result("a", {"step": 100, "loss": 3.0})
    searcher.on_trial_result("a", {"step": 100, "loss": 3.0})
    complete(searcher, "a", config, 2.0)
    complete(searcher, "a", config, 2.0)
    searcher.on_trial_result("a", {"step": 200, "loss": 2.5})
    searcher.on_trial_complete("a")
    for result in ({"step": 1, "loss": 1.0}, {}):
        searcher.on_trial_result("nobody", result)
        searcher.on_trial_complete("nobody", result)
    searcher.on_trial_complete("nobody", None, error=True)
    history = searcher.optimizer.history
    assert [step for _, step in history.arrivals] == [100, config["steps"], 200]
    assert history.n_duplicates == 1 and list(history.trials) == ["a"]


def test_what_is_trained_again_is_counted_and_what_is_said_again_is_not(
    searcher: MixOptSearcher, space: MixtureSpace
) -> None:
    price = space.scale(searcher.suggest("a")["scale"]).cost_per_step
    history = searcher.optimizer.history
    for iteration, step in enumerate((100, 300, 300, 500), start=1):
        searcher.on_trial_result("a", {"step": step, "loss": 1.0, "iterations_since_restore": iteration})
    assert history.unkept == 0 and history.n_duplicates == 1
    for iteration, step in enumerate((300, 500, 700), start=1):  # another process, from the checkpoint at 100
        searcher.on_trial_result("a", {"step": step, "loss": 1.0, "iterations_since_restore": iteration})
    assert history.unkept == pytest.approx(400 * price) and history.spent == pytest.approx(700 * price)


def test_an_unknown_trial_is_adopted_from_its_result(searcher: MixOptSearcher, space: MixtureSpace) -> None:
    config = {f"config/mixture/{name}": 2.0 for name in space.domains} | {"config/scale": "20M", "config/steps": 300}
    searcher.on_trial_result("found", config | {"step": 100, "loss": 2.0})
    searcher.on_trial_complete("found", config | {"step": 300, "loss": 1.0})
    run = searcher.optimizer.history["found"]
    assert run.mixture == (1 / 3, 1 / 3, 1 / 3) and run.status == "done" and list(run.observations) == [100, 300]
    assert searcher.set_max_concurrency(1) and searcher.suggest("a") is not None


def test_an_unknown_trial_of_another_search_is_ignored(
    searcher: MixOptSearcher, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = {"config/mixture/math": 1.0, "config/scale": "20M", "config/steps": 300, "step": 100, "loss": 2.0}
    searcher.on_trial_result("foreign", foreign)
    searcher.on_trial_result("foreign", foreign | {"step": 200})
    assert len(searcher.optimizer.history) == 0
    assert caplog.text.count("Trial foreign is not of this search") == 1 and "math" in caplog.text


def test_missing_metrics_cost_and_are_counted(searcher: MixOptSearcher, caplog: pytest.LogCaptureFixture) -> None:
    searcher.suggest("a")
    searcher.on_trial_result("a", {"step": 100, "accuracy": 1.0})
    searcher.on_trial_result("a", {"step": 300, "loss": None})
    searcher.on_trial_result("a", {"step": 500, "loss": "low"})
    history = searcher.optimizer.history
    assert history.n_missing == 3 and history.spent == history.space.cost("1B", 500)
    assert caplog.text.count("reported no number for loss") == 1


def test_several_metrics_of_which_some_are_missing(space: MixtureSpace) -> None:
    searcher = MixOptSearcher(strategy="random", objective={"a": 1.0, "b": -0.5})
    searcher.set_search_properties(None, "max", space.param_space())
    searcher.suggest("t")
    searcher.on_trial_result("t", {"step": 100, "a": 1.0, "c": 7.0})
    searcher.on_trial_result("t", {"step": 300, "a": np.float32(0.5), "b": 2})
    assert searcher.optimizer.history["t"].observations == {100: {"a": 1.0, "c": 7.0}, 300: {"a": 0.5, "b": 2.0}}
    assert searcher.optimizer.problem.mode == "max"


def test_ten_failures_in_a_row_end_the_search(searcher: MixOptSearcher) -> None:
    for number in range(9):
        searcher.suggest(str(number))
        searcher.on_trial_complete(str(number), error=True)
    searcher.suggest("reports")
    searcher.on_trial_result("reports", {"step": 100, "loss": 1.0})
    searcher.on_trial_complete("reports", error=True)
    for number in range(10, 20):
        assert searcher.suggest(str(number)) is not None
        searcher.on_trial_complete(str(number), error=True)
    with pytest.raises(RuntimeError, match="10 trials in a row failed"):
        searcher.suggest("last")


@pytest.mark.parametrize(
    ("result", "step"),
    [
        ({"step": 5, "training_iteration": 1}, 5),
        ({"training_iteration": 3}, None),
        ({"step": "7"}, 7),
        ({"step": 99.999999999}, 100),
        ({"step": 99.6}, 99),
        ({"step": 0.7}, None),
        ({"step": True}, None),
        ({"step": np.int64(7)}, 7),
        ({"step": 2.0}, 2),
        ({"step": 0}, None),
        ({"step": math.nan}, None),
        ({"step": math.inf}, None),
        ({"step": None}, None),
        ({"step": "end"}, None),
        ({}, None),
    ],
)
def test_the_step_of_a_result(result: dict[str, Any], step: int | None) -> None:
    assert training_step(result) == step


def test_the_metrics_of_a_result() -> None:
    found = metrics_of({"a": 1, "b": np.float64(2), "c": "x", "d": None, "e": math.nan}, "abcdef")
    assert found.pop("e") != found and found == {"a": 1.0, "b": 2.0}


# -- state


def same_next_suggestion(one: MixOptSearcher, two: MixOptSearcher) -> bool:
    return one.suggest("next") == two.suggest("next")


def test_a_fresh_object_goes_on_from_a_file(searcher: MixOptSearcher, tmp_path: Path, loss: Loss) -> None:
    """As Tune restores: a searcher made without arguments, ``set_search_properties`` never called."""
    drive(searcher, ["1", "2"], loss)
    unfinished = searcher.suggest("not_completed")
    searcher.save(str(tmp_path / "state"))
    other = MixOptSearcher()
    other.restore(str(tmp_path / "state"))
    assert other.metric == "loss" and other.mode == "min"
    assert other.optimizer.history.state_dict() == searcher.optimizer.history.state_dict()
    assert other.optimizer.history["not_completed"].status == "running"
    other.set_max_concurrency(1)
    assert other.suggest("3") is None, "not_completed is still on its way"
    for each in (searcher, other):
        complete(each, "not_completed", unfinished, 1.5)
    assert same_next_suggestion(searcher, other)


def test_the_state_is_json_with_the_one_before_kept(searcher: MixOptSearcher, tmp_path: Path, loss: Loss) -> None:
    for number, session in enumerate(["2026-01-01", "2026-01-01", "2026-01-02"]):
        drive(searcher, [str(number)], loss)
        searcher.save_to_dir(str(tmp_path), session)
    names = ["previous-searcher-state-2026-01-01.json", "searcher-state-2026-01-01.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [*names, "searcher-state-2026-01-02.json"]
    kept = [json.loads((tmp_path / name).read_text())["history"]["n_asked"] for name in names]
    assert kept == [1, 2] and json.loads((tmp_path / names[0]).read_text())["version"] == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 99}', '{"version": 1}', "\x00\xff"])
def test_damaged_files_are_passed_over(
    searcher: MixOptSearcher, tmp_path: Path, loss: Loss, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number, session in enumerate(["2026-01-01", "2026-01-02", "2026-01-02"]):
        drive(searcher, [str(number)], loss)
        searcher.save_to_dir(str(tmp_path), session)
    sizes = []
    for name in ("searcher-state-2026-01-02.json", "previous-searcher-state-2026-01-02.json"):
        (tmp_path / name).write_text(damage, encoding="latin-1")
        other = MixOptSearcher()
        with caplog.at_level(logging.WARNING):
            other.restore_from_dir(str(tmp_path))
        sizes.append(len(other.optimizer.history))
        assert name in caplog.text and other.n_recoveries == len(sizes)
        assert other.suggest("next") is not None
    assert sizes == [2, 1]


def test_a_state_that_cannot_be_read_is_said_when_it_is_needed(tmp_path: Path, space: MixtureSpace) -> None:
    (tmp_path / "searcher-state-2026.json").write_text("{")
    searcher = MixOptSearcher(space, "loss", "min", strategy="random")
    searcher.restore_from_dir(str(tmp_path))  # raising here would make Tune start over
    with pytest.raises(RuntimeError, match="No readable searcher state at .*searcher-state-2026.json"):
        searcher.suggest("a")
    with pytest.raises(ValueError, match="there is none"):
        MixOptSearcher.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="No readable searcher state"):
        searcher.restore(str(tmp_path / "searcher-state-2026.json"))


def test_no_file_is_ever_half_written(tmp_path: Path) -> None:
    snapshots.write(tmp_path / "a.json", {"n": 1})
    with pytest.raises(TypeError):
        snapshots.write(tmp_path / "a.json", {"n": object()})
    assert json.loads((tmp_path / "a.json").read_text())["n"] == 1


def test_a_searcher_can_be_pickled_before_and_after_a_search(searcher: MixOptSearcher, loss: Loss) -> None:
    assert pickle.loads(pickle.dumps(MixOptSearcher())).metric is None
    drive(searcher, ["1", "2"], loss)
    assert same_next_suggestion(pickle.loads(pickle.dumps(searcher)), searcher)
    assert not hasattr(searcher, "searcher"), "Tune takes the attribute for a wrapped searcher"


def test_what_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(
        ValueError, match=r"strategy=<function .* cannot be pickled, as Tune needs it .*lock.*Leave out"
    ):
        cloudpickle.dumps(MixOptSearcher(strategy=lambda problem: RandomStrategy(problem) if lock else None))


def test_a_budget_that_buys_no_run_says_so(space: MixtureSpace) -> None:
    cheapest = "the cheapest, 20M x 100 steps, costs .*, and "
    for strategy, most, least in (
        ("random", 0.9 * space.target_cost, ""),
        ("default", 0.9 * space.cost("20M", 100), cheapest),
    ):
        searcher = MixOptSearcher(space, "loss", "min", strategy=strategy, budget=most)
        with pytest.raises(
            ValueError, match=f"A budget of .* buys no run of strategy '{strategy}': {least}one full run.* costs"
        ):
            searcher.suggest("a")
    spent = MixOptSearcher(space, "loss", "min", strategy="random", budget=1.1 * space.target_cost)
    complete(spent, "a", spent.suggest("a"), 1.0)
    assert spent.suggest("b") == Searcher.FINISHED


def test_runs_of_an_interrupted_search_are_lost_to_a_new_one(
    searcher: MixOptSearcher, space: MixtureSpace, tmp_path: Path
) -> None:
    searcher.set_max_concurrency(2)
    searcher.suggest("silent")
    searcher.suggest("seen")
    searcher.on_trial_result("seen", {"step": 100, "loss": 1.0})
    searcher.save_to_dir(str(tmp_path), "2026")
    other = MixOptSearcher.load(tmp_path)
    other.set_max_concurrency(2)
    other.set_search_properties("loss", "min", space.param_space())
    history = other.optimizer.history
    assert {run.trial_id: (run.status, list(run.observations)) for run in history} == {
        "silent": ("lost", []),
        "seen": ("lost", [100]),
    }
    for name in "ab":
        assert other.suggest(name) is not None
    assert other.suggest("c") is None
    assert history["a"].mixture == history["silent"].mixture, "it showed nothing: it is asked for again"
    assert len({run.mixture for run in history}) == 3


# -- other parameters


def test_parameters_survive_json_and_sample_the_same() -> None:
    space = {
        "a": tune.uniform(-1, 1),
        "b": {"c": tune.loguniform(1e-5, 1e-1), "d": tune.quniform(0, 1, 0.25)},
        "e": tune.qloguniform(1, 64, 1),
        "f": tune.randint(0, 10),
        "g": tune.lograndint(1, 1000),
        "h": tune.qrandint(0, 100, 10),
        "i": tune.choice(["x", 1, None, True, 0.5, ("__ref_ph", "ab12")]),
        "j": tune.randn(2.0, 0.1),
        "k": tune.qrandn(0.0, 1.0, 0.5),
        "constant": 1,
    }
    one = Parameters.of(space, without=["a"])
    two = Parameters.from_state(json.loads(json.dumps(one.state())))
    for seed in range(20):
        sample = one.sample(np.random.default_rng(seed))
        assert sample == two.sample(np.random.default_rng(seed))
        assert set(sample) == set(space) - {"a", "constant"}
        assert [type(value) for value in sample.values()] == [
            type(value) for value in two.sample(np.random.default_rng(seed)).values()
        ]
        assert sample["h"] % 10 == 0 and isinstance(sample["b"]["c"], float)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"x": tune.grid_search([1, 2])}, "grid_search is not supported by MixOptSearcher .found at x"),
        ({"x": [tune.uniform(0, 1)]}, "inside a list"),
        ({"x": tune.sample_from(lambda: 1)}, "cannot be kept in a JSON state"),
    ],
)
def test_parameters_that_cannot_be_sampled_here(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parameters.of(config, without=[])


# -- points from elsewhere


def point(space: MixtureSpace, steps: int | None = 500, **more: Any) -> dict[str, Any]:
    mixture = space.named(space.uniform())
    return {"mixture": mixture, "scale": "20M", "steps": steps} | more


def test_evaluated_points_wait_for_the_space(space: MixtureSpace, tmp_path: Path) -> None:
    searcher = MixOptSearcher(strategy="random")
    searcher.add_evaluated_point(point(space, lr=0.1), 2.0, intermediate_values=[4.0, 3.0])
    searcher.add_evaluated_point(point(space, steps=19700), 1.0, intermediate_values={6000: 1.5})
    searcher.add_evaluated_point(point(space), 9.0, error=True)
    searcher.add_evaluated_point(point(space), 9.0, pruned=True)
    searcher.add_evaluated_point(point(space), 9.0, pruned=True, intermediate_values={100: 5.0})
    searcher.save(str(tmp_path / "state"))
    other = MixOptSearcher()
    other.restore(str(tmp_path / "state"))
    for each in (searcher, other):
        each.set_search_properties("loss", "min", space.param_space())
        seen = [{step: metrics["loss"] for step, metrics in run.observations.items()} for run in each.optimizer.history]
        assert seen == [{100: 4.0, 300: 3.0, 500: 2.0}, {6000: 1.5, 19700: 1.0}, {100: 5.0}]
        assert each.optimizer.history.spent == 0 and each.recommend() is not None


def test_evaluated_points_by_metric(space: MixtureSpace) -> None:
    searcher = MixOptSearcher(space, mode="min", strategy="random", objective={"a": 1.0, "b": 1.0})
    searcher.add_evaluated_point(point(space), {"a": 1.0, "b": 2.0})
    assert searcher.optimizer.history["evaluated_00000"].observations == {500: {"a": 1.0, "b": 2.0}}
    with pytest.raises(ValueError, match="give an evaluated point's values by name"):
        searcher.add_evaluated_point(point(space), 1.0)


def test_trials_of_another_experiment(searcher: MixOptSearcher, space: MixtureSpace) -> None:
    register_mock_trainable()
    trial = Trial(MOCK_TRAINABLE_NAME, config=point(space), stub=True)
    trial.set_status(Trial.TERMINATED)
    trial.run_metadata.last_result = {"loss": 2.5, "done": True, "step": 500}
    searcher.add_evaluated_trials([trial], metric="loss")
    assert observations(searcher.optimizer.history)[0][2:] == (500, {"loss": 2.5})


@pytest.mark.parametrize(
    ("change", "intermediate", "message"),
    [
        ({"mixture": None}, None, "needs its mixture under 'mixture'"),
        ({"scale": None}, None, "must name its model scale"),
        ({"scale": "2B"}, None, "Unknown scale '2B'"),
        ({"mixture": {"book": 1.0}}, None, "missing"),
        ({}, [4.0, 3.0, 2.0, 1.0], "more entries than there are rungs up to 500"),
    ],
)
def test_points_that_do_not_fit(
    searcher: MixOptSearcher, space: MixtureSpace, change: dict[str, Any], intermediate: Any, message: str
) -> None:
    assert searcher.optimizer is not None
    parameters = {key: value for key, value in (point(space) | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        searcher.add_evaluated_point(parameters, 1.0, intermediate_values=intermediate)


# -- runs to make first


def test_points_to_evaluate_come_first(space: MixtureSpace, tmp_path: Path) -> None:
    mixtures = [space.named(corner) for corner in space.corners()]
    points = [{"data": mixture, "scale": "20M", "steps": 500} for mixture in mixtures]
    searcher = MixOptSearcher(strategy="random", points_to_evaluate=points, mixture_key="data", seed=4)
    plain = MixOptSearcher(strategy="random", mixture_key="data", seed=4)
    domains = space.param_space()
    for each in (searcher, plain):
        config = {"data": domains.pop("mixture"), **domains, "lr": tune.uniform(0, 1)}
        each.set_search_properties("loss", "min", config)
        domains = space.param_space()
    configs = [searcher.suggest("0")]
    searcher.save(str(tmp_path / "state"))
    other = MixOptSearcher()
    other.restore(str(tmp_path / "state"))
    configs += [other.suggest(name) for name in "12"]
    assert [(config["data"], config["scale"], config["steps"]) for config in configs] == [
        (mixture, "20M", 500) for mixture in mixtures
    ]
    assert len({config["lr"] for config in configs}) == 3
    assert other.suggest("3") == plain.suggest("0"), "they do not move the strategy's own stream"


def test_a_point_may_leave_out_what_there_is_only_one_of(space: MixtureSpace) -> None:
    single = replace(space, scales=space.scales[:1], steps=space.steps[:1], target=None)
    mixture = space.named(space.uniform())
    searcher = MixOptSearcher(single, "loss", "min", strategy="random", points_to_evaluate=[{"mixture": mixture}])
    assert searcher.suggest("a") == {"mixture": mixture, "scale": "20M", "steps": 100}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": None}, "A point to evaluate needs its mixture under 'mixture', got the keys"),
        ({"lr": 0.1}, "'mixture', 'scale' and 'steps' only, got lr, too: what else is in param_space is sampled"),
        ({"scale": None}, "must name its scale"),
        ({"scale": "2B"}, "'2B' x 500 steps: the space trains 20M, 150M, 1B"),
        ({"steps": 501}, "x 501 steps"),
        ({"mixture": {"book": 1.0}}, "missing"),
    ],
)
def test_points_to_evaluate_that_do_not_fit(space: MixtureSpace, change: dict[str, Any], message: str) -> None:
    points = [{key: value for key, value in (point(space) | change).items() if value is not None}]
    with pytest.raises(ValueError, match=message):
        MixOptSearcher(points_to_evaluate=points).set_search_properties("loss", "min", space.param_space())
    with pytest.raises(ValueError, match="must be a configuration"):
        MixOptSearcher(points_to_evaluate=["first"])


# -- settings and strategies of one's own


def test_settings_in_one_object(space: MixtureSpace) -> None:
    searcher = MixOptSearcher(space, "loss", settings=Settings(mode="max", strategy="random", seed=3), budget=1e5)
    assert searcher.mode == "max" and searcher.optimizer.problem.mode == "max"
    same = MixOptSearcher(space, "loss", "max", strategy="random", seed=3, budget=1e5)
    assert searcher.suggest("a") == same.suggest("a") and searcher.state_dict() == same.state_dict()
    with pytest.raises(TypeError, match="bugdet"):
        MixOptSearcher(bugdet=1.0)


def test_a_strategy_of_ones_own_and_callbacks(searcher: MixOptSearcher, space: MixtureSpace, tmp_path: Path) -> None:
    heard: list[Suggestion] = []

    class Hears(Callback):
        def on_suggestion(self, suggestion: Suggestion) -> None:
            heard.append(suggestion)

    own = MixOptSearcher(strategy=lambda problem: RandomStrategy(problem), seed=5, callbacks=[Hears()])
    own.set_search_properties("loss", "min", space.param_space())
    assert own.suggest("a") == searcher.suggest("a") and [run.trial_id for run in heard] == ["a"]
    own.save(str(tmp_path / "state"))
    copy = cloudpickle.loads(cloudpickle.dumps(own))  # as Tune does
    copy.restore(str(tmp_path / "state"))
    assert copy.suggest("b") == searcher.suggest("b")
    assert MixOptSearcher.load(tmp_path / "state", strategy="random").suggest("b") == own.suggest("b")


def test_a_state_imports_nothing_that_it_names(
    searcher: MixOptSearcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bomb.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    state = searcher.state_dict()
    state["settings"]["strategy"] = {"own": "bomb:Strategy"}
    with pytest.raises(ValueError, match="a strategy of its own, 'bomb:Strategy': pass it as strategy="):
        MixOptSearcher().load_state_dict(state)
    state["settings"]["strategy"] = "bomb:Strategy"
    with pytest.raises(ValueError, match="Unknown strategy 'bomb'"):
        MixOptSearcher().load_state_dict(state)
    assert "bomb" not in sys.modules


@pytest.mark.parametrize(
    ("written", "order"),
    [
        ({"10": 20.0, "18": 10.0}, ["10", "18"]),  # restored in another time zone
        ({"10": 10.0, "18": 20.0}, ["18", "10"]),
        ({"10": None, "18": None}, ["18", "10"]),  # of version 0.1
        ({"10": 20.0, "18": None, "19": 5.0}, ["18", "10", "19"]),  # torn
        ({"10": 20.0, "18": 10.0, "09": None}, ["10", "18", "09"]),
        ({"10": 1e300, "18": 10.0}, ["18", "10"]),
    ],
)
def test_the_newest_session_is_the_one_written_last(
    tmp_path: Path, written: dict[str, float | None], order: list[str]
) -> None:
    for hour, moment in written.items():
        state = {} if moment is None else {"written": moment}
        (tmp_path / f"searcher-state-{hour}.json").write_text(json.dumps(state | {"hour": hour}))
    where = snapshots.locate(tmp_path)
    assert [Path(file).stem.removeprefix("searcher-state-") for file in snapshots.candidates(*where)] == order
    assert snapshots.newest(*where, lambda state: state["hour"]).value == order[0]
    for hour in order:
        filesystem, file = snapshots.locate(tmp_path / f"searcher-state-{hour}.json")
        assert len(snapshots.candidates(filesystem, file)) == len(order) - order.index(hour)


# -- bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": {"mixture": {}}}, "space must be a MixtureSpace"),
        ({"metric": ["a", "b"]}, "use objective="),
        ({"mode": "lower"}, "mode must be 'min' or 'max'"),
        ({"objective": {}}, "objective must map metric names to weights"),
        ({"objective": {"a": math.nan}}, "weight of metric 'a'"),
        ({"strategy": "best"}, "Unknown strategy 'best'"),
        ({"budget": 0}, "budget must be a positive finite cost"),
        ({"seed": -1}, "seed must be a non-negative integer"),
        ({"settings": {"seed": 1}}, "settings must be a Settings object"),
        ({"pool": 3}, "pool must be a Pool of logged runs"),
        ({"cost_per_step": 3}, "cost_per_step must be the price of a step by scale name, got 3"),
        ({"mixture_key": "a/b"}, "mixture_key, scale_key and steps_key must be three distinct names without '/'"),
        ({"scale_key": "steps"}, "three distinct names"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixOptSearcher(**arguments)


def test_what_is_unknown_is_asked_for(space: MixtureSpace) -> None:
    with pytest.raises(RuntimeError, match="No search space has been defined: pass MixOptSearcher"):
        MixOptSearcher().suggest("a")
    with pytest.raises(RuntimeError, match="The metric is unknown: pass"):
        MixOptSearcher(space).suggest("a")
    with pytest.raises(RuntimeError, match="The mode is unknown: pass"):
        MixOptSearcher(space, metric="loss").suggest("a")
    assert MixOptSearcher(space, "loss", "min", strategy="random").suggest("a") is not None


PAIR = {"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lr": tune.uniform(0, 1)}, "no mixture under 'mixture'"),
        ({"a": PAIR, "b": PAIR}, "candidates: .'a', 'b'."),
        ({"mixture": PAIR | {"x": tune.uniform(-1, 1)}}, "a >= 0"),
        ({"mixture": PAIR, "scale": tune.choice(["s", "l"])}, "No cost is known"),
        ({"mixture": PAIR, "steps": tune.grid_search([1, 2])}, "grid_search"),
        ({"mixture": PAIR, "steps": tune.randint(1, 9)}, "must be tune.choice"),
    ],
)
def test_a_param_space_without_a_search_in_it(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixOptSearcher().set_search_properties("loss", "min", config)


def test_the_choices_of_a_param_space_come_in_any_order() -> None:
    weights = {"a": tune.uniform(0, 1), "b": tune.uniform(0, 1)}
    config = {"mixture": weights, "scale": tune.choice(["1B", "60M"]), "steps": tune.choice([1000, 100])}
    space = MixtureSpace.from_param_space(config, cost_per_step={"60M": 0.03, "1B": 1.0})
    assert space.target == ("1B", 1000) and space.target_cost == 1000
    with pytest.raises(ValueError, match="cost_per_step must be the price of a step by scale name, got 3"):
        MixtureSpace.from_param_space(config, cost_per_step=3)


def test_two_spaces_are_one_too_many(searcher: MixOptSearcher, space: MixtureSpace) -> None:
    other = MixtureSpace(domains=("a", "b"), scales=space.scales, steps=space.steps)
    dearer = MixtureSpace(domains=space.domains, scales=space.scales, steps=space.steps, upper={"book": 0.5})
    searcher.suggest("a")
    for config, message in ((other, "use space.param_space"), (dearer, "another MixtureSpace")):
        with pytest.raises(ValueError, match=message):
            searcher.set_search_properties("loss", "min", config.param_space())
        with pytest.raises(ValueError, match=message):
            MixOptSearcher(space).set_search_properties("loss", "min", config.param_space())
    with pytest.raises(ValueError, match="do not serve 'accuracy'"):
        searcher.set_search_properties("accuracy", "max", space.param_space())
    hand_written = {"mixture": {name: tune.uniform(0, 1) for name in space.domains}, "steps": tune.choice([100, 123])}
    with pytest.raises(ValueError, match="123"):
        MixOptSearcher(space).set_search_properties("loss", "min", hand_written)


def test_a_given_space_finds_its_mixture_under_any_key(space: MixtureSpace) -> None:
    config = {"shares": {name: tune.uniform(0, 1) for name in space.domains}, "other": {"x": tune.uniform(0, 1)}}
    searcher = MixOptSearcher(space, strategy="random")
    searcher.set_search_properties("loss", "min", config)
    assert set(searcher.suggest("a")) == {"shares", "scale", "steps", "other"}
    assert Layout.from_state(json.loads(json.dumps(searcher.layout.state()))).mixture == "shares"


def test_a_search_without_an_end_is_said(space: MixtureSpace, caplog: pytest.LogCaptureFixture) -> None:
    endless = {"num_samples": sys.maxsize}
    MixOptSearcher(budget=1.0).set_search_properties("loss", "min", space.param_space(), **endless)
    MixOptSearcher().set_search_properties("loss", "min", space.param_space(), time_budget_s=1, **endless)
    MixOptSearcher().set_search_properties("loss", "min", space.param_space(), num_samples=3)
    assert "does not end by itself" not in caplog.text
    MixOptSearcher().set_search_properties("loss", "min", space.param_space(), **endless)
    assert "does not end by itself" in caplog.text
