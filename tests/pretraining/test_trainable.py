"""Pre-training under Ray Tune: rungs, pauses, crashes and aborted runs, and no resources left behind."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from runs import run_in, timeless

from ray_mixopt import MixOptScheduler, MixOptSearcher
from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.trainable import PretrainTrainable

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# Ray's workers import the helpers of the tests, too.
_PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATHS))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Four slots, whatever the machine has."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def all_is_given_back() -> Iterator[None]:
    before = ray.cluster_resources()
    yield
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != before["CPU"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources().get("CPU") == before["CPU"]


def config(data: Path, storage: Path, **changes: Any) -> PretrainConfig:
    """Two scales, the larger one with two workers; rungs at 2, 4 and 6 steps."""
    settings: dict[str, Any] = {
        "data": data,
        "scales": [
            {"name": "S", "shape": {"d_model": 16, "heads": 2, "layers": 1}},
            {"name": "L", "shape": {"d_model": 32, "heads": 2, "layers": 1}, "resources": {"workers": 2}},
        ],
        "steps": [2, 4, 6],
        "sequence_length": 16,
        "batch_tokens": 64,
        "validation_sequences": 2,
        "optimization": {"learning_rate": 0.01, "warmup_steps": 2},
        "storage": str(storage),
    }
    return PretrainConfig.model_validate(settings | changes)


class ByHand:
    """A trainable in an actor of its own, as Tune holds it, led by the test."""

    def __init__(self, settings: PretrainConfig, trial: str, **changes: Any) -> None:
        self.config = {"mixture": {"a": 0.6, "b": 0.4}, "scale": "S", "steps": 4, **changes}
        self.actor = ray.remote(num_cpus=0)(_Named).remote(trial, self.config, settings.model_dump_json())

    def step(self) -> dict[str, Any]:
        return ray.get(self.actor.step.remote(), timeout=120)

    def end(self) -> None:
        ray.get(self.actor.cleanup.remote(), timeout=120)
        ray.kill(self.actor)


class _Named(PretrainTrainable):
    def __init__(self, trial: str, config: dict[str, Any], settings: str) -> None:
        self._name = trial
        super().__init__()
        self.config = config
        self.setup(config, settings)

    @property
    def trial_id(self) -> str:
        return self._name

    def setup(self, config: dict[str, Any], settings: str = "") -> None:
        if settings:
            super().setup(config, settings)


def test_pause_and_resume_equal_one_go(small: Path, tmp_path: Path) -> None:
    settings = config(small, tmp_path)
    trial = ByHand(settings, "paused", continuable=True)
    first = [trial.step(), trial.step()]
    assert [report["step"] for report in first] == [2, 4] and not any(report["done"] for report in first)
    assert ray.available_resources()["CPU"] == 4  # at its rung the workers are gone already
    saved = tmp_path / "saved"
    saved.mkdir()
    ray.get(trial.actor.save_checkpoint.remote(str(saved)))
    assert json.loads((saved / "training_run.json").read_text())["step"] == 4
    assert trial.step()["done"]  # neither paused nor given more
    trial.end()

    again = ByHand(settings, "paused", continuable=True, steps=6)
    ray.get(again.actor.load_checkpoint.remote(str(saved)))
    last = again.step()
    again.end()
    assert last["step"] == 6 and last["done"]
    whole = run_in(tmp_path / "whole", settings.run({"a": 0.6, "b": 0.4}, "S", 6))
    keys = set(whole[0])
    reports = [{key: value for key, value in report.items() if key in keys} for report in (*first, last)]
    assert timeless(reports) == timeless(whole)
    assert last["mean_loss"] == pytest.approx((last["val_loss/a"] + last["val_loss/b"]) / 2)


def test_an_aborted_run_gives_back_its_workers(small: Path, tmp_path: Path) -> None:
    trial = ByHand(
        config(small, tmp_path, steps=[2, 100_000], max_repetition_ratio=1e9), "aborted", scale="L", steps=100_000
    )
    assert trial.step()["step"] == 2
    assert ray.available_resources()["CPU"] == 2
    start = time.monotonic()
    trial.end()
    assert time.monotonic() - start < 30


def test_a_diverged_run_says_so_and_ends(small: Path, tmp_path: Path) -> None:
    settings = config(small, tmp_path, optimization={"learning_rate": 1e30, "warmup_steps": 0}, steps=[20])
    trial = ByHand(settings, "diverged", steps=20, continuable=True)
    report = trial.step()
    trial.end()
    assert report["done"] and report["mean_loss"] != report["mean_loss"]


def test_a_search(small: Path, tmp_path: Path) -> None:
    settings = config(small, tmp_path)
    searcher = MixOptSearcher(objective=settings.objective, budget=2 * settings.space.target_cost)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(PretrainTrainable, settings=settings.model_dump_json()), {"CPU": 0.01}
        ),
        param_space=settings.space.param_space(),
        tune_config=tune.TuneConfig(
            metric="mean_loss",
            mode="min",
            search_alg=searcher,
            scheduler=MixOptScheduler(),
            num_samples=4,
            max_concurrent_trials=2,
        ),
        run_config=tune.RunConfig(name=settings.name, storage_path=settings.storage, verbose=0),
    )
    results = tuner.fit()
    assert not results.errors
    history = searcher.optimizer.history
    assert len(history) == 4 and history.n_missing == 0
    for run in history:
        assert max(run.observations) == run.steps and set(run.observations) <= {2, 4, 6}
        assert set(run.observations[run.steps]) == {"val_loss/a", "val_loss/b"}
