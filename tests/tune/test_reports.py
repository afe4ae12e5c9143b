"""Reports that Tune has and would not tell, and reports that do not say how far a run is, in a real Ray Tune."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from curve import Curve, Watch
from ladder import LadderStrategy
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from worlds import TINY

import ray_mixopt
from ray_mixopt import MixOptSearcher
from ray_mixopt.testing import check_history

MakeTuner = Callable[..., tune.Tuner]
LAST_ONLY = replace(TINY, scales=TINY.scales[:1], steps=(10,), target=None)


WEB_AND_STEPS = [(0.2, 10), (0.5, 40), (0.8, 40)]


class Counted(Curve):
    """Leaves a mark in ``marks`` with each step that it trains."""

    marks: Path

    def step(self) -> dict[str, Any]:
        report = super().step()
        with (self.marks / "trained").open("a") as log:
            log.write(f"{self.share('web'):.6f} {report['step']}\n")
        return report


def trained(marks: Path) -> Counter[str]:
    """How often each run was trained to each step."""
    return Counter((marks / "trained").read_text().splitlines())


class CannotSave(Counted):
    """Its checkpoint fails: by an error, or with the process for every second mixture."""

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self.share("web") > 0.5:
            os._exit(1)
        raise OSError("No space left on device")


@pytest.mark.parametrize(("retries", "scheduler"), [(0, None), (1, None), (0, FIFOScheduler()), (1, FIFOScheduler())])
def test_the_last_report_counts_where_its_checkpoint_fails(
    make_tuner: MakeTuner, tmp_path: Path, retries: int, scheduler: Any
) -> None:
    trainable = type("CannotSave", (CannotSave,), {"marks": tmp_path})
    points = [{"mixture": {"web": web, "code": 1 - web, "math": 0}} for web in (0.25, 0.75)]
    searcher = MixOptSearcher(LAST_ONLY, strategy="random", points_to_evaluate=points)
    tuner = make_tuner(
        searcher,
        scheduler,
        trainable,
        param_space=LAST_ONLY.param_space(),
        num_samples=2,
        max_failures=retries,
        at_end=True,
    )
    results = tuner.fit()
    history = searcher.optimizer.history
    ended = retries and scheduler is None  # instead of tried again
    assert [run.status for run in history] == (["done"] * 2 if ended else ["failed", "lost"])
    assert [run.reached for run in history] == [10, 10] and history.spent == 2 * LAST_ONLY.target_cost
    assert [history[r.metrics["trial_id"]].observations[10]["loss"] for r in results] == [
        r.metrics["loss"] for r in results
    ]
    times = 1 if ended else 1 + retries
    assert trained(tmp_path) == {"0.250000 10": times, "0.750000 10": times}
    assert MixOptSearcher.load(tmp_path / "run").optimizer.history.spent == history.spent


class Odd(Counted):
    """Reports its step in a way of its own, which the share of math chooses, and never says that it is done."""

    def step(self) -> dict[str, Any]:
        report = super().step() | {"done": False}
        step = report.pop("step")
        odd: list[dict[str, Any]] = [
            {"step": str(step)},
            {"step": None},
            {"global_step": step},
            {"step": step - 1e-9},
            {"step": 9},
        ]
        return report | odd[round(10 * self.share("math"))]


@pytest.mark.parametrize(("scheduler", "late"), [(None, 0), (FIFOScheduler(), 1)], ids=["ours", "fifo"])
def test_nothing_trains_beyond_what_was_asked_whatever_the_step_is(
    make_tuner: MakeTuner, tmp_path: Path, caplog: pytest.LogCaptureFixture, scheduler: Any, late: int
) -> None:
    points = [{"mixture": {"web": 0.2, "code": 0.8 - k / 10, "math": k / 10}, "scale": "20M"} for k in range(5)]
    points = [point | {"steps": steps} for point, steps in zip(points, (20, 20, 10, 10, 20), strict=True)]
    searcher = MixOptSearcher(strategy="random", budget=1e3, points_to_evaluate=points)
    trainable = type("Odd", (Odd,), {"marks": tmp_path})
    results = make_tuner(searcher, scheduler, trainable, num_samples=5).fit()
    history = searcher.optimizer.history
    assert not results.errors
    assert [run.reached for run in history] == ([30, 20, 10, 20, 9] if late else [20, 20, 10, 10, 9])
    assert [sorted(run.observations) for run in history][:2] == [[10, 20, 30][: 2 + late], [20]]
    assert [bool(run.observations[run.reached]) for run in history] == [True, False, False, True, True]
    assert sum(trained(tmp_path).values()) == 2 + 2 + 1 + 1 + 4 + 5 * late, "9 of 20 is believed four times"
    assert caplog.text.count("does not report how far it is: 'step' is None") == 1
    check_history(history, budget=1e3)


def test_a_class_that_forgets_to_end_is_not_paid_for_ever(
    make_tuner: MakeTuner, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgets(Curve):
        def step(self) -> dict[str, Any]:
            return super().step() | {"done": False}

        def loss(self) -> float:
            return math.nan if self.share("web") > 0.7 else super().loss()

    points = [
        {"mixture": {"web": web, "code": 1 - web, "math": 0}, "scale": "20M", "steps": steps}
        for web, steps in WEB_AND_STEPS
    ]
    searcher = MixOptSearcher(strategy="random", points_to_evaluate=points)
    assert not make_tuner(searcher, FIFOScheduler(), Forgets, num_samples=3).fit().errors
    assert [(run.status, run.reached) for run in searcher.optimizer.history] == [
        ("done", 20),
        ("done", 50),
        ("diverged", 20),
    ]
    assert caplog.text.count("Under FIFOScheduler a run of this search is over for good at its rung") == 1
    assert caplog.text.count("was asked for 10 steps and trained 20, all of which are paid for") == 1


def test_what_cannot_go_on_is_said_before_it_trains(
    make_tuner: MakeTuner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Bare(tune.Trainable):
        def step(self) -> dict[str, Any]:
            return {"step": 10, "loss": 1.0}

    with pytest.raises(ValueError, match=r"Bare has no save_checkpoint and no load_checkpoint: runs are paused"):
        make_tuner(MixOptSearcher(strategy=LadderStrategy), None, Bare, num_samples=9).fit()
    searcher = MixOptSearcher(strategy="random")
    with pytest.raises(ValueError, match=r"Bare has no save_checkpoint, and Tune is going to ask for a checkpoint"):
        make_tuner(searcher, FIFOScheduler(), Bare, num_samples=9, at_end=True, name="at_end").fit()
    assert searcher.optimizer.history.spent == 0

    def without_checkpoints(config: dict[str, Any]) -> None:
        for step in (10, 20, 40):
            tune.report({"step": step, "loss": config["mixture"]["web"] + 1 / step})

    searcher = MixOptSearcher(strategy=LadderStrategy, budget=50)
    settings = {"num_samples": -1, "name": "function", "reuse_actors": False}
    assert not make_tuner(searcher, None, without_checkpoints, **settings).fit().errors
    history = searcher.optimizer.history
    assert all(run.status == "done" and run.reached == 10 for run in history) and history.n_continued == 0
    assert caplog.text.count("reported its rung without a checkpoint") == 1


@pytest.mark.parametrize("scheduler", [None, FIFOScheduler()])
def test_a_process_that_cannot_turn_to_another_run_fails_it(
    make_tuner: MakeTuner, tmp_path: Path, scheduler: Any
) -> None:
    class NotAgain(Curve):
        def setup(self, config: dict[str, Any]) -> None:
            super().reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return False

    searcher = MixOptSearcher(strategy="random")
    results = make_tuner(searcher, scheduler, NotAgain, num_samples=2).fit()
    assert len(results.errors) == 1
    for known in (searcher, MixOptSearcher.load(tmp_path / "run")):
        assert [run.status for run in known.optimizer.history] == ["done", "failed"]


def test_restarted_trials_keep_to_the_limit(make_tuner: MakeTuner, tmp_path: Path) -> None:
    class Broken(Curve):
        def step(self) -> dict[str, Any]:
            if not (tmp_path / "repaired").exists():
                raise RuntimeError("broken")
            return super().step()

    searcher = MixOptSearcher(strategy=LadderStrategy)
    assert len(make_tuner(searcher, None, Broken, watch=Watch(), num_samples=2).fit().errors) == 2
    (tmp_path / "repaired").touch()
    tuner = ray_mixopt.restore(tmp_path / "run", Broken, restart_errored=True)
    (watch,) = [c for c in tuner._local_tuner._run_config.callbacks if isinstance(c, Watch)]
    assert not tuner.fit().errors and watch.most_busy == 1
    history = MixOptSearcher.load(tmp_path / "run", strategy="random").optimizer.history
    assert Counter(run.status for run in history) == {"failed": 2, "done": 2}
    assert len({run.mixture for run in history}) == 2 == history.n_asked
