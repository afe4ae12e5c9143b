"""Simulated runs in a real Ray Tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ray_mixopt import simulators
from ray_mixopt.simulators import RunTable, Simulator, SimulatorTrainable

UNIFORM = {name: 0.2 for name in ("wikipedia", "stackexchange", "github", "arxiv", "book")}


def config(steps: int, scale: str = "150M", **more: Any) -> dict[str, Any]:
    return {"mixture": dict(UNIFORM), "scale": scale, "steps": steps, **more}


def run(trainable: SimulatorTrainable) -> list[dict[str, Any]]:
    """All reports of a trainable until it is done."""
    reports = [trainable.train()]
    while not reports[-1]["done"]:
        reports.append(trainable.train())
    return reports


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return simulators.load("slimpajama")


# -- on its own: the class without Tune


def test_one_report_a_rung(simulator: Simulator) -> None:
    reports = run(SimulatorTrainable(config(12000)))
    assert [report["step"] for report in reports] == [2000, 6000, 12000]
    for report in reports:
        wanted = simulator.observe(UNIFORM, "150M", report["step"])
        assert {name: report[name] for name in wanted} == wanted


def test_steps_between_rungs_are_reported() -> None:
    assert [report["step"] for report in run(SimulatorTrainable(config(7000)))] == [2000, 6000, 7000]
    assert [report["step"] for report in run(SimulatorTrainable(config(500)))] == [500]


def test_mixtures_are_normalised_and_numpy_scalars_are_fine(simulator: Simulator) -> None:
    weights = {np.str_(name): np.float32(3.0) for name in UNIFORM}
    trainable = SimulatorTrainable({"mixture": weights, "scale": np.str_("1B"), "steps": np.int64(2000)})
    report = trainable.train()
    assert report["loss"] == pytest.approx(simulator.observe(UNIFORM, "1B", 2000)["loss"])
    assert type(report["step"]) is int


def test_a_continuable_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    trainable = SimulatorTrainable(config(2000, continuable=True))
    assert not trainable.train()["done"]
    trainable.save_checkpoint(str(tmp_path))
    other = SimulatorTrainable(config(500))
    assert other.train()["done"]
    assert other.reset(config(19700, continuable=True))
    other.load_checkpoint(str(tmp_path))
    assert [(report["step"], report["done"]) for report in run(other)] == [(6000, False), (12000, False), (19700, True)]


def test_a_run_that_is_given_no_more_steps_ends() -> None:
    trainable = SimulatorTrainable(config(2000, continuable=True))
    assert [(report["step"], report["done"]) for report in run(trainable)] == [(2000, False), (2000, True)]


def test_a_reused_actor_forgets_the_last_run() -> None:
    trainable = SimulatorTrainable(config(12000, continuable=True))
    trainable.train()
    trainable.train()
    assert trainable.reset(config(6000, scale="20M"))
    assert [report["step"] for report in run(trainable)] == [2000, 6000]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scale": None}, ValueError, "lacks scale"),
        ({"mixture": None, "steps": None}, ValueError, "lacks mixture, steps"),
        ({"mixture": [0.2] * 5}, TypeError, "must map domain names to weights"),
        ({"mixture": {"book": 1.0}}, ValueError, "missing: .*arxiv"),
        ({"mixture": UNIFORM | {"math": 1.0}}, ValueError, r"unknown: \['math'\]"),
        ({"scale": "2B"}, ValueError, "Unknown scale '2B'"),
    ],
)
def test_bad_configurations_are_explained(change: dict[str, Any], error: type[Exception], message: str) -> None:
    changed = {key: value for key, value in (config(2000) | change).items() if value is not None}
    with pytest.raises(error, match=message):
        SimulatorTrainable(changed)


# -- in Tune


class PauseThenContinue(TrialScheduler):
    """Pauses every trial where it was told to stop, once, and later goes on to the last rung."""

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if result["step"] >= trial.config["steps"] and trial.config["steps"] < 19700:
            return self.PAUSE
        return self.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        for trial in tune_controller.get_trials():
            if trial.status == Trial.PAUSED:
                trial.set_config({**trial.config, "steps": 19700})
                return trial
        return None

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None: ...
    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None: ...
    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None: ...
    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None: ...
    def debug_string(self) -> str:
        return "PauseThenContinue"


class Heard(tune.Callback):
    """Keeps the reports of each trial: after a pause Tune's own files may begin anew where an upload was late."""

    def __init__(self) -> None:
        self.reports: dict[str, list[dict[str, Any]]] = {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Trial, result: dict[str, Any], **info: Any) -> None:
        self.reports.setdefault(trial.trial_id, []).append(result)


