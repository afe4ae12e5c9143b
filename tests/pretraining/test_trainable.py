"""Training with a group of workers from a trial: rungs, pauses, crashes and aborted runs, and nothing left behind."""

from __future__ import annotations

import contextlib
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
from small_ray import all_given_back, start_ray

from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.trainable import PretrainTrainable
from ray_mixopt.pretraining.training.settings import TrainingRun


@pytest.fixture(scope="module", autouse=True)
def cluster() -> None:
    start_ray("ray_mixopt.pretraining.trainable", "ray_mixopt.pretraining.training.train")


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    yield
    assert all_given_back()


class ByHand(PretrainTrainable):
    """A trainable in this process, led by the test."""

    trial_id = ""

    def __init__(self, settings: PretrainConfig, trial: str, **changes: Any) -> None:
        self.trial_id = trial
        self.setup({"mixture": {"a": 0.6, "b": 0.4}, "scale": "S", "steps": 4, **changes}, settings.model_dump_json())


def test_pause_and_resume_equal_one_go(small: Path, tmp_path: Path) -> None:
    settings = tiny_search(small, tmp_path)
    trial = ByHand(settings, "paused", continuable=True)
    first = [trial.step(), trial.step()]
    assert [report["step"] for report in first] == [2, 4] and not any(report["done"] for report in first)
    wait_for(lambda: ray.available_resources()["CPU"] == 4)  # at its rung the workers are gone; the count lags behind
    saved = tmp_path / "saved"
    saved.mkdir()
    trial.save_checkpoint(str(saved))
    assert json.loads((saved / "training_run.json").read_text())["step"] == 4
    assert trial.step()["done"]  # neither paused nor given more
    trial.cleanup()

    again = ByHand(settings, "paused", continuable=True, steps=6)
    again.load_checkpoint(str(saved))
    last = again.step()
    again.cleanup()
    assert last["step"] == 6 and last["done"]
    whole = run_in(tmp_path / "whole", settings.run({"a": 0.6, "b": 0.4}, "S", 6))
    keys = set(whole[0])
    reports = [{key: value for key, value in report.items() if key in keys} for report in (*first, last)]
    assert timeless(reports) == timeless(whole)
    assert last["mean_loss"] == pytest.approx((last["val_loss/a"] + last["val_loss/b"]) / 2)


PHASES = [{"name": "main", "fraction": 0.8}, {"name": "anneal", "fraction": 0.2}]


def of_phases(main: float, late: float) -> dict[str, dict[str, float]]:
    return {"main": {"a": main, "b": 1 - main}, "anneal": {"a": late, "b": 1 - late}}


def test_a_branch_begins_with_the_weights_of_its_parent(small: Path, tmp_path: Path) -> None:
    settings = tiny_search(small, tmp_path, steps=[5, 10], phases=PHASES)
    parent = ByHand(settings, "parent", mixture=of_phases(0.6, 0.9), steps=10, continuable=True)
    reports = [parent.step(), parent.step()]
    assert [report["step"] for report in reports] == [5, 10] and not any(report["done"] for report in reports)
    saved = tmp_path / "saved"
    saved.mkdir()
    parent.save_checkpoint(str(saved))
    branch = {"parent": "parent", "from_step": 8, "steps": 10, "checkpoint": str(saved)}
    for late in (0.1, 0.5):
        child = ByHand(settings, f"child-{late}", mixture=of_phases(0.6, late), steps=10, branch=branch)
        report = child.step()
        child.cleanup()
        *_, whole = run_in(tmp_path / f"whole-{late}", settings.run(of_phases(0.6, late), "S", 10))
        assert report["step"] == 10 and report["done"]
        for name in ("val_loss/a", "val_loss/b", "tokens/a"):
            assert report[name] == whole[name]


@pytest.mark.slow
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
    trial.cleanup()
    assert time.monotonic() - start < 30


def workers() -> list[int]:
    """Process ids of the training workers of this process's Ray: they write into its session's folder."""
    session = ray.get_runtime_context().get_session_name()
    table = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    found = [int(line.split()[0]) for line in table.splitlines() if "ray::RayTrainWorker" in line]
    return [pid for pid in found if any(session in target for target in opened(pid))]


def opened(pid: int) -> list[str]:
    """The files that a process has open; none where it is gone."""
    with contextlib.suppress(OSError):
        return [str(link.readlink()) for link in Path("/proc", str(pid), "fd").iterdir()]
    return []


def step_in(folder: Path) -> int:
    """Steps of the newest whole checkpoint."""
    whole = [path.read_text() for path in folder.glob("checkpoint_2*/run.json")]
    return max((json.loads(text)["progress"]["step"] for text in whole if text), default=0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Scripted:
    """In place of a group of workers: reports what the test wants."""

    loss = 3.0
    states: list[str] = []
    checkpoint = None

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
        return ByHand(tiny_search(small, tmp_path), "scripted", **({"mixture": {"a": 3, "b": 1}} | changes))

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
