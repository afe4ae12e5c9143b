"""Pre-training under Ray Tune: rungs, pauses, crashes and aborted runs, and no resources left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from runs import run_in, timeless, tiny_search
from small_ray import four_slots

from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.search import exists, final_run, search
from ray_mixopt.pretraining.trainable import PretrainTrainable
from ray_mixopt.pretraining.training.settings import TrainingRun

os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with four_slots(Path(__file__).parent):
        yield


@pytest.fixture(autouse=True)
def all_is_given_back() -> Iterator[None]:
    before = ray.cluster_resources()
    yield
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != before["CPU"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources().get("CPU") == before["CPU"]


class ByHand:
    """A trainable in an actor of its own, as Tune holds it, led by the test."""

    def __init__(self, settings: PretrainConfig, trial: str, **changes: Any) -> None:
        self.config = {"mixture": {"a": 0.6, "b": 0.4}, "scale": "S", "steps": 4, **changes}
        self.actor = ray.remote(num_cpus=0)(_Named).remote(trial, self.config, settings.model_dump_json())

    def step(self) -> dict[str, Any]:
        return ray.get(self.actor.step.remote(), timeout=600)

    def end(self) -> None:
        ray.get(self.actor.cleanup.remote(), timeout=600)
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
    settings = tiny_search(small, tmp_path)
    trial = ByHand(settings, "paused", continuable=True)
    first = [trial.step(), trial.step()]
    assert [report["step"] for report in first] == [2, 4] and not any(report["done"] for report in first)
    wait_for(lambda: ray.available_resources()["CPU"] == 4)  # at its rung the workers are gone; the count lags behind
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


def test_a_worker_that_dies_is_replaced_and_an_aborted_run_gives_back_its_workers(small: Path, tmp_path: Path) -> None:
    settings = tiny_search(small, tmp_path, steps=[2, 100_000], checkpoint_every=50, max_repetition_ratio=1e9)
    trial = ByHand(settings, "long", scale="L", steps=100_000)
    assert trial.step()["step"] == 2
    wait_for(lambda: ray.available_resources()["CPU"] == 2)
    folder = tmp_path / "pretrain" / "runs" / "long"
    wait_for(lambda: step_in(folder) >= 50)
    before = workers()
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: len(workers()) == 2 and not set(before) & set(workers()))
    reached = step_in(folder)
    wait_for(lambda: step_in(folder) > reached >= 50)  # it went on from its last checkpoint
    start = time.monotonic()
    trial.end()
    assert time.monotonic() - start < 30


def workers() -> list[int]:
    """Process ids of the training workers below this process."""
    table = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent, *_ in map(str.split, table.splitlines()[1:])}
    found = [int(line.split()[0]) for line in table.splitlines() if "ray::RayTrainWorker" in line]

    def below(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and below(parents[pid]))

    return [pid for pid in found if below(pid)]


def step_in(folder: Path) -> int:
    """Steps of the newest whole checkpoint."""
    whole = [path.read_text() for path in folder.glob("checkpoint_2*/run.json")]
    return max((json.loads(text)["progress"]["step"] for text in whole if text), default=0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Scripted:
    """In place of a group of workers: reports what the test wants."""

    loss = 3.0
    states: list[str] = []

    def __init__(self, run: TrainingRun, *, seen: int, **options: Any) -> None:
        self._ahead = [step for step in run.reports if step > seen]
        self.states.append("started")

    def next_report(self) -> dict[str, Any]:
        return {"step": self._ahead.pop(0), "val_loss/a": self.loss, "val_loss/b": 1.0}

    def join(self) -> None:
        self.states.append("joined")

    def abort(self) -> None:
        self.states.append("aborted")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, small: Path, tmp_path: Path) -> Any:
    """``scripted(config changes)``: a trainable in this process, without workers."""
    monkeypatch.setattr("ray_mixopt.pretraining.trainable.TrainingGroup", Scripted)
    monkeypatch.setattr(Scripted, "states", [])

    def make(**changes: Any) -> PretrainTrainable:
        trainable = PretrainTrainable.__new__(PretrainTrainable)
        trainable._trial_info = None
        trainable.setup(
            {"mixture": {"a": 3, "b": 1}, "scale": "S", "steps": 4, **changes},
            tiny_search(small, tmp_path).model_dump_json(),
        )
        return trainable

    return make


def test_a_run_that_may_not_go_on_ends_at_its_rung(scripted: Any) -> None:
    run = scripted()
    reports = [run.step() for _ in range(3)]
    assert [(report["step"], report["done"]) for report in reports] == [(2, False), (4, True), (4, True)]
    assert reports[0]["mean_loss"] == 2.0
    assert Scripted.states == ["started", "joined"]


def test_a_run_that_may_go_on_ends_at_the_last_rung(scripted: Any) -> None:
    run = scripted(continuable=True)
    assert [run.step()["done"] for _ in range(3)] == [False, False, True]
    last = scripted(continuable=True, steps=6)
    assert [last.step()["done"] for _ in range(3)] == [False, False, True]


def test_a_diverged_run_says_so_and_ends(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "loss", float("nan"))
    run = scripted(continuable=True)
    report = run.step()
    assert report["done"] and report["mean_loss"] != report["mean_loss"]
    assert Scripted.states == ["started", "joined"]


def test_another_run_in_the_same_process(scripted: Any) -> None:
    run = scripted()
    run.step()
    assert run.reset_config({"mixture": {"a": 1, "b": 1}, "scale": "L", "steps": 2})
    assert run.step()["step"] == 2
    assert Scripted.states == ["started", "aborted", "started", "joined"]
    with pytest.raises(ValueError, match="lacks mixture: it has"):
        run.reset_config({"scale": "L", "steps": 2})
    run.reset_config({"mixture": {"a": 1, "b": 1}, "scale": "XL", "steps": 2})
    with pytest.raises(ValueError, match="There is no scale 'XL': there are S, L"):
        run.step()


def test_a_scale_that_the_cluster_cannot_hold_is_refused(small: Path, tmp_path: Path) -> None:
    scales = [{"name": "nano", "resources": {"workers": 4, "cpus_per_worker": 3}}]
    message = "Scale 'nano' needs 4 workers with 3 CPU each, the cluster has room for 1 at most, with 3.99 CPU: lower"
    settings = tiny_search(small, tmp_path, scales=scales)
    with pytest.raises(ValueError, match=message):
        search(settings)
    with pytest.raises(ValueError, match=message):
        next(final_run(settings, {"a": 0.5, "b": 0.5}))
    assert not exists(settings)


def test_a_search_from_old_runs_and_its_final_run(small: Path, tmp_path: Path) -> None:
    rows = "".join(f"S,{step},{i / 5},{1 - i / 5},{5 - i / 9}\n" for i in range(6) for step in (2, 4))
    (tmp_path / "old.csv").write_text("scale,step,mixture/a,mixture/b,val_loss/a\n" + rows)
    plan = {"budget": 0.6, "concurrency": 2, "earlier": [str(tmp_path / "old.csv")]}
    settings = tiny_search(small, tmp_path, steps=[2, 4], search=plan, decay={"steps": 2})
    seen: list[int] = []
    outcome = search(settings, lambda optimizer: seen.append(len(optimizer.history)))
    assert outcome.errors == () and not outcome.interrupted and seen[-1] > 0
    history = outcome.searcher.optimizer.history
    assert history.n_missing == 0 and history.spent <= 0.6 * settings.space.target_cost
    given = [run for run in history if run.evaluated]
    assert len(given) == 6 and all(run.trial_id.startswith("old:") for run in given)
    made = [run for run in history if not run.evaluated]
    assert made
    for run in made:
        assert max(run.observations) == run.steps and set(run.observations) <= {2, 4}
        by_domain = {f"{name}/{domain}" for name in ("val_loss", "tokens", "epochs") for domain in "ab"}
        others = {"train_loss", "mean_loss", "flops", "seconds", "tokens_per_second"}
        assert set(run.observations[run.steps]) == by_domain | others
    assert exists(settings)
    mixture = outcome.searcher.recommend().mixture
    reports = list(final_run(settings, mixture))
    assert [report["step"] for report in reports] == [2, 4]