def fit(
    trainable: Any, space: dict[str, Any], folder: Path, samples: int, scheduler: TrialScheduler
) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Configuration and reports of each trial."""
    heard = Heard()
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=samples,
            max_concurrent_trials=1,
            reuse_actors=True,
            scheduler=scheduler,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), name="run", verbose=0, callbacks=[heard]),
    )
    trials = []
    results = tuner.fit()
    for i in range(len(results)):
        result = results[i]
        if result.error is not None:
            raise RuntimeError(str(result.error))
        assert result.config is not None
        trials.append((result.config, pd.DataFrame(heard.reports[Path(result.path).name])))
    return trials


def test_random_search_under_fifo(tmp_path: Path, simulator: Simulator) -> None:
    trials = fit(SimulatorTrainable, simulator.space.param_space(), tmp_path, 6, FIFOScheduler())
    assert len(trials) == 6
    for asked, frame in trials:
        rungs = [rung for rung in simulator.space.steps if rung <= asked["steps"]]
        assert frame["step"].tolist() == rungs
        wanted = simulator.observe(asked["mixture"], asked["scale"], asked["steps"])
        assert {name: frame[name].iloc[-1] for name in wanted} == pytest.approx(wanted, rel=1e-12)


def test_pausing_and_continuing(tmp_path: Path) -> None:
    noisy = simulators.load("slimpajama", noise=0.1, seed=5)
    space = noisy.space.param_space() | {"steps": tune.choice([2000, 6000]), "continuable": True}
    trainable = tune.with_parameters(SimulatorTrainable, simulator=noisy)
    trials = fit(trainable, space, tmp_path, 4, PauseThenContinue())
    assert len(trials) == 4
    for asked, frame in trials:
        assert frame["step"].tolist() == [2000, 6000, 12000, 19700]
        for step, loss in zip(frame["step"], frame["loss"], strict=True):
            wanted = noisy.observe(asked["mixture"], asked["scale"], step)
            assert loss == pytest.approx(wanted["loss"], rel=1e-12)


def test_a_run_table_in_tune(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(
        "scale,cost_per_step,step,mixture/a,mixture/b,loss\n"
        "s,1,10,0.5,0.5,3\ns,1,20,0.5,0.5,2\ns,1,30,0.5,0.5,1\ns,1,20,1,0,4\ns,1,10,0,1,5\n"
    )
    trainable = tune.with_parameters(SimulatorTrainable, simulator=RunTable.read(tmp_path / "runs.csv"))
    mixtures = tune.grid_search([{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 0.0}])
    trials = fit(trainable, {"mixture": mixtures, "scale": "s", "steps": 20}, tmp_path, 1, FIFOScheduler())
    assert [frame[["step", "loss"]].to_numpy().tolist() for _, frame in trials] == [[[10, 3], [20, 2]], [[20, 4]]]

    missing = {"mixture": {"a": 0.0, "b": 1.0}, "scale": "s", "steps": 20}
    with pytest.raises(RuntimeError, match="is logged at scale 's' and 20 steps"):
        fit(trainable, missing, tmp_path / "2", 1, FIFOScheduler())
